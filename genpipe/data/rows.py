"""Rows of a source on their way into shards: identified, encoded, a few hundred at a time."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from genpipe import modalities
from genpipe.data.arrays import SPLITS
from genpipe.data.stamps import Stamps
from genpipe.errors import DataError

Row = dict[str, Any]

STAMP = "stamp"  # a column on the way from a worker, in no shard
CHUNK_ROWS = 256
CHUNK_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Later:
    """A content that is read where it is decoded, which pickle must carry; known by its stamp it is not read at all."""

    read: Callable[[], Any]
    stamp: str  # another one whenever the content may be another
    size: int  # in bytes


class Chunk(NamedTuple):
    """Some rows, each with its id, or with None where it has to be decoded first."""

    rows: Sequence[Row]
    ids: Sequence[str | None]


def chunks(rows: Iterable[Row], modality: ModuleType, stamps: Stamps | None = None) -> Iterator[Chunk]:
    """The rows, so many at once that sending them to a worker is worth it, and no more than memory takes."""
    waiting, size = list[Row](), 0
    for row in rows:
        waiting.append(row)
        size += size_of(row[modality.CONTENT])
        if len(waiting) == CHUNK_ROWS or size >= CHUNK_BYTES:
            yield Chunk(waiting, quick_ids(waiting, modality, stamps))
            waiting, size = [], 0
    if waiting:
        yield Chunk(waiting, quick_ids(waiting, modality, stamps))


def size_of(content: Any) -> int:
    if isinstance(content, Later):
        return content.size
    if isinstance(content, Mapping):
        return sum(size_of(part) for part in content.values() if isinstance(part, bytes))
    return content.nbytes if isinstance(content, np.ndarray) else len(content)


def quick_ids(rows: Sequence[Row], modality: ModuleType, stamps: Stamps | None) -> list[str | None]:
    """The ids that are known before any content is read and decoded."""
    contents = [row[modality.CONTENT] for row in rows]
    later = [content.stamp for content in contents if isinstance(content, Later)]
    known = iter(stamps.find(later) if stamps else [None] * len(later))
    return [
        next(known) if isinstance(content, Later) else quick_id(row, modality)
        for row, content in zip(rows, contents, strict=True)
    ]


def quick_id(row: Row, modality: ModuleType) -> str | None:
    """The id of a row that a source gives as an array, which need not be encoded and decoded again for it."""
    content = row[modality.CONTENT]
    example = modality.decoded(content) if isinstance(content, np.ndarray) else None
    return None if example is None else digest(example)


def tabulate(kind: str, schema: pa.Schema, chunk: Chunk) -> pa.Table:
    """The chunk as a shard holds it: read, encoded, each row with its id; and its STAMP, if any has one.

    Raises DataError for a split that is none.
    """
    modality, found = modalities.load(kind), []
    for given, known in zip(*chunk, strict=True):
        content = given[modality.CONTENT]
        late = isinstance(content, Later)
        row = {**given, modality.CONTENT: content.read(), STAMP: content.stamp} if late else encoded(given, modality)
        if row.get("split") not in (None, *SPLITS):
            raise DataError(f"the source gives the split '{row['split']}'; known splits: {', '.join(SPLITS)}")
        found.append({**row, "id": known or identify(row, modality)})
    stamped = any(STAMP in row for row in found)
    return pa.Table.from_pylist(found, schema.append(pa.field(STAMP, pa.string())) if stamped else schema)


def encoded(row: Row, modality: ModuleType) -> Row:
    """The row as a shard holds it."""
    content = row[modality.CONTENT]
    return {**row, **modality.encode(content)} if isinstance(content, np.ndarray) else row


def identify(row: Mapping[str, Any], modality: ModuleType) -> str:
    """32 hexadecimal digits: SHA-256 over the decoded array's type, shape and bytes, or over a broken row's bytes.

    Where there are no bytes either, it is over all that the content says, such as the path of the file that is absent.
    """
    try:
        return digest(modality.decode(row))
    except ValueError:
        content = row[modality.CONTENT]
        given = content.get("bytes") if isinstance(content, Mapping) else None
        return hashlib.sha256(repr(content).encode() if given is None else given).hexdigest()[:32]


def digest(example: np.ndarray) -> str:
    header = f"{example.dtype.str}{example.shape}".encode()
    return hashlib.sha256(header + example.tobytes()).hexdigest()[:32]


def shard_sized(tables: Iterable[pa.Table], most_rows: int, most_bytes: int) -> Iterator[pa.Table]:
    """The same rows in tables of `most_rows`, or of fewer that take about `most_bytes`; the last may be small."""
    waiting = list[pa.Table]()
    for table in tables:
        waiting.append(table)
        rows = sum(part.num_rows for part in waiting)
        if rows >= most_rows:
            whole = pa.concat_tables(waiting)
            yield whole[:most_rows].combine_chunks()
            waiting = [whole[most_rows:]] if rows > most_rows else []
        elif sum(part.nbytes for part in waiting) >= most_bytes:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()
