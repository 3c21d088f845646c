"""Intervals from repetition: a score is taken on several fresh draws of samples and of held-out data.

Not a bootstrap: resampling with replacement puts copies into a set, which pulls distances between sets, and all that
counts neighbours, away from the value on fresh data (Fréchet distance grows, every copy is its own neighbour).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

INTERVAL = (5, 95)  # percentiles of the draws


class Summary(NamedTuple):
    """Mean over the draws, and the range that holds the middle 90 % of them."""

    value: float
    low: float
    high: float


def summary(values: Sequence[float]) -> Summary:
    low, high = np.percentile(values, INTERVAL)
    return Summary(float(np.mean(values)), float(low), float(high))


def summaries(draws: Sequence[Mapping[str, float]]) -> dict[str, Summary]:
    """One summary a score; every draw has the same scores."""
    return {name: summary([draw[name] for draw in draws]) for name in draws[0]}


def subsample(rows: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) different rows of `rows`, in rising order."""
    return np.sort(rng.choice(rows, count, replace=False))


def matching(labels: np.ndarray, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(M,) different rows of `labels` (N,) that carry the labels `wanted` (M,), in that order.

    Raises ValueError when a class has fewer rows than are wanted.
    """
    rows = np.empty(len(wanted), np.int64)
    for label in np.unique(wanted):
        places, found = np.flatnonzero(wanted == label), np.flatnonzero(labels == label)
        rows[places] = rng.choice(found, len(places), replace=False)
    return rows
