"""Writing files so that a reader or a crash never meets half of one."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from genpipe.errors import DataError

UMASK = os.umask(0o077)  # it can only be read by setting it
os.umask(UMASK)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def written_aside(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to; renamed to `file` on success, removed on failure, such as a full disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", suffix=file.suffix, delete=False) as handle:
        aside = Path(handle.name)
    try:
        with room_for(file):
            yield aside
            aside.chmod(0o666 & ~UMASK)
            with aside.open("rb") as handle:
                os.fsync(handle.fileno())
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def room_for(file: Path) -> Iterator[None]:
    """Raises DataError, in place of the system's error, when the disk is full while `file` is written."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DataError(
            f"no room to write {file} ({os.strerror(error.errno)}); make room on its disk and run this again"
        ) from error


def write_json(file: Path, content: Any) -> None:
    """Indented, keys in the given order, a newline at the end."""
    with written_aside(file) as aside:
        aside.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
