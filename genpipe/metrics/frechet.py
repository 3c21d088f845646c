"""Fréchet distance between two sets of features: Heusel et al. 2017 (arXiv 1706.08500), equation 6.

Shapes: N, M examples, D features.
"""

import numpy as np

VERSION = 1  # raised when its numbers change


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """‖μ₁ − μ₂‖² + Tr(C₁ + C₂ − 2 (C₁C₂)^½) of (N, D) and (M, D); 0 for equal moments, no upper limit.

    With centred features QᵢRᵢ, Cᵢ = RᵢᵀRᵢ, so the eigenvalues of (C₁C₂)^½ are the singular values of R₁R₂ᵀ: real and
    not negative whatever the rounding, where a matrix square root turns complex. Biased upwards, more so for smaller
    sets: compare equal counts only. Raises ValueError below `fewest(D)` examples.
    """
    for features in (first, second):
        if len(features) < fewest(features.shape[1]):
            needed = fewest(features.shape[1])
            raise ValueError(f"{len(features)} examples of {features.shape[1]} features; at least {needed} are needed")
    (mean_1, root_1), (mean_2, root_2) = moments(first), moments(second)
    shared = np.linalg.svd(root_1 @ root_2.T, compute_uv=False).sum()
    apart = np.square(mean_1 - mean_2).sum() + np.square(root_1).sum() + np.square(root_2).sum() - 2 * shared
    return max(0.0, float(apart))


def fewest(features: int) -> int:
    """Below this a covariance can't have full rank, and the distance says more about the count than about the data."""
    return features + 1


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean (D,) and an R (D, D) with RᵀR = the unbiased covariance."""
    features = np.asarray(features, np.float64)
    mean = features.mean(0)
    return mean, np.linalg.qr(features - mean, mode="r") / np.sqrt(len(features) - 1)
