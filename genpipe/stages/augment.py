"""augment: split the accepted rows, turn them into arrays, and show what augmentation will do to them.

Augmentation itself happens on the device, batch by batch; here its settings are written down and drawn.
"""

import json
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from genpipe import modalities
from genpipe.config import Field, parse, plain, settings
from genpipe.data.arrays import SPLITS, DataSpec
from genpipe.data.dataset import Stored
from genpipe.errors import DataError
from genpipe.files import write_json, written_aside
from genpipe.project import Project

PREVIEWED = 16


@settings
class Config:
    validation: float = Field(
        default=0.1, gt=0, lt=1, description="share of rows for calibrating and watching training"
    )
    test: float = Field(default=0.2, gt=0, lt=1, description="share of rows that only evaluation reads")
    prepare: dict[str, Any] = Field(default_factory=dict, description="the modality's settings for making arrays")
    augmentation: dict[str, Any] = Field(default_factory=dict, description="the modality's random changes in training")


def run(cfg: Config, project: Project) -> dict[str, float]:
    """Write artifacts/augment/{train,validation,test}/*.npy, meta.json and preview.png."""
    stored = Stored.find(project.data)
    modality = modalities.load(stored.about.modality)
    preparing = parse(modality.Preparing, cfg.prepare, "augment.prepare")
    augmentation = parse(modality.Augmentation, cfg.augmentation, "augment.augmentation")
    accepted = pd.read_parquet(project.artifacts / "validate" / "accepted.parquet")
    splits = accepted.set_index("row")["id"].map(lambda name: split_of(name, cfg.validation, cfg.test))
    shape = write_splits(stored, modality, preparing, splits, project)
    spec = DataSpec(modality=stored.about.modality, shape=shape, classes=stored.about.classes)
    counts = {split: int((splits == split).sum()) for split in SPLITS}
    folder = project.artifacts / "augment"
    write_json(folder / "meta.json", {**spec.plain(), "dataset": stored.about.name, "counts": counts,
               "prepare": plain(preparing), "augmentation": plain(augmentation)})  # fmt: skip
    preview(modality, augmentation, np.load(folder / "train" / f"{modality.CONTENT}.npy", mmap_mode="r"), project)
    print(json.dumps(counts))
    return {split: float(count) for split, count in counts.items()}


def split_of(identity: str, validation: float, test: float) -> str:
    """The split that a row's content decides: equal content, equal split, now and when data have grown."""
    position = int(identity[:12], 16) / 16**12
    if position < test:
        return "test"
    return "validation" if position < test + validation else "train"


def write_splits(
    stored: Stored, modality: ModuleType, preparing: Any, splits: "pd.Series[str]", project: Project
) -> tuple[int, ...]:
    """Stream the rows into one memory-mapped array a column and split; return the stored shape of an example.

    Raises DataError when a split stays empty or an example has another shape than the first.
    """
    counts = {split: int((splits == split).sum()) for split in SPLITS}
    if empty := [split for split, count in counts.items() if not count]:
        raise DataError(
            f"no example falls into {', '.join(empty)}; more data, or larger shares in augment (params.yaml)"
        )
    where, filled = splits.to_dict(), dict.fromkeys(SPLITS, 0)
    arrays: dict[tuple[str, str], np.memmap[Any, Any]] = {}
    shape: tuple[int, ...] = ()
    for number, row in enumerate(stored.read_rows()):
        if number not in where:
            continue
        split, example = where[number], modality.prepare(modality.decode(row), preparing)
        shape = shape or example.shape
        if example.shape != shape:
            raise DataError(
                f"row {number} has shape {example.shape}, the first has {shape}; "
                "augment.prepare makes them equal (params.yaml)"
            )
        columns = {modality.CONTENT: example, "id": np.str_(row["id"])}
        columns |= {"label": np.int64(row["label"])} if stored.about.classes else {}
        for name, value in columns.items():
            array = arrays.get((split, name))
            if array is None:
                array = arrays[split, name] = create(project, split, name, value, counts[split])
            array[filled[split]] = value
        filled[split] += 1
    for array in arrays.values():
        array.flush()
    return shape


def create(project: Project, split: str, name: str, value: Any, count: int) -> "np.memmap[Any, Any]":
    """An empty column for `count` values like `value`."""
    file = project.artifacts / "augment" / split / f"{name}.npy"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)  # it may be a link into DVC's cache
    first = np.asarray(value)
    return np.lib.format.open_memmap(file, mode="w+", dtype=first.dtype, shape=(count, *first.shape))


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
