"""The simplest generators there are. What a model scores above its modality's one is what training gave.

Shapes: N training examples, M samples, S the shape of an example as its modality batches it.
"""

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

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


def gaussian(training: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """`count` draws (M, *S) from the Gaussian with mean and covariance of `training` (N, *S).

    A random mixture of the centred examples over √(N − 1) has exactly their covariance, singular or not, so none has
    to be computed or factored.
    """
    fitted = training.double()
    mean = fitted.mean(0)
    weights = torch.from_numpy(rng.standard_normal((count, len(fitted)))) / max(len(fitted) - 1, 1) ** 0.5
    drawn: Tensor = mean + torch.tensordot(weights, fitted - mean, 1)
    return drawn
