"""Flows: the order of tasks and the decisions between them."""
