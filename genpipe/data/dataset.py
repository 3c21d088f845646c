"""A raw dataset: Parquet shards with the columns that Hugging Face `datasets` uses, and dataset.yaml beside them.

A shard is never changed: new rows become new shards, and `remove` puts a new shard in place of one that held a row to
be removed. dataset.yaml names the shards that count, so that replacing it changes the dataset as a whole. A row's `id`
is a digest of its decoded content, so that it does not change with the encoder; the dataset's digest is over the ids
and labels of all rows, in order.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from genpipe import modalities
from genpipe.errors import DataError
from genpipe.files import written_aside

FORMAT = 1
ROWS_A_SHARD = 10_000
# `split` is the one that the publisher put the row into (train, validation or test), `text` its caption.
OPTIONAL = ("split", "text")
Row = dict[str, Any]


@dataclass(frozen=True)
class Dataset:
    """What dataset.yaml says, apart from counts."""

    name: str
    modality: str
    licence: str
    citation: str
    source: str
    classes: tuple[str, ...] = ()  # names of the labels 0, 1, …; none when unlabelled
    columns: tuple[str, ...] = ()  # which of OPTIONAL its rows have too


@dataclass(frozen=True)
class Stored:
    """A dataset on disk."""

    folder: Path
    about: Dataset
    rows: int
    shards: tuple[Path, ...]
    digest: str
    removed: tuple[str, ...] = ()  # ids that were taken out and are never taken in again

    @classmethod
    def find(cls, data: Path) -> "Stored":
        """The one dataset in `data`. Raises DataError when there is none or more than one."""
        found = sorted(data.glob("*/dataset.yaml"))
        if len(found) != 1:
            names = ", ".join(file.parent.name for file in found) or "none"
            raise DataError(
                f"{data} must hold one dataset and holds {names}; `genpipe stage ingest` brings the one that "
                "ingest.source names (params.yaml), `dvc pull` the one that data.dvc names"
            )
        return cls.read(found[0].parent)

    @classmethod
    def read(cls, folder: Path) -> "Stored":
        content = yaml.safe_load((folder / "dataset.yaml").read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise DataError(f"{folder / 'dataset.yaml'} is not of format {FORMAT}; ingest again with this genpipe")
        rows, digest, removed = content.pop("rows"), content.pop("digest"), tuple(content.pop("removed", ()))
        numbers = content.pop("shards")  # or how many there are, where they are 0, 1, …
        numbers = range(numbers) if isinstance(numbers, int) else numbers
        lists = {key: tuple(value) for key, value in content.items() if isinstance(value, list)}
        shards = tuple(shard_file(folder, number) for number in numbers)
        return cls(folder, Dataset(**{**content, **lists}), rows, shards, digest, removed)

    def read_rows(self, columns: list[str] | None = None) -> Iterator[Row]:
        """Row after row, in order, at most 1,000 in memory."""
        for shard in self.shards:
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(batch_size=1_000, columns=columns):
                    yield from batch.to_pylist()


def add(data: Path, about: Dataset, rows: Iterable[Row]) -> tuple[Stored, int]:
    """Append those of `rows` that data/<name>/ does not hold yet; return the dataset and how many were added.

    Unchanged rows leave every file untouched; new rows become new shards. Raises DataError for an empty source and
    when `data` already holds another dataset.
    """
    others = [file.parent.name for file in data.glob("*/dataset.yaml") if file.parent.name != about.name]
    if others:
        raise DataError(
            f"ingest.source is '{about.name}', but {data} holds {', '.join(others)}; a project has one dataset: "
            "change it back (params.yaml), or remove the old one (`dvc remove data.dvc`, then the folder)"
        )
    folder, modality = data / about.name, modalities.load(about.modality)
    stored = Stored.read(folder) if (folder / "dataset.yaml").exists() else None
    keys = [(row["id"], row.get("label")) for row in stored.read_rows(key_columns(about))] if stored else []
    kept, shards, removed = len(keys), (stored.shards if stored else ()), (stored.removed if stored else ())
    wanted = (row for row in identified(rows, modality) if row["id"] not in set(removed))
    fresh = new_rows(wanted, Counter(keys), keys)
    while chunk := list(islice(fresh, ROWS_A_SHARD)):
        shard = next_shard(folder, shards)
        with written_aside(shard) as aside:
            pq.write_table(pa.Table.from_pylist(chunk, schema(modality, about)), aside, compression="zstd")
        shards = (*shards, shard)
    if not keys and not removed:
        raise DataError(f"source '{about.name}' gave no example")
    if stored and len(keys) == kept and stored.about == about:
        return stored, 0
    return describe(folder, about, keys, shards, removed), len(keys) - kept


def remove(data: Path, ids: Collection[str]) -> Stored:
    """Take all rows with these ids out of the dataset in `data`, for good: `add` does not take them in again.

    Only shards that hold one are written anew, and the old ones deleted once dataset.yaml names the new; after a crash
    the dataset is the old or the new one, and the same call finishes the work. An id that was removed before is no
    error. Raises DataError when one was never there.
    """
    stored = Stored.find(data)
    gone = pa.array(sorted(set(ids) - set(stored.removed)), pa.string())
    held = {shard: pq.read_table(shard, columns=["id"])["id"] for shard in stored.shards}
    if unknown := sorted(set(gone.to_pylist()) - {name for column in held.values() for name in column.to_pylist()}):
        raise DataError(f"{stored.about.name} holds no row {', '.join(unknown)}; nothing was removed")
    shards = list[Path]()
    for shard, column in held.items():
        kept = pc.invert(pc.is_in(column, gone))
        if pc.all(kept).as_py():
            shards.append(shard)
        elif pc.any(kept).as_py():
            shards.append(next_shard(stored.folder, [*stored.shards, *shards]))
            with written_aside(shards[-1]) as aside:
                pq.write_table(pq.read_table(shard).filter(kept), aside, compression="zstd")
    if len(gone):
        after = replace(stored, shards=tuple(shards))
        keys = [(row["id"], row.get("label")) for row in after.read_rows(key_columns(stored.about))]
        removed = tuple(sorted({*stored.removed, *gone.to_pylist()}))
        stored = describe(stored.folder, stored.about, keys, after.shards, removed)
    tidy(stored)
    return stored


def tidy(stored: Stored) -> None:
    """Delete what is no part of the dataset: shards that were replaced, and what a crash left half-written."""
    for file in stored.folder.iterdir():
        if file.suffix in (".parquet", ".yaml") and file not in (*stored.shards, stored.folder / "dataset.yaml"):
            file.unlink()


def shard_file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.parquet"


def next_shard(folder: Path, shards: Sequence[Path]) -> Path:
    """The file after the last of `shards`."""
    return shard_file(folder, 1 + max((int(shard.stem) for shard in shards), default=-1))


def schema(modality: ModuleType, about: Dataset) -> pa.Schema:
    """The columns of a shard: equal types in all shards, whatever values are missing in one."""
    labels = [pa.field("label", pa.int64())] if about.classes else []
    others = [pa.field(name, pa.string()) for name in about.columns]
    return pa.schema([pa.field("id", pa.string()), *modality.FIELDS, *labels, *others])


def key_columns(about: Dataset) -> list[str]:
    return ["id", "label"] if about.classes else ["id"]


def identified(rows: Iterable[Row], modality: ModuleType) -> Iterator[Row]:
    """The rows as a shard holds them, with their ids."""
    for given in rows:
        row = encoded(given, modality)
        yield {"id": identify(row, modality), **row}


def new_rows(rows: Iterable[Row], held: Counter[Any], keys: list[Any]) -> Iterator[Row]:
    """Those of `rows` that are not among `held`; the keys of new rows are appended to `keys`."""
    for row in rows:
        key = (row["id"], row.get("label"))
        if held[key]:
            held[key] -= 1
            continue
        keys.append(key)
        yield row


def encoded(row: Row, modality: ModuleType) -> Row:
    """The row as a shard holds it."""
    content = row[modality.CONTENT]
    return {**row, **modality.encode(content)} if isinstance(content, np.ndarray) else row


def identify(row: Mapping[str, Any], modality: ModuleType) -> str:
    """32 hexadecimal digits: SHA-256 over the decoded array's type, shape and bytes, or over a broken row's content."""
    try:
        example = np.ascontiguousarray(modality.decode(row))
    except ValueError:
        return hashlib.sha256(repr(row[modality.CONTENT]).encode()).hexdigest()[:32]
    header = f"{example.dtype.str}{example.shape}".encode()
    return hashlib.sha256(header + example.tobytes()).hexdigest()[:32]


def describe(folder: Path, about: Dataset, keys: list[Any], shards: Sequence[Path], removed: tuple[str, ...]) -> Stored:
    """Write dataset.yaml, which makes `shards` the dataset; a crash before leaves the old one."""
    numbers = [int(shard.stem) for shard in shards]
    digest = hashlib.sha256("\n".join(f"{name} {label}" for name, label in keys).encode()).hexdigest()
    content = {
        "format": FORMAT,
        "name": about.name,
        "modality": about.modality,
        "classes": list(about.classes),
        **({"columns": list(about.columns)} if about.columns else {}),
        "rows": len(keys),
        "shards": len(numbers) if numbers == list(range(len(numbers))) else numbers,
        "digest": digest,
        "licence": about.licence,
        "citation": about.citation,
        "source": about.source,
        **({"removed": list(removed)} if removed else {}),
    }
    with written_aside(folder / "dataset.yaml") as aside:
        aside.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return Stored(folder, about, len(keys), tuple(shards), digest, removed)
