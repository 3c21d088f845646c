"""One project, one writer: kernel locks that end with the process that holds them, however it ends."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from genpipe.errors import LockedError


@contextmanager
def held(file: Path, purpose: str, wait_seconds: float = 0) -> Iterator[None]:
    """Hold the lock `file`, waiting for it at most so long; raises LockedError, which names the holder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    note = file.with_suffix(".json")
    lock = FileLock(file)
    try:
        lock.acquire(timeout=wait_seconds)
    except Timeout:
        raise LockedError(f"{purpose}: the project is in use by {holder(note)}; wait for it, or stop it") from None
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        note.write_text(json.dumps({"pid": os.getpid(), "purpose": purpose, "since": since}), encoding="utf-8")
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def holder(note: Path) -> str:
    """Who holds the lock, from the note beside it."""
    if not note.exists():
        return "a process that has just begun"
    content = json.loads(note.read_text(encoding="utf-8"))
    return f"process {content['pid']} ({content['purpose']}, since {content['since']})"
