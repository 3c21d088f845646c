"""Arrays that training reads: one folder a split, one .npy file a column, memory-mapped, as stored (uint8, tokens).

artifacts/augment/meta.json says what they are: see `DataSpec`. ORIGIN beside it says whose they are; it is a file of
its own, so that a corrected licence trains nothing anew.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.lib import format as npy

from genpipe.errors import DataError

ORIGIN = "origin.json"  # name, licence, citation and source, as dataset.yaml has them
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


class Column:
    """A .npy file of so many rows, written piece by piece; type and shape of a row are those of the first piece.

    Not by a memory-map: there a full disk would end the process.
    """

    def __init__(self, file: Path, rows: int) -> None:
        self.file, self.rows, self.written = file, rows, 0
        self.shape: tuple[int, ...] = ()

    def __enter__(self) -> "Column":
        self.handle = self.file.open("wb")
        return self

    def write(self, values: np.ndarray) -> None:
        if not self.written and len(values):
            self.shape = values.shape[1:]
            about = {"descr": npy.dtype_to_descr(values.dtype), "fortran_order": False}
            npy.write_array_header_1_0(self.handle, {**about, "shape": (self.rows, *self.shape)})
        self.handle.write(values.tobytes())
        self.written += len(values)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises ValueError when another number of rows was written, unless there is an error already."""
        self.handle.close()
        if kind is None and self.written != self.rows:
            raise ValueError(f"{self.written} rows of {self.rows} were written to {self.file}")


def write_arrays(folder: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write a split. Raises ValueError when the columns differ in length."""
    if len({len(column) for column in columns.values()}) > 1:
        raise ValueError(f"columns of unequal length: { {name: len(column) for name, column in columns.items()} }")
    folder.mkdir(parents=True, exist_ok=True)
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", column, allow_pickle=False)
