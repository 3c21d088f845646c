"""The journal of a project: how its last runs went, for whoever asks later, without a server.

.genpipe/runs.json holds the last runs, oldest first. A run writes itself down when it begins, at each stage, and when
it ends; one that was killed still says that it is running, and is told by its process, which is gone, or by the next
run. A stage runs in a process of its own, of which the flow sees only what it printed: what went wrong there it writes
down itself.
"""

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from genpipe import locks
from genpipe.errors import StageError, remedy_of, without_passwords
from genpipe.files import write_json
from genpipe.project import Project

KEPT = 20  # runs
LONGEST = 300  # characters of a cause

Outcome = Literal["running", "done", "failed", "stopped", "vanished"]


@dataclass(frozen=True)
class Failure:
    """What ended a stage or a run: the class of the error, its message in one line, and what to do about it."""

    error: str
    cause: str
    remedy: str

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        silent = "stopped by Control-C" if isinstance(error, KeyboardInterrupt) else "no more is known"
        said = " ".join(without_passwords(str(error)).split()) or silent
        cause = said if len(said) <= LONGEST else f"{said[: LONGEST - 1]}…"
        return cls(type(error).__name__, cause, remedy_of(error))


@dataclass(frozen=True)
class Run:
    """One run of the stages; `stage` is the one that it is in, or in which it ended."""

    purpose: str
    begun: str
    pid: int
    host: str
    outcome: Outcome = "running"
    ended: str | None = None
    stage: str | None = None
    failure: Failure | None = None
    remark: str = ""
    flow_run: str = ""
    page: str = ""

    @classmethod
    def parse(cls, content: dict[str, Any]) -> "Run":
        """Raises no error for what a newer genpipe has written beside."""
        known = {name: content[name] for name in (field.name for field in fields(cls)) if name in content}
        failure = content["failure"]
        return cls(**known | {"failure": Failure(**failure) if failure else None})

    @property
    def vanished(self) -> bool:
        """Whether it ended without a word, as a later run has noted, or as its process shows, which is gone."""
        running = self.outcome == "running"
        return self.outcome == "vanished" or (running and not locks.at_work(self.pid, self.host, self.begun))


@contextmanager
def recorded(project: Project, purpose: str, flow_run: str = "", page: str = "") -> Iterator[None]:
    """Write a run down while the block lasts; whoever calls holds the project's lock, so that no other one writes."""
    run = Run(purpose, now(), os.getpid(), socket.gethostname(), flow_run=flow_run, page=page)
    earlier = [replace(one, outcome="vanished") if is_gone(one) else one for one in runs(project)]
    keep(project, [*earlier, run])
    try:
        yield
    except BaseException as error:
        outcome: Outcome = "failed" if isinstance(error, Exception) else "stopped"  # a signal, or Control-C
        known = current(project)
        own = known.failure if known and type(error) is StageError else None  # what the process of the stage knew
        amend(project, outcome=outcome, ended=now(), failure=own or Failure.of(error))
        raise
    amend(project, outcome="done", ended=now(), stage=None, failure=None)


def is_gone(run: Run) -> bool:
    """Whether a run has vanished; asked by whoever holds the project's lock, which another machine's has lost, then.

    One of this machine whose process lives works in the folder of which this one is a copy.
    """
    return run.vanished or (run.outcome == "running" and run.host != socket.gethostname())


@contextmanager
def stage(project: Project, name: str) -> Iterator[None]:
    """Write down that this process's run is in the stage `name`, and if it ends there, why."""
    begun = now()
    amend(project, stage=name, failure=None)
    try:
        yield
    except StageError as error:
        own = failure_of(project, name, begun) if type(error) is StageError else None
        amend(project, failure=own or Failure.of(error))
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(where_stopped(project, name, begun)) from None
    amend(project, stage=None)


def where_stopped(project: Project, name: str, since: str) -> str:
    """How far a stage came that Control-C has ended: its step, if it counts any, as its process wrote it down."""
    own = failure_of(project, name, since)
    step = re.search(r" at step [\d,]+ of [\d,]+", own.cause) if own else None
    return f"stopped by Control-C in {name}{step[0] if step else ''}"


def remark(project: Project, text: str) -> None:
    """Add a sentence to this process's run: what else there is to say of how it went."""
    amend(project, remark=text)


@contextmanager
def telling(project: Project, name: str) -> Iterator[None]:
    """For the process of a stage: write down with which error it ends."""
    try:
        yield
    except Exception as error:
        write_json(failure_file(project, name), {"at": now(), **asdict(Failure.of(error))})
        raise


def failure_of(project: Project, name: str, since: str) -> Failure | None:
    """With what the stage ended, as its process wrote it down after `since`; None where it did not."""
    file = failure_file(project, name)
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"at": ""}
    return Failure(**content) if content.pop("at") >= since else None


def failure_file(project: Project, name: str) -> Path:
    return project.state / "failures" / f"{name}.json"


def runs(project: Project) -> list[Run]:
    """The last runs, oldest first."""
    file = project.state / "runs.json"
    return [Run.parse(content) for content in json.loads(file.read_text(encoding="utf-8"))] if file.exists() else []


def current(project: Project) -> Run | None:
    """The run that this process has written down and not yet closed."""
    last = next(reversed(runs(project)), None)
    if last is None or (last.outcome, last.pid, last.host) != ("running", os.getpid(), socket.gethostname()):
        return None
    return None if last.vanished else last  # a killed process may have had this one's number


def amend(project: Project, **changes: Any) -> None:
    """Change what is written of this process's run; a stage that is run outside of one is nobody's."""
    if run := current(project):
        keep(project, [*runs(project)[:-1], replace(run, **changes)])


def keep(project: Project, those: list[Run]) -> None:
    write_json(project.state / "runs.json", [asdict(run) for run in those[-KEPT:]])


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
