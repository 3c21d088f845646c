"""A raw dataset: Parquet shards with the columns that Hugging Face `datasets` uses, and dataset.yaml beside them.

A shard is never changed: new rows become new shards, and where rows have to go a new shard takes the old one's place.
dataset.yaml names the shards that count, so that replacing it changes the dataset as a whole, or not at all. A row's
`id` is a digest of its decoded content, so that it does not change with the encoder; the dataset's digest is over the
ids and labels of all rows, in order.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from genpipe import modalities
from genpipe.data import parallel
from genpipe.data.held import MARKED, SAID, Held, Splits, keys_in, keys_of, splits_in
from genpipe.data.keys import KEY, packed
from genpipe.data.rows import STAMP, Chunk, Row, chunks, shard_sized, tabulate
from genpipe.data.stamps import Stamps
from genpipe.errors import DataError, refuse_newer
from genpipe.files import written_aside

FORMAT = 1
ROWS_A_SHARD = 5_000
BYTES_A_SHARD = 64 * 2**20
FEW = 8  # chunks of new rows that are worked on without other processes
OWN_FILES = re.compile(r"\d{5,}\.parquet|\.(\d{5,}\.parquet|dataset\.yaml)\..*")  # shards, and what is half-written
# `split` is the one that the publisher put the row into (train, validation or test), `text` its caption.
OPTIONAL = ("split", "text")


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
    published: tuple[str, ...] = ()  # the publisher's splits, as of the first rows that were in one

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
        content = yaml.safe_load((folder / "dataset.yaml").read_text(encoding="utf-8")) or {}
        found = content.pop("format", 0)
        refuse_newer(folder / "dataset.yaml", found, FORMAT)
        if found != FORMAT:
            raise DataError(f"{folder / 'dataset.yaml'} says no format; remove the folder and ingest again")
        rows, digest = content.pop("rows"), content.pop("digest")
        removed, published = (tuple(content.pop(name, ())) for name in ("removed", "published"))
        numbers = content.pop("shards")  # or how many there are, where they are 0, 1, …
        numbers = range(numbers) if isinstance(numbers, int) else numbers
        lists = {key: tuple(value) for key, value in content.items() if isinstance(value, list)}
        shards = tuple(shard_file(folder, number) for number in numbers)
        return cls(folder, Dataset(**{**content, **lists}), rows, shards, digest, removed, published)

    def read_rows(self, columns: list[str] | None = None) -> Iterator[Row]:
        """Row after row, in order, at most 1,000 in memory."""
        for shard in self.shards:
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(batch_size=1_000, columns=columns):
                    yield from batch.to_pylist()


def add(data: Path, about: Dataset, rows: Iterable[Row], stamps: Stamps | None = None) -> tuple[Stored, int]:
    """Bring data/<name>/ up to date with a source; return the dataset and how many rows were written.

    A row is new unless one with the same content, label and caption is held. New rows become new shards; where a
    content is held with another label or caption, which the source no longer gives, the new row takes its place. What
    else the source no longer gives stays, and unchanged rows leave every file untouched. Files that `stamps` knows are
    not read again. Raises DataError, with the dataset as it was, for an empty source, for a full disk, and when `data`
    holds another dataset.
    """
    refuse_another(data, about)
    old = Stored(data / about.name, about, 0, (), "")
    if (old.folder / "dataset.yaml").exists():
        old = Stored.read(old.folder)
        tidy(old)
    about, rows = keeping_classes(old.about, about, rows)
    if "split" in old.about.columns:
        about = replace(about, columns=tuple(name for name in OPTIONAL if name in {"split", *about.columns}))
    said, published = [name for name in SAID if name in schema(about).names], set(old.published)
    held = Held(np.concatenate([np.empty(0, MARKED), *(keys_in(read(shard, said), said) for shard in old.shards)]))
    with new_shards(old) as write:
        shards, ids = list[Path](), [np.empty(0, KEY)]
        for table in shard_sized(new_rows(about, rows, held, old, stamps), ROWS_A_SHARD, BYTES_A_SHARD):
            shards.append(write(table))
            ids.append(packed(table["id"].to_pylist()))
            published |= set(table["split"].unique().to_pylist()) - {None} if "split" in table.column_names else set()
        gone = Held(held.superseded(np.concatenate(ids)))
        kept = without(old, lambda table: gone.take(keys_in(table, said)), said, write) if gone else old.shards
        if not (kept or shards or old.removed):
            raise DataError(f"source '{about.name}' gave no example; ingest.source names where they lie (params.yaml)")
        if old.digest and kept == old.shards and not shards and old.about == about:
            return old, 0
        splits = old.published or tuple(sorted(published))
        stored = commit(replace(old, about=about, shards=(*kept, *shards), published=splits))
    tidy(stored)
    return stored, sum(map(len, ids))


def remove(data: Path, ids: Collection[str]) -> Stored:
    """Take all rows with these ids out of the dataset in `data`, for good: `add` does not take them in again.

    Only shards that hold one are written anew, and the old ones deleted once dataset.yaml names the new; after a crash
    the dataset is the old or the new one, and the same call finishes the work. An id that was removed before is no
    error. Raises DataError when one was never there.
    """
    stored = Stored.find(data)
    asked = set(ids) - set(stored.removed)
    unknown = asked.copy()
    for shard in stored.shards:
        unknown -= set(read(shard)["id"].to_pylist())
    if unknown:
        raise DataError(f"{stored.about.name} holds no row {', '.join(sorted(unknown))}; nothing was removed")
    if asked:
        gone = pa.array(sorted(asked), pa.string())
        with new_shards(stored) as write:
            kept = without(stored, lambda table: pc.is_in(table["id"], gone).to_numpy(), (), write)
            stored = commit(replace(stored, shards=kept, removed=tuple(sorted({*stored.removed, *asked}))))
    tidy(stored)
    return stored


def delete(stored: Stored) -> None:
    """Delete a dataset's own files, dataset.yaml first, and the folders that are empty then."""
    (stored.folder / "dataset.yaml").unlink()
    tidy(replace(stored, shards=()))
    for folder in (stored.folder, stored.folder.parent):
        if not any(folder.iterdir()):
            folder.rmdir()


def refuse_another(data: Path, about: Dataset) -> None:
    """Raises DataError when `data` holds another dataset, or shards that an ingest which was killed left of one."""
    others = sorted(
        {file.parent.name for file in data.glob("*/*") if file.name == "dataset.yaml" or OWN_FILES.fullmatch(file.name)}
        - {about.name}
    )
    if others:
        raise DataError(
            f"ingest.source is '{about.name}', but {data} holds {', '.join(others)}; a project has one dataset: "
            "change it back (params.yaml), or remove the old one (`dvc remove data.dvc`, then the folder)"
        )


def keeping_classes(held: Dataset, given: Dataset, rows: Iterable[Row]) -> tuple[Dataset, Iterable[Row]]:
    """The classes that are held keep their numbers, wherever a source sorts its new ones in; none is ever renamed.

    A label that is none of the source's becomes -1, which validation sets aside. Raises DataError for a source that
    gives no labels any more, by which those that are held would be lost.
    """
    if held.classes and not given.classes:
        raise DataError(
            f"ingest.source gives no labels, but the rows of '{held.name}' have the classes {', '.join(held.classes)}; "
            "give it labels (params.yaml), or begin with a new data set (`dvc remove data.dvc`, then the folder)"
        )
    if held.classes in ((), given.classes):
        return given, rows
    classes = tuple(dict.fromkeys((*held.classes, *given.classes)))
    numbers: dict[int | None, int | None] = {number: classes.index(name) for number, name in enumerate(given.classes)}
    numbers[None] = None
    numbered = ({**row, "label": numbers.get(row.get("label"), -1)} for row in rows)
    return replace(given, classes=classes), numbered


def new_rows(about: Dataset, rows: Iterable[Row], held: Held, old: Stored, stamps: Stamps | None) -> Iterator[pa.Table]:
    """Those of `rows` that are neither held nor removed, as a shard holds them; held ones are crossed off."""
    columns, gone, keep = schema(about), pa.array(old.removed, pa.string()), splits_kept(old, about)
    said = [name for name in SAID if name in columns.names]
    wanted = (unknown(chunk, held, said) for chunk in chunks(rows, modalities.load(about.modality), stamps))
    work = partial(tabulate, about.modality, columns)
    for table in parallel.ordered(work, (chunk for chunk in wanted if chunk.rows), few=FEW):
        table = unstamped(table, stamps)
        table = table.filter(pc.invert(pc.is_in(table["id"], gone)))
        if (new := ~held.take(keys_in(table, said))).any():
            yield keep(table.filter(pa.array(new)))


def splits_kept(old: Stored, about: Dataset) -> Callable[[pa.Table], pa.Table]:
    """A function that puts rows whose content is held, such as relabelled ones, into the split in which it is held."""
    if "split" not in about.columns or not old.shards:
        return lambda table: table
    held = Splits([splits_in(read(shard, ["split"])) for shard in old.shards])

    def keep(table: pa.Table) -> pa.Table:
        kept = pa.array(held.keep(*splits_in(table)), pa.string())
        return table.set_column(table.column_names.index("split"), "split", kept)

    return keep


def unstamped(table: pa.Table, stamps: Stamps | None) -> pa.Table:
    """The table as a shard holds it; which ids have turned out to belong to its stamps is noted."""
    if STAMP not in table.column_names:
        return table
    if stamps:
        known = table.filter(pc.is_valid(table[STAMP]))
        stamps.note(known[STAMP].to_pylist(), known["id"].to_pylist())
    return table.drop_columns([STAMP])


def unknown(chunk: Chunk, held: Held, said: Sequence[str]) -> Chunk:
    """The chunk without the rows that are seen to be held before they are encoded; these are crossed off."""
    known = [number for number, name in enumerate(chunk.ids) if name]
    words = [[chunk.rows[number].get(name) for name in said] for number in known]
    found = held.take(keys_of([chunk.ids[number] or "" for number in known], words))
    gone = {number for number, there in zip(known, found, strict=True) if there}
    left = [number for number in range(len(chunk.rows)) if number not in gone]
    return Chunk([chunk.rows[number] for number in left], [chunk.ids[number] for number in left])


def schema(about: Dataset) -> pa.Schema:
    """The columns of a shard: equal types in all shards, whatever values are missing in one."""
    labels = [pa.field("label", pa.int64())] if about.classes else []
    others = [pa.field(name, pa.string()) for name in about.columns]
    return pa.schema([pa.field("id", pa.string()), *modalities.load(about.modality).FIELDS, *labels, *others])


def read(shard: Path, columns: Sequence[str] = ()) -> pa.Table:
    """The ids of a shard, and those of `columns` that it has."""
    with pq.ParquetFile(shard) as file:
        return file.read(["id", *columns], use_threads=False)


def shard_file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.parquet"


@contextmanager
def new_shards(stored: Stored) -> Iterator[Callable[[pa.Table], Path]]:
    """A function that writes a table as a new shard; after a failure, those not named in dataset.yaml are gone."""
    numbers, written = count(1 + max((int(shard.stem) for shard in stored.shards), default=-1)), list[Path]()

    def write(table: pa.Table) -> Path:
        written.append(shard_file(stored.folder, next(numbers)))
        with written_aside(written[-1]) as aside:
            pq.write_table(table, aside, compression="zstd")
        return written[-1]

    try:
        yield write
    except BaseException:
        named = Stored.read(stored.folder).shards if (stored.folder / "dataset.yaml").exists() else ()
        for shard in set(written) - set(named):
            shard.unlink(missing_ok=True)
        raise


def without(
    stored: Stored,
    gone: Callable[[pa.Table], np.ndarray],
    columns: Sequence[str],
    write: Callable[[pa.Table], Path],
) -> tuple[Path, ...]:
    """The shards without the rows that `gone` finds in their ids and `columns`; one that held such is written anew."""
    shards = list[Path]()
    for shard in stored.shards:
        kept = ~gone(read(shard, columns))
        if kept.all():
            shards.append(shard)
        elif kept.any():
            shards.append(write(pq.read_table(shard).filter(pa.array(kept))))
    return tuple(shards)


def commit(stored: Stored) -> Stored:
    """Write dataset.yaml, which makes the shards of `stored` the dataset; a crash before leaves the old one."""
    rows, digest = counted(stored)
    numbers = [int(shard.stem) for shard in stored.shards]
    about = stored.about
    content = {
        "format": FORMAT,
        "name": about.name,
        "modality": about.modality,
        "classes": list(about.classes),
        **({"columns": list(about.columns)} if about.columns else {}),
        "rows": rows,
        "shards": len(numbers) if numbers == list(range(len(numbers))) else numbers,
        "digest": digest,
        "licence": about.licence,
        "citation": about.citation,
        "source": about.source,
        **({"published": list(stored.published)} if stored.published else {}),
        **({"removed": list(stored.removed)} if stored.removed else {}),
    }
    with written_aside(stored.folder / "dataset.yaml") as aside:
        aside.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return replace(stored, rows=rows, digest=digest)


def counted(stored: Stored) -> tuple[int, str]:
    """How many rows the shards hold, and the digest over their ids and labels."""
    rows, total, labels = 0, hashlib.sha256(), ["label"] if stored.about.classes else []
    for shard in stored.shards:
        table = read(shard, labels)
        names = table["id"].to_pylist()
        said = table["label"].to_pylist() if "label" in table.column_names else [None] * len(names)
        lines = "\n".join(f"{name} {label}" for name, label in zip(names, said, strict=True))
        total.update(("\n" * bool(rows) + lines).encode())
        rows += len(names)
    return rows, total.hexdigest()


def tidy(stored: Stored) -> None:
    """Delete what is no part of the dataset: shards that were replaced, and what a crash left half-written."""
    for file in set(stored.folder.iterdir()) - set(stored.shards):
        if OWN_FILES.fullmatch(file.name):
            file.unlink()
