"""Where raw data come from, one file a source; `ingest.source` names it.

A file offers `Config` (its settings) and four functions of a config and the project's root, from which relative paths
are meant:

- modality(config) -> the name of the modality, without looking at any data
- describe(config, root) -> what dataset.yaml says of the data, as `Dataset`
- fingerprint(config, root) -> a short text, quickly found, that changes when the rows may have changed
- rows(config, root) -> one example after another, as mappings: the modality's content (columns as a shard holds them,
  an array that its `encode` turns into them, or such columns read `Later`), `label` where there are classes, and the
  columns that `describe` names

One that fetches its rows offers two more, so that nothing is fetched to find out what a run would cost:

- at_hand(config, root) -> whether the rows are here already
- expected(config) -> the Dataset, how many rows it has and the shape of an example, where that is known without them

A file that begins with `_` is no source, but holds what several share.
"""

HINT = "; published data sets are named so: {kind: catalogue, name: mnist}"
