"""The rows that a dataset holds, by key, 32 bytes each, and which rows of a source are among them.

A key is a row's id and a digest of what is said of it: its label and its caption. A source's row matches a held one
with the same key, each held row once. A held row that is left over while the source gives its content with another
label or caption is superseded: it has been relabelled.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from genpipe.data.arrays import SPLITS
from genpipe.data.keys import KEY, packed

SAID = ("label", "text")
MARKED = np.dtype("V24")  # an id and a mark


def keys_of(ids: Sequence[str], said: Iterable[Iterable[Any]]) -> np.ndarray:
    """(N,) of MARKED for N ids and what is said of each, such as `[(3, "a dog"), …]`."""
    marks = [hashlib.blake2b("\0".join(map(str, words)).encode(), digest_size=8).digest() for words in said]
    halves = packed(ids).view(np.uint8).reshape(-1, 16), np.frombuffer(b"".join(marks), np.uint8).reshape(-1, 8)
    return np.concatenate(halves, axis=1).view(MARKED).ravel()


def keys_in(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    """(N,) of MARKED for the rows of a table; `names` are those of SAID that count."""
    absent = [None] * table.num_rows
    columns = [table[name].to_pylist() if name in table.column_names else absent for name in names]
    said = zip(*columns, strict=True) if columns else [()] * table.num_rows
    return keys_of(table["id"].to_pylist(), said)


def ids_in(keys: np.ndarray) -> np.ndarray:
    """(N,) of MARKED → (N,) of KEY."""
    return np.ascontiguousarray(keys.view(np.uint8).reshape(-1, MARKED.itemsize)[:, : KEY.itemsize]).view(KEY).ravel()


class Held:
    """A multiset of keys, sorted, from which rows of a source are crossed off."""

    def __init__(self, keys: np.ndarray) -> None:
        self.keys, self.left = np.unique(keys, return_counts=True)

    def __len__(self) -> int:
        """How many different keys there are."""
        return len(self.keys)

    def take(self, keys: np.ndarray) -> np.ndarray:
        """Which of `keys` are held, as booleans; they are crossed off."""
        if not len(self.keys) or not len(keys):
            return np.zeros(len(keys), bool)
        asked, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
        places = np.searchsorted(self.keys, asked).clip(max=len(self.keys) - 1)
        found = self.keys[places] == asked
        there = np.where(found, self.left[places], 0)
        self.left[places[found]] -= np.minimum(there, counts)[found]
        return before(which) < there[which]

    def superseded(self, ids: np.ndarray) -> np.ndarray:
        """Keys that are left over while rows with the same content are new: at most one for each of these `ids`."""
        left = np.repeat(self.keys, self.left)
        asked, counts = np.unique(ids, return_counts=True)
        if not len(left) or not len(asked):
            return left[:0]
        own, which = np.unique(ids_in(left), return_inverse=True)
        places = np.searchsorted(asked, own).clip(max=len(asked) - 1)
        wanted = np.where(asked[places] == own, counts[places], 0)
        return left[before(which) < wanted[which]]


class Splits:
    """In which split each content is held, for a content stays in the split that it first was in."""

    def __init__(self, shards: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        keys, splits = (np.concatenate(parts) for parts in zip(*shards, strict=True))
        self.keys, first = np.unique(keys, return_index=True)
        self.splits = splits[first]

    def keep(self, keys: np.ndarray, splits: np.ndarray) -> list[str | None]:
        """The splits of new rows, (N,) of KEY and (N,): that of the held row with the same content, if there is one."""
        places = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        kept = np.where(self.keys[places] == keys, self.splits[places], splits)
        return [(None, *SPLITS)[number] for number in kept]


def splits_in(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """(N,) of KEY for the rows of a table, and (N,) uint8: 0 for no split, then as in SPLITS."""
    given = table["split"].to_pylist() if "split" in table.column_names else [None] * table.num_rows
    return packed(table["id"].to_pylist()), np.array([(None, *SPLITS).index(name) for name in given], np.uint8)


def before(values: np.ndarray) -> np.ndarray:
    """For each of N numbers, how many equal ones stand before it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    found = np.empty(len(values), np.int64)
    found[order] = np.arange(len(values)) - np.searchsorted(ordered, ordered)
    return found
