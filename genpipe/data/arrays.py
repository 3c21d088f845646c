"""Arrays that training reads: one folder a split, one .npy file a column, memory-mapped, as stored (uint8, tokens).

artifacts/augment/meta.json says what they are: see `DataSpec`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genpipe.errors import DataError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class DataSpec:
    """What an example is: its modality, its stored shape, the names of its classes (none when unlabelled)."""

    modality: str
    shape: tuple[int, ...]  # of one stored example; images (C, H, W)
    classes: tuple[str, ...] = ()

    @classmethod
    def read(cls, file: Path) -> "DataSpec":
        """From meta.json. Raises DataError when the augment stage has not written it."""
        if not file.exists():
            raise DataError(f"{file} is absent; `genpipe run` or `dvc repro augment` writes it")
        return cls.of(json.loads(file.read_text(encoding="utf-8")))

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> "DataSpec":
        return cls(meta["modality"], tuple(meta["shape"]), tuple(meta["classes"]))

    def plain(self) -> dict[str, object]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


class Arrays(Mapping[str, np.ndarray]):
    """The columns of one split, of equal length, memory-mapped and read-only."""

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.glob("*.npy"))
        if not files:
            raise DataError(f"{folder} holds no arrays; `genpipe run` or `dvc repro augment` writes them")
        self._columns = {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files}

    def __getitem__(self, column: str) -> np.ndarray:
        values: np.ndarray = self._columns[column]
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        """The number of columns, as a mapping has it; `rows` is the number of examples."""
        return len(self._columns)

    @property
    def rows(self) -> int:
        return len(next(iter(self._columns.values())))


def write_arrays(folder: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write a split. Raises ValueError when the columns differ in length."""
    if len({len(column) for column in columns.values()}) > 1:
        raise ValueError(f"columns of unequal length: { {name: len(column) for name, column in columns.items()} }")
    folder.mkdir(parents=True, exist_ok=True)
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", column, allow_pickle=False)
