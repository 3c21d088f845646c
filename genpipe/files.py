"""Writing files so that a reader or a crash never meets half of one."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any


@contextmanager
def written_aside(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to; renamed to `file` on success, removed on failure."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", suffix=file.suffix, delete=False) as handle:
        aside = Path(handle.name)
    try:
        yield aside
        aside.chmod(0o644)
        with aside.open("rb") as handle:
            os.fsync(handle.fileno())
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def write_json(file: Path, content: Any) -> None:
    """Indented, keys in the given order, a newline at the end."""
    with written_aside(file) as aside:
        aside.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
