"""What differs between two lists of rows, by id: none of it read from anywhere, all of it on arrays.

A row is a key and one thing that is said of it, its label or the reason of its quarantine. A key may occur more than
once; each row is matched with one of the other list at most.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Rows:
    """Keys of N rows, and what is said of each as its number among `names`."""

    keys: np.ndarray  # (N,) of KEY
    said: np.ndarray  # (N,) int64
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)


class Difference(NamedTuple):
    """Positions of rows: `added` in the new list, `removed` in the old, `changed` in both, pair by pair."""

    added: np.ndarray
    removed: np.ndarray
    changed: tuple[np.ndarray, np.ndarray]


def compare(old: Rows, new: Rows) -> Difference:
    """Rows with equal key and equal word are the same; of the others, those with equal key have changed."""
    _, key = np.unique(np.concatenate([old.keys, new.keys]), return_inverse=True)
    number = {name: number for number, name in enumerate(dict.fromkeys([*old.names, *new.names]))}
    said = [np.array([number[name] for name in rows.names], np.int64)[rows.said] for rows in (old, new)]
    both = key * (len(number) + 1) + np.concatenate(said)
    same_old, same_new = pairs(both[: len(old)], both[len(old) :])
    left_old, left_new = without(np.arange(len(old)), same_old), without(np.arange(len(new)), same_new)
    one, other = pairs(key[left_old], key[len(old) + left_new])
    return Difference(without(left_new, other), without(left_old, one), (left_old[one], left_new[other]))


def pairs(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of equal values, each position once: the first 7 here belongs to the first 7 there, and so on."""
    base = len(one) + len(other) + 1
    found = np.intersect1d(numbered(one, base), numbered(other, base), assume_unique=True, return_indices=True)
    return found[1], found[2]


def numbered(values: np.ndarray, base: int) -> np.ndarray:
    """Each of `values`, times `base`, plus how many equal ones stand before it: no two are equal any more."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    before = np.empty(len(values), np.int64)
    before[order] = np.arange(len(values)) - np.searchsorted(ordered, ordered)
    return values * base + before


def without(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    return np.delete(values, positions)
