"""Ids of files by their stamps, as they were when last decoded: a folder that grew costs the files that were added.

A stamp is path, size and time of change. What is remembered here can be lost at any time; files are then decoded again.
"""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from genpipe.data import cache
from genpipe.data.keys import KEY, packed, spelt


class Stamps:
    """`depends` says what an id depends on beside the file: the code that decodes."""

    def __init__(self, folder: Path, depends: str) -> None:
        self.folder, self.key = folder, hashlib.sha256(depends.encode()).hexdigest()[:32]
        entry = cache.entry_of(folder, self.key)
        known = np.load(entry, allow_pickle=False) if entry else np.empty((0, 2), KEY)
        self.stamps, self.ids = known[:, 0].copy(), known[:, 1].copy()  # sorted by stamp
        self.seen = [np.empty((0, 2), KEY)]

    def find(self, stamps: Sequence[str]) -> list[str | None]:
        """The id that belongs to each; None for those that are new."""
        asked = digests(stamps)
        if not len(self.stamps) or not len(asked):
            return [None] * len(asked)
        places = np.searchsorted(self.stamps, asked).clip(max=len(self.stamps) - 1)
        found = self.stamps[places] == asked
        self.seen.append(np.stack([asked[found], self.ids[places[found]]], axis=1))
        ids = iter(spelt(self.ids[places[found]]))
        return [next(ids) if there else None for there in found]

    def note(self, stamps: Sequence[str], ids: Sequence[str]) -> None:
        """What was found out about new ones."""
        self.seen.append(np.stack([digests(stamps), packed(ids)], axis=1))

    def keep(self) -> None:
        """Remember what was seen since this object was made, and nothing older."""
        seen = np.concatenate(self.seen)
        seen = seen[np.unique(seen[:, 0], return_index=True)[1]]
        kept = cache.put(self.folder, self.key, partial(write, seen))
        for stale in set(self.folder.iterdir()) - {kept}:
            stale.unlink()


def digests(stamps: Sequence[str]) -> np.ndarray:
    """(N,) of KEY."""
    return np.frombuffer(b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in stamps), KEY)


def write(values: np.ndarray, file: Path) -> None:
    with file.open("wb") as handle:
        np.save(handle, values, allow_pickle=False)
