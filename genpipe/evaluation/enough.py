"""Whether there are held-out examples enough for the scores: asked before a training, not after it."""

from genpipe.data.arrays import Arrays, DataSpec
from genpipe.project import Project


def refuse_too_few(project: Project) -> None:
    """Raises DataError where `evaluate` would have to. Settings of other stages are read here to refuse, no more."""
    from genpipe.nn import classifier, inception
    from genpipe.stages import calibrate, evaluate

    augmented, cfg = project.artifacts / "augment", project.section("evaluate", evaluate.Config)
    held_out, training = (min(Arrays(augmented / split).rows, cfg.most_real) for split in ("test", "train"))
    extractor = project.section("calibrate", calibrate.Config).extractor
    features = inception.FEATURES if extractor == "inception" else classifier.FEATURES
    evaluate.enough(cfg, held_out, training, len(DataSpec.read(augmented / "meta.json").classes), features)
