"""One project, one writer: kernel locks that end with the process that holds them, however it ends.

They are handed on to the commands that the process starts (`shared`), so that a lock ends with the last of these: a
`git push` or a `dvc pull` that outlives its killed run works alone, too.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from genpipe.errors import LockedError
from genpipe.files import write_json
from genpipe.project import Project, foreign

ORPHAN_SECONDS = 5.0  # a stage whose run or whose DVC was killed is waited for: it is about to stop
LEFT_SECONDS = 60.0  # so long whoever comes next waits for what a killed run has left at work
POLL_SECONDS = 0.1
LONGEST = 80  # characters of a command


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as the note beside it says. The note of a process that was killed outlives the lock."""

    pid: int
    purpose: str
    since: str
    host: str = ""  # of notes of older genpipes

    @property
    def alive(self) -> bool:
        return at_work(self.pid, self.host, self.since)

    @property
    def above(self) -> bool:
        """Whether it has started this process, itself or by others; another machine's number says nothing here."""
        import psutil

        here = self.host in ("", socket.gethostname()) and self.alive
        return here and self.pid in [process.pid for process in psutil.Process().parents()]

    def __str__(self) -> str:
        elsewhere = f" on {self.host}" if self.host not in ("", socket.gethostname()) else ""
        return f"process {self.pid}{elsewhere} ({self.purpose}, since {self.since})"


descriptors: set[int] = set()  # of the locks that this process holds


def shared() -> tuple[int, ...]:
    """The locks that this process holds, for `pass_fds` of a command that it starts and waits for."""
    return tuple(descriptors)


@contextmanager
def held(file: Path, purpose: str, wait_seconds: float = 0) -> Iterator[None]:
    """Hold the lock `file`, waiting for it at most so long; raises LockedError, which names the holder."""
    note, lock = file.with_suffix(".json"), opened(file)
    try:
        take(lock, file, purpose, wait_seconds)
        descriptors.add(lock)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            write_json(note, asdict(Holder(os.getpid(), purpose, since, socket.gethostname())))
            yield
        finally:
            descriptors.remove(lock)
            note.unlink(missing_ok=True)
            fcntl.flock(lock, fcntl.LOCK_UN)  # for all who have it open
    finally:
        os.close(lock)


def opened(file: Path) -> int:
    """The descriptor of a lock. Raises ConfigError where it is another user's, as in a GENPIPE_HOME that is shared."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except PermissionError as error:
        raise foreign(Path(error.filename)) from error


def take(lock: int, file: Path, purpose: str, wait_seconds: float) -> None:
    """Lock the open `file`. What a killed holder has left at work is waited for, too."""
    begun = time.monotonic()
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            who = holder(file.with_suffix(".json"))
        left = who is not None and not who.alive
        if time.monotonic() - begun >= max(wait_seconds, LEFT_SECONDS if left else 0):
            known = f"what is left of {who}, which was killed: {users(file)}" if left else who
            user = known or "a process that has just begun"
            raise LockedError(f"{purpose}: the project is in use by {user}; wait for it, or stop it")
        time.sleep(POLL_SECONDS)


def users(file: Path) -> str:
    """The processes that have a file open, in words."""
    import psutil

    found = list[str]()
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it is another user's, or has ended
            if process.pid != os.getpid() and str(file) in [one.path for one in process.open_files()]:
                found.append(f"process {process.pid} ({' '.join(process.cmdline())[:LONGEST]})")
    return ", ".join(found) or "a process of somebody else"


@contextmanager
def alone(project: Project, purpose: str) -> Iterator[None]:
    """Hold the locks of the pipeline and of the stages: nobody else is at work here. Raises LockedError otherwise."""
    stage = held(project.lock("stage"), purpose, ORPHAN_SECONDS)
    with held(project.lock("pipeline"), purpose), stage:
        yield


@contextmanager
def working(project: Project, purpose: str) -> Iterator[None]:
    """Hold the lock of the stages, one of which runs at a time. Raises LockedError when somebody else is at work."""
    with held(project.lock("stage"), purpose, ORPHAN_SECONDS):
        refuse_beside_others(project.lock("pipeline"), purpose)
        yield


def refuse_beside_others(file: Path, purpose: str) -> None:
    """Raises LockedError, which names the holder, when a process that did not start this one holds the lock `file`."""
    who = holder(file.with_suffix(".json"))
    if who is None or not who.above:
        with held(file, purpose):
            return


def holder(note: Path) -> Holder | None:
    """Who holds the lock, from the note beside it; None where there is none."""
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:  # nobody does, or it was let go while we looked
        return None
    known = [field.name for field in fields(Holder)]  # a newer genpipe may write more
    return Holder(**{name: value for name, value in content.items() if name in known})


def notes(folder: Path) -> dict[str, Holder]:
    """Name of a lock → who holds it, or held it when killed. Nothing is locked to find out, which might stop a run."""
    found = {note.stem: holder(note) for note in sorted(folder.glob("[!.]*.json"))}
    return {name: who for name, who in found.items() if who}


def at_work(pid: int, host: str, since: str) -> bool:
    """Whether the process that has noted its number, machine and time still runs; of another machine's it is believed.

    Whoever gets the lock that it held knows better.
    """
    from genpipe.processes import lives  # the command line reads this module before it knows whether anybody asks

    elsewhere = host not in ("", socket.gethostname())
    return elsewhere or lives(pid, datetime.fromisoformat(since).timestamp())
