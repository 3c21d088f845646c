"""What an example is, one file a modality: how it is stored, checked, batched, scored, drawn and written.

The stages, the training loop, tracking and the flows ask the modality and never say what an example is. A file offers:

- CONTENT: str, the column that holds the example in shards, arrays and batches
- FIELDS: its columns in a shard, as pyarrow fields
- EXTENSION: str, what a written sample's file is called
- Preparing, Augmentation: settings classes, for `augment.prepare` and `augment.augmentation`
- encode(example) -> columns of a shard; decode(columns) -> the example as an array, ValueError when it is broken
- decoded(example) -> what decode(encode(example)) is, found sooner, or None; this and encode only where sources may
  give arrays
- describe(columns) -> the example's measurements, by name, for the manifest; must not raise: a broken example has
  `error`. Where it has `thumbnail`, a 9×9 picture of grey levels (uint8), near duplicates are found by it
- MEASUREMENTS: their types, as pyarrow fields; the rules of suites/<modality>.yaml are about these columns and those
  that every manifest has (genpipe/data/manifest.py)
- prepare(example, preparing) -> array of the stored shape; how it resizes, RESIZE says for the metric cards
- to_batch(stored) -> what models are trained on, to_stored(samples) -> back, rounded; tensors on any device;
  how, ROUNDING says, and ROUNDING_LEVELS how far apart the same sample may lie on two machines
- augment(batch, augmentation) -> batch, randomly changed on its device
- evaluator(shape, classes) -> module with `features(batch) -> (B, D)` and `classify(features) -> (B, classes)` logits
- where there is one, a task for data without labels: pretext(batch, targets) -> batch (or stored examples), each
  changed as its target asks; targets are whole numbers below PRETEXT_CLASSES; PRETEXT says what a network fitted to
  them does
- where there is one, pretrained(weights, classes) -> a network as `evaluator` with given weights, for
  `calibrate.extractor`
- baseline(training, count, rng) -> stored examples of the simplest generator, which BASELINE describes
- picture(examples, columns) -> one PIL image that shows stored examples in rows of `columns`
- write(examples, folder) -> the files written, one an example
"""

from types import ModuleType

from genpipe import plugins


def load(modality: str) -> ModuleType:
    """The file of a modality. Raises plugins.UnknownPluginError."""
    return plugins.load(__name__, modality)
