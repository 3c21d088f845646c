"""Does the model repeat its training data? Distances of samples to the nearest training example, against the same for
held-out data, which can't have been copied (the comparison of Meehan et al. 2020, arXiv 2004.05675, by quantiles).

Shapes: N examples, D features.
"""

from typing import NamedTuple

import numpy as np

VERSION = 1  # raised when its numbers change
ROUNDING = 1e-4  # of the usual distance: so far apart may the features of equal examples lie, by their last bits


class Memorisation(NamedTuple):
    nearest_ratio: float  # median distance of samples over that of held-out data; 1 is as it should be
    near_copies: float  # share of samples within the 1st percentile of held-out distances; 0.01 is as it should be


class Nearest:
    """Finds nearest training examples; the training features (N, D) are indexed once."""

    def __init__(self, training: np.ndarray) -> None:
        from sklearn.neighbors import NearestNeighbors  # a second, which naming settings should not cost

        self._index = NearestNeighbors(n_neighbors=1).fit(np.asarray(training, np.float64))

    def __call__(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each of (M, D): the distance to its nearest training example and that example's row, both (M,)."""
        distances, rows = self._index.kneighbors(np.asarray(features, np.float64))
        return distances[:, 0], rows[:, 0]


def memorisation(samples: np.ndarray, held_out: np.ndarray) -> Memorisation:
    """Compares two sets of distances to nearest training examples, (M,) and (N,).

    A few copies of training examples among the held-out data make the 1st percentile 0, so distances equal to it count,
    in the held-out data too, whose `near_copies` are the floor. Raises ValueError when half of the held-out data are
    copies of training examples, as nothing can be said then.
    """
    middle = float(np.median(held_out))
    if middle == 0:
        raise ValueError("half of the held-out data are copies of training examples")
    near = max(float(np.percentile(held_out, 1)), ROUNDING * middle)
    return Memorisation(
        nearest_ratio=float(np.median(samples)) / middle,
        near_copies=float((samples <= near).mean()),
    )
