"""Label agreement: do conditional samples show the class that was asked for? (Ravuri & Vinyals 2019 ask the converse,
arXiv 1905.10887: can a classifier learn from the samples?) The answer is as good as the evaluator, whose share on
held-out data is the floor. A high share with low coverage is a model that draws the same few examples of a class.
"""

import numpy as np

VERSION = 1  # raised when its numbers change


def label_agreement(asked: np.ndarray, seen: np.ndarray) -> float:
    """Share of (N,) labels `asked` for that are those `seen` by the evaluator."""
    return float((asked == seen).mean())
