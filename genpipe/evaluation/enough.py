"""Whether there are held-out examples enough for the scores: asked before a training, not after it."""

from collections.abc import Mapping

from genpipe.data.arrays import Arrays, DataSpec
from genpipe.errors import DataError, TooFewError
from genpipe.project import Project


def refuse_too_few(project: Project) -> None:
    """Raises TooFewError where `evaluate` would have to stop."""
    augmented = project.artifacts / "augment"
    counts = {split: Arrays(augmented / split).rows for split in ("train", "test")}
    refuse(project, counts, len(DataSpec.read(augmented / "meta.json").classes))


def refuse(project: Project, counts: Mapping[str, int], classes: int) -> None:
    """The same of so many rows by split, also of rows that are only expected. Other stages' settings are read for it,
    to refuse and no more.
    """
    from genpipe.nn import classifier, inception
    from genpipe.stages import calibrate, evaluate

    cfg = project.section("evaluate", evaluate.Config)
    held_out, training = (min(counts[split], cfg.most_real) for split in ("test", "train"))
    extractor = project.section("calibrate", calibrate.Config).extractor
    features = inception.FEATURES if extractor == "inception" else classifier.FEATURES
    try:
        evaluate.enough(cfg, held_out, training, classes, features)
    except DataError as error:
        raise TooFewError(str(error)) from None
