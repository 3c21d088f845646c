"""The training curve: what the steps logged, averaged over each so many of them."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from genpipe.files import written_aside


class Curve:
    """Rows of step and means. Values stay on their device until a row is due, so that no step waits for them."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.rows: list[dict[str, float]] = []
        self._sums: dict[str, Tensor | float] = {}
        self._counts: dict[str, int] = {}

    def add(self, step: int, logged: Mapping[str, Tensor], last: bool = False) -> dict[str, float] | None:
        """Take in what a step logged; the new row at multiples of `every` and at the last step."""
        for name, value in logged.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        if step % self.every and not last:
            return None
        row = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        self.rows.append({"step": step, **row})
        return row

    def plain(self) -> dict[str, Any]:
        """All that a checkpoint needs, the unfinished row too."""
        sums = {name: float(total) for name, total in self._sums.items()}
        return {"rows": self.rows, "sums": sums, "counts": self._counts}

    def restore(self, plain: Mapping[str, Any]) -> None:
        self.rows = list(plain.get("rows", []))
        self._sums, self._counts = dict(plain.get("sums", {})), dict(plain.get("counts", {}))

    def write(self, file: Path) -> None:
        """As CSV; a value that some rows lack is empty there."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with written_aside(file) as aside, aside.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
