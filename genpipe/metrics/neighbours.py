"""How two sets of features overlap, judged by balls around each example that reach its k-th neighbour in its own set.

Precision and recall: Kynkäänniemi et al. 2019 (arXiv 1904.06991), equations 1 to 3. Density and coverage: Naeem et al.
2020 (arXiv 2002.09797), equations 7 and 8. Shapes: N real examples, M samples, D features.
"""

from typing import NamedTuple

import numpy as np

VERSION = 1  # raised when its numbers change


class Overlap(NamedTuple):
    precision: float  # samples in the ball of any real example
    recall: float  # real examples in the ball of any sample
    density: float  # real balls that a sample lies in, over k; about 1 for equal distributions, may exceed it
    coverage: float  # real examples whose ball holds a sample


def overlap(real: np.ndarray, samples: np.ndarray, k: int = 5) -> Overlap:
    """The four scores of (M, D) samples against (N, D) real features.

    Precision and recall stay well below 1 even for equal distributions (0.48 for 10,000 normal points in 1,000
    dimensions), so they mean little without the floor of real data. Raises ValueError for sets of k examples or fewer.
    """
    from sklearn.metrics import pairwise_distances_chunked  # a second, which naming settings should not cost

    if min(len(real), len(samples)) <= k:
        raise ValueError(f"{len(real)} real examples and {len(samples)} samples; more than k = {k} of each are needed")
    real, samples = np.asarray(real, np.float64), np.asarray(samples, np.float64)
    real_radius, sample_radius = radii(real, k), radii(samples, k)
    holders = np.zeros(len(samples), np.int64)  # of each sample: in how many real balls it lies
    recalled, covered, start = 0, 0, 0
    for distance in pairwise_distances_chunked(real, samples):  # (rows of real, M), as many rows as fit in memory
        inside_real = distance <= real_radius[start : start + len(distance), None]
        holders += inside_real.sum(0)
        covered += int(inside_real.any(1).sum())
        recalled += int((distance <= sample_radius).any(1).sum())
        start += len(distance)
    return Overlap(
        precision=float((holders > 0).mean()),
        recall=recalled / len(real),
        density=float(holders.mean() / k),
        coverage=covered / len(real),
    )


def radii(features: np.ndarray, k: int) -> np.ndarray:
    """(N,) distance of each example to its k-th neighbour, itself not counted."""
    from sklearn.neighbors import NearestNeighbors

    distances, _ = NearestNeighbors(n_neighbors=k).fit(features).kneighbors()
    radius: np.ndarray = distances[:, -1]
    return radius
