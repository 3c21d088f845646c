"""Where raw data come from, one file a source; `ingest.source` names it.

A file offers `Config` (its settings), `DATASET` (what dataset.yaml says of it) and `rows(config)`, which yields the
columns of one example after another as shards hold them: the modality's columns and, where there are labels, `label`.
`fingerprint(config)` is a short text, quickly found, that changes when the rows may have changed.
"""
