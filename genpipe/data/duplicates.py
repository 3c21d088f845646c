"""Rows with the same content, and rows that look nearly the same. A few bytes a row in memory, whatever their number.

Near duplicates are those whose difference hashes (128 bits: is a pixel of a 9×9 thumbnail brighter than its neighbour?)
differ in at most 3 bits. Of four bands of 32 bits such a pair shares at least one, so that it meets when the rows are
sorted by that band. N. Krawetz: Kind of Like That, 2013; G. S. Manku et al.: Detecting Near-Duplicates for Web
Crawling, 2007, section 3.
"""

from collections.abc import Sequence

import numpy as np

NONE = -1
THUMBNAIL = 9  # pixels of its side
BITS_APART = 3
# A neighbour is brighter by more than this many of 256 levels: noise and re-encoding turn fewer bits of flat areas.
MARGIN = 3
# A picture with fewer edges says too little to be held against another.
EDGES = 8
# How many of its neighbours a row is compared with, sorted by a band: bounds the time where thousands share a band.
REACH = 32


def difference_hash(thumbnails: np.ndarray) -> np.ndarray:
    """uint8 (N, 9, 9) → uint64 (N, 2): a bit for each of 8×8 steps to the right, and for each of 8×8 down."""
    levels = thumbnails.astype(np.int16)
    right = levels[:, :-1, 1:] - levels[:, :-1, :-1] > MARGIN
    down = levels[:, 1:, :-1] - levels[:, :-1, :-1] > MARGIN
    bits = np.stack([right, down], axis=-1).reshape(len(levels), 128)  # so that each half holds steps of both kinds
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64)


def of_hexadecimal(ids: Sequence[str]) -> np.ndarray:
    """Ids of 32 hexadecimal digits as 16 bytes each, (N, 2) uint64."""
    return np.frombuffer(bytes.fromhex("".join(ids)), ">u8").astype(np.uint64).reshape(-1, 2)


def same(content: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """For each row of `content`, uint64 (N, 2), the row that holds the same and is kept; NONE for those that are kept.

    Of equal rows the first usable one is kept, so that a row with a wrong label takes no right one along; where none is
    usable, the first.
    """
    order = np.lexsort((np.arange(len(content)), ~usable, content[:, 1], content[:, 0]))
    ordered = content[order]
    first = np.ones(len(order), bool)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    keeper = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
    found = np.full(len(content), NONE, np.int64)
    found[order] = np.where(first, NONE, keeper)
    return found


def near(hashes: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """For each usable row an earlier usable one whose hash, uint64 (N, 2), differs in at most 3 bits; else NONE."""
    rows = np.flatnonzero(usable & (np.bitwise_count(hashes).sum(axis=1) >= EDGES))
    hashes = hashes[rows]
    earliest = np.arange(len(rows))
    for band in bands(hashes):
        order = np.lexsort((hashes[:, 1], hashes[:, 0], band))
        for reach in range(1, REACH + 1):
            one, other = order[:-reach], order[reach:]
            shared = band[one] == band[other]
            if not shared.any():
                break
            one, other = one[shared], other[shared]
            close = np.bitwise_count(hashes[one] ^ hashes[other]).sum(axis=1) <= BITS_APART
            early, late = np.minimum(one, other)[close], np.maximum(one, other)[close]
            np.minimum.at(earliest, late, early)
    found = np.full(len(usable), NONE, np.int64)
    has = earliest < np.arange(len(rows))
    found[rows[has]] = rows[earliest[has]]
    return found


def bands(hashes: np.ndarray) -> list[np.ndarray]:
    """The 128 bits in four parts of 32, uint32 (N,) each."""
    mask = np.uint64(0xFFFFFFFF)
    return [(hashes[:, half] >> np.uint64(shift) & mask).astype(np.uint32) for half in (0, 1) for shift in (0, 32)]
