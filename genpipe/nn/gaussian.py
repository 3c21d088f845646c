"""A Gaussian fitted to tensors: the simplest generator of anything that is batched as real numbers."""

import numpy as np
import torch
from torch import Tensor


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
