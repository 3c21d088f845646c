"""The simplest generator of a modality. What a model scores above it is what training gave.

Shapes: N training examples, M samples.
"""

from types import ModuleType

import numpy as np

MOST = 4096  # training examples that one baseline is fitted to


def draw(training: np.ndarray, count: int, modality: ModuleType, rng: np.random.Generator) -> np.ndarray:
    """`count` examples of the modality's baseline, fitted to `training`; both as stored."""
    drawn: np.ndarray = modality.baseline(np.array(training[:MOST]), count, rng)
    return drawn


def draw_by_class(
    training: np.ndarray, labels: np.ndarray, wanted: np.ndarray, modality: ModuleType, rng: np.random.Generator
) -> np.ndarray:
    """The same with a baseline for each class: draws that carry the labels `wanted` (M,)."""
    drawn = np.empty((len(wanted), *training.shape[1:]), training.dtype)
    for label in np.unique(wanted):
        of_class = training[np.flatnonzero(labels == label)[:MOST]]
        drawn[wanted == label] = draw(of_class, int((wanted == label).sum()), modality, rng)
    return drawn
