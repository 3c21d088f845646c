"""DVC's record of who works on which path (.dvc/tmp/rwlock), and what a kill has left in it.

DVC itself forgets a holder whose process is gone, but neither one whose number another process has got since (as in a
container that was started again), for which it would wait, nor a file that the kill has cut off.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import zc.lockfile  # type: ignore[import-untyped]

from genpipe.files import write_json
from genpipe.processes import lives
from genpipe.project import Project

Entry = Mapping[str, Any]  # as DVC writes it: the `pid` of a holder, and as `cmd` its sys.argv in one line


def record_file(project: Project) -> Path:
    return project.root / ".dvc" / "tmp" / "rwlock"


def forget_dead_holders(project: Project) -> None:
    """Take out of the record what a kill has left there."""
    file = record_file(project)
    if not file.exists():
        return
    try:
        guard = zc.lockfile.LockFile(f"{file}.lock")  # DVC's own, for as long as it edits the record
    except zc.lockfile.LockError:
        return  # its holder lives
    try:
        written = file.stat().st_mtime
        record = json.loads(file.read_text(encoding="utf-8"))
        read = {path: [one for one in them if holds(one, written)] for path, them in record.get("read", {}).items()}
        write = {path: one for path, one in record.get("write", {}).items() if holds(one, written)}
        kept = {"read": {path: them for path, them in read.items() if them}, "write": write}
        if kept != record:
            write_json(file, kept)
    except json.JSONDecodeError:
        file.unlink()
    finally:
        guard.close()


def holders(project: Project) -> dict[int, bool]:
    """Number of each process in the record → whether it still works there. Raises ValueError for a cut-off record."""
    file = record_file(project)
    if not file.exists():
        return {}
    written, record = file.stat().st_mtime, json.loads(file.read_text(encoding="utf-8"))
    read = [one for them in record.get("read", {}).values() for one in them]
    return {int(one["pid"]): holds(one, written) for one in [*read, *record.get("write", {}).values()]}


def holds(entry: Entry, written: float) -> bool:
    """Whether the process of an entry still works, and its number is not another's by now.

    That one began after the record was last `written`, or is of another command: its last word is not the entry's.
    """
    if not lives(entry["pid"], written):
        return False
    try:
        words = psutil.Process(entry["pid"]).cmdline()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True  # somebody else's, of which no more can be known
    arguments = entry["cmd"].partition(" ")[2]
    return not arguments or arguments.endswith(tuple(words[-1:]))
