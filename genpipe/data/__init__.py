"""Data at rest: the raw shards of a dataset, and the arrays that training reads."""
