"""The simplest generator there is: a Gaussian. What a model scores above it is what training gave.

Shapes: N training examples, M samples, S the shape of an example as its modality batches it.
"""

from types import ModuleType

import numpy as np
import torch

MOST = 4096  # training examples that one Gaussian is fitted to


def gaussian(training: np.ndarray, count: int, modality: ModuleType, rng: np.random.Generator) -> np.ndarray:
    """`count` draws from the Gaussian with mean and covariance of `training`, both as stored; fitted to (N, *S).

    A random mixture of the centred examples over √(N − 1) has exactly their covariance, singular or not, so none has
    to be computed or factored.
    """
    fitted = modality.to_batch(torch.from_numpy(np.array(training[:MOST]))).double()
    mean = fitted.mean(0)
    weights = torch.from_numpy(rng.standard_normal((count, len(fitted)))) / max(len(fitted) - 1, 1) ** 0.5
    drawn: np.ndarray = modality.to_stored(mean + torch.tensordot(weights, fitted - mean, 1)).numpy()
    return drawn


def gaussian_by_class(
    training: np.ndarray, labels: np.ndarray, wanted: np.ndarray, modality: ModuleType, rng: np.random.Generator
) -> np.ndarray:
    """The same with a Gaussian for each class: draws that carry the labels `wanted` (M,)."""
    drawn = np.empty((len(wanted), *training.shape[1:]), training.dtype)
    for label in np.unique(wanted):
        of_class = training[np.flatnonzero(labels == label)[:MOST]]
        drawn[wanted == label] = gaussian(of_class, int((wanted == label).sum()), modality, rng)
    return drawn
