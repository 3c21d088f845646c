"""Kernel distance between two sets of features: Bińkowski et al. 2018 (arXiv 1801.01401), section 4 ("KID").

Shapes: N, M examples, D features.
"""

import numpy as np

VERSION = 1  # raised when its numbers change


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy of (N, D) and (M, D), kernel (x·y / D + 1)³.

    0 on average for independent sets of equal distribution, at any count: so single values may be negative. At least
    two examples each.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return between_pairs(first) + between_pairs(second) - 2 * float(kernel(first, second).mean())


def kernel_distance_by_label(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes of the distance within each, for (N, D) and (N, D) that carry the same `labels` (N,).

    Sets of equal labels are not independent, and the distance of the whole sets would be biased downwards; within a
    class they are. Classes with a single example are left out; ValueError when no other is there.
    """
    classes, counts = np.unique(labels, return_counts=True)
    rows = [labels == label for label in classes[counts > 1]]
    if not rows:
        raise ValueError("every class has a single example; at least one class needs two")
    return float(np.mean([kernel_distance(first[found], second[found]) for found in rows]))


def between_pairs(features: np.ndarray) -> float:
    """Mean kernel over all pairs of different examples."""
    count, values = len(features), kernel(features, features)
    return float((values.sum() - np.trace(values)) / (count * (count - 1)))


def kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    values: np.ndarray = (first @ second.T / first.shape[1] + 1) ** 3
    return values
