"""augment: split the accepted rows, turn them into arrays, and show what augmentation will do to them.

Augmentation itself happens on the device, batch by batch; here its settings are written down and drawn. Examples are
prepared shard by shard, on all cores, and kept for the next run (see `genpipe.data.cache`).
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genpipe import code, modalities
from genpipe.config import Field, parse, plain, settings
from genpipe.data import cache, dataset
from genpipe.data.arrays import ORIGIN, SPLITS, Column, DataSpec
from genpipe.data.cache import Part
from genpipe.data.dataset import Stored
from genpipe.data.keys import KEY, packed
from genpipe.errors import DataError
from genpipe.files import write_json, written_aside
from genpipe.project import Project

PREVIEWED = 16
ROWS_AT_ONCE = 256
BYTES_AT_ONCE = 16 * 2**20


@settings
class Config:
    validation: float = Field(
        default=0.1, gt=0, lt=1, description="share of rows for calibrating and watching training"
    )
    test: float = Field(default=0.2, gt=0, lt=1, description="share of rows that only evaluation reads")
    prepare: dict[str, Any] = Field(default_factory=dict, description="the modality's settings for making arrays")
    augmentation: dict[str, Any] = Field(default_factory=dict, description="the modality's random changes in training")


def run(cfg: Config, project: Project) -> dict[str, float]:
    """Write artifacts/augment/{train,validation,test}/*.npy, meta.json, origin.json and preview.png."""
    stored = Stored.find(project.data)
    modality = modalities.load(stored.about.modality)
    preparing = parse(modality.Preparing, cfg.prepare, "augment.prepare")
    augmentation = parse(modality.Augmentation, cfg.augmentation, "augment.augmentation")
    parts = accepted_parts(stored, project.artifacts / "validate" / "accepted.parquet")
    splits = [split_rows(part, stored, cfg) for part in parts]
    counts = {split: sum(int((places == number).sum()) for places in splits) for number, split in enumerate(SPLITS)}
    refuse_empty([split for split, count in counts.items() if not count], stored.published)
    shape = write_splits(parts, splits, prepared(parts, stored, preparing, project), stored, project)
    spec = DataSpec(modality=stored.about.modality, shape=shape, classes=stored.about.classes)
    folder = project.artifacts / "augment"
    write_json(folder / "meta.json", {**spec.plain(), "dataset": stored.about.name, "counts": counts,
               "prepare": plain(preparing), "augmentation": plain(augmentation)})  # fmt: skip
    about = stored.about
    write_json(folder / ORIGIN, {"name": about.name, "licence": about.licence, "citation": about.citation,
               "source": about.source})  # fmt: skip
    train = np.load(folder / "train" / f"{modality.CONTENT}.npy", mmap_mode="r", allow_pickle=False)
    preview(modality, augmentation, train, project)
    print(", ".join(f"{count:,} {split}" for split, count in counts.items()))
    return {split: float(count) for split, count in counts.items()}


def accepted_parts(stored: Stored, accepted: Path) -> list[Part]:
    """The shards that hold accepted rows, and which these are.

    Raises DataError when the rows with these numbers have other ids: the data have changed since they were accepted.
    """
    rows, wanted_ids = accepted_rows(accepted)
    parts, first, found = [], 0, 0
    for shard in stored.shards:
        ids = packed(dataset.read(shard)["id"].to_pylist())
        here = (rows >= first) & (rows < first + len(ids))
        places = rows[here] - first
        found += int((ids[places] == wanted_ids[here]).sum())
        if len(places):
            parts.append(Part(shard, first, np.bincount(places, minlength=len(ids)) > 0))
        first += len(ids)
    if found < len(rows):
        raise DataError(f"{accepted} tells of other rows than data/ holds; `dvc repro validate` judges those anew")
    return parts


def accepted_rows(accepted: Path) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and ids of the accepted rows, (N,) int64 and (N,) of KEY; few ids are spelt out at once."""
    rows, ids = [np.empty(0, np.int64)], [np.empty(0, KEY)]
    with pq.ParquetFile(accepted) as file:
        for batch in file.iter_batches(dataset.ROWS_A_SHARD, columns=["id", "row"]):
            rows.append(batch["row"].to_numpy())
            ids.append(packed(batch["id"].to_pylist()))
    return np.concatenate(rows), np.concatenate(ids)


def refuse_empty(splits: Sequence[str], published: Sequence[str]) -> None:
    """Raises DataError for splits without an example."""
    if not splits:
        return
    remedy = "more data, or other shares (augment.validation, augment.test in params.yaml)"
    if own := [split for split in splits if split in published]:
        remedy = f"the publisher says what is {', '.join(own)}, and validate accepted no such row (quarantine.parquet)"
    raise DataError(f"no example falls into {', '.join(splits)}; {remedy}")


def wanted(part: Part) -> np.ndarray:
    """Which rows of the shard are chosen, as booleans."""
    assert part.chosen is not None  # because `accepted_parts` chose
    return part.chosen


def split_rows(part: Part, stored: Stored, cfg: Config) -> np.ndarray:
    """For each chosen row of a shard the number of its split in SPLITS, uint8."""
    table = dataset.read(part.shard, ["split"]).filter(pa.array(wanted(part)))
    ids = table["id"].to_pylist()
    given = table["split"].to_pylist() if "split" in table.column_names else [None] * len(ids)
    made = stored.published
    splits = (split_of(*row, cfg.validation, cfg.test, made) for row in zip(ids, given, strict=True))
    return np.fromiter(map(SPLITS.index, splits), np.uint8, len(ids))


def split_of(identity: str, given: str | None, validation: float, test: float, published: Sequence[str]) -> str:
    """The split of a row: that which its publisher gave it, else by content; equal content, equal split, now and later.

    Of the publisher's training rows a share is taken, by content, for each split that is not among those `published`.
    """
    if given in ("validation", "test"):
        return given
    made = published if given else ()
    position = int(identity[:12], 16) / 16**12
    if position < test:
        return "train" if "test" in made else "test"
    return "validation" if position < test + validation and "validation" not in made else "train"


def prepared(parts: Sequence[Part], stored: Stored, preparing: Any, project: Project) -> Iterator[Path]:
    """For each part an array of its chosen rows as models are trained on them, (N, *shape)."""
    kind = stored.about.modality
    depends = f"{code.digest(__name__, f'genpipe.modalities.{kind}')} {plain(preparing)}"
    return cache.of_parts(cache.folder(project, "augment"), parts, partial(prepare, kind, preparing), depends)


def prepare(kind: str, preparing: Any, part: Part, file: Path) -> None:
    """Write the array of one part. Raises DataError when an example has another shape than the part's first."""
    modality, chosen, number = modalities.load(kind), wanted(part), -1
    with pq.ParquetFile(part.shard) as shard, Column(file, int(chosen.sum())) as column:
        for batch in shard.iter_batches(ROWS_AT_ONCE, columns=[field.name for field in modality.FIELDS]):
            for row in batch.to_pylist():
                number += 1
                if chosen[number]:
                    example = modality.prepare(modality.decode(row), preparing)
                    check_shape(example.shape, column.shape, part.first + number)
                    column.write(example[None])


def write_splits(
    parts: Sequence[Part], splits: Sequence[np.ndarray], contents: Iterator[Path], stored: Stored, project: Project
) -> tuple[int, ...]:
    """Write a file a column and split, part after part; return the stored shape of an example.

    Raises DataError when an example has another shape than the first.
    """
    content, shape = modalities.load(stored.about.modality).CONTENT, tuple[int, ...]()
    names = [content, "id", *(["label"] if stored.about.classes else [])]
    counts = np.sum([np.bincount(places, minlength=len(SPLITS)) for places in splits], axis=0)
    with ExitStack() as stack:
        files = [[project.artifacts / "augment" / split / f"{name}.npy" for name in names] for split in SPLITS]
        written = [
            [stack.enter_context(Column(stack.enter_context(written_aside(file)), rows)) for file in of_split]
            for of_split, rows in zip(files, counts.tolist(), strict=True)
        ]
        for part, places, file in zip(parts, splits, contents, strict=True):
            examples = np.load(file, mmap_mode="r", allow_pickle=False)
            check_shape(examples.shape[1:], shape, part.first + int(wanted(part).argmax()))
            shape = examples.shape[1:]
            for columns, number in zip(written, range(len(SPLITS)), strict=True):
                rows = np.flatnonzero(places == number)
                for values, column in zip((examples, *keys(part, stored)), columns, strict=True):
                    for some in np.array_split(rows, 1 + values[:1].nbytes * len(rows) // BYTES_AT_ONCE):
                        column.write(values[some])
    for of_split in files:
        for other in set(of_split[0].parent.iterdir()) - set(of_split):  # of other data, or left by a kill
            other.unlink()
    return shape


def keys(part: Part, stored: Stored) -> list[np.ndarray]:
    """Ids of a part's chosen rows and, where there are classes, labels. Raises DataError for a row without one."""
    table = dataset.read(part.shard, ["label"]).filter(pa.array(wanted(part)))
    ids = np.array(table["id"].to_pylist(), "U32")
    if not stored.about.classes:
        return [ids]
    if "label" not in table.column_names or table["label"].null_count:
        raise DataError(f"{part.shard} has accepted rows without a label; the suite has to set them aside")
    return [ids, table["label"].to_numpy()]


def check_shape(shape: tuple[int, ...], first: tuple[int, ...], row: int) -> None:
    """Raises DataError unless the shapes agree; the first one is () while it is unknown."""
    if first and shape != first:
        raise DataError(
            f"row {row} has shape {shape}, the first has {first}; augment.prepare makes them equal (params.yaml)"
        )


def preview(modality: ModuleType, augmentation: Any, train: np.ndarray, project: Project) -> None:
    """Draw the first training examples, and below them, if augmentation is on, three random changes of each."""
    shown = np.asarray(train[:PREVIEWED])
    if augmentation != modality.Augmentation():
        import torch

        torch.manual_seed(0)
        batch = modality.to_batch(torch.from_numpy(shown.copy()))
        changed = [modality.to_stored(modality.augment(batch, augmentation)).numpy() for _ in range(3)]
        shown = np.concatenate([shown, *changed])
    with written_aside(project.artifacts / "augment" / "preview.png") as aside:
        modality.picture(shown, PREVIEWED).save(aside)
