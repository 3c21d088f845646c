"""What a run would take, told before it: examples, time by stage, memory and disk, from a short measurement.

The measurement (measuring.py) is a process of its own, which is ended at a deadline; what it has found by then is
told. It writes into a temporary folder, and nothing into the project.
"""

import multiprocessing
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

from genpipe.errors import ConfigError, StageError
from genpipe.project import Project
from genpipe.rehearsal.costs import Cost, Data, Failure, Memory, Piece

SECONDS = 30.0  # of measuring at most; where nothing else runs it takes about eight
STARTING_SECONDS = 120.0  # until then, at most: a busy machine may take long
# How long a stage takes to begin, over how long the measuring process did: DVC, and what each imports.
STARTS = {"ingest": 0.8, "validate": 1.2, "augment": 0.4, "calibrate": 1.0, "train": 1.6, "evaluate": 1.4}
STARTS |= {"register": 2.4}


@dataclass
class Estimate:
    """What is known of a run of the stages `names`."""

    names: Sequence[str]
    free: int  # bytes on the project's disk
    data: str = "not counted in time"
    costs: dict[str, Cost] = field(default_factory=dict)
    memory: Memory | None = None
    failure: Failure | None = None
    start: float = 0.0  # seconds that the measuring process took to begin
    complete: bool = False

    def take(self, piece: Piece) -> None:
        match piece:
            case Data():
                self.data = piece.text
            case Cost() if piece.stage in self.names:
                self.costs[piece.stage] = piece
            case Memory():
                self.memory = piece
            case Failure():
                self.failure = piece

    def seconds(self, stage: str) -> tuple[float, float, float]:
        """Of a stage that was measured, with its start: least, expected, most."""
        cost, start = self.costs[stage], STARTS[stage] * self.start
        low, high = (cost.seconds if end is None else end for end in (cost.low, cost.high))
        return start + low, start + cost.seconds, start + high

    @property
    def size(self) -> int:
        """Bytes that the run would write."""
        return sum(cost.size for cost in self.costs.values())

    @property
    def measured(self) -> list[str]:
        return [name for name in self.names if name in self.costs]

    @property
    def unmeasured(self) -> list[str]:
        return [name for name in self.names if name not in self.costs]


def of(project: Project, names: Sequence[str], seconds: float = SECONDS) -> Estimate:
    """Measure what a run of the stages `names` would take, for so many seconds at most."""
    estimate = Estimate(names, shutil.disk_usage(project.root).free)
    with TemporaryDirectory(prefix="genpipe-") as scratch, measuring(project, names, Path(scratch)) as answers:
        begun = time.monotonic()
        if not answers.poll(STARTING_SECONDS):
            return estimate
        try:
            answers.recv()
            estimate.start, end = time.monotonic() - begun, time.monotonic() + seconds
            while answers.poll(max(0.0, end - time.monotonic())):
                estimate.take(answers.recv())
        except EOFError:
            estimate.complete = True
    return estimate


@contextmanager
def measuring(project: Project, names: Sequence[str], scratch: Path) -> Iterator[Connection]:
    """What the measuring process says; it is ended with the block."""
    from genpipe.rehearsal import measuring  # torch takes seconds

    fresh = multiprocessing.get_context("spawn")
    here, there = fresh.Pipe(duplex=False)
    child = fresh.Process(target=measuring.answer, args=(there, project, list(names), scratch), daemon=True)
    child.start()
    there.close()
    try:
        yield here
    finally:
        child.kill()
        child.join()
        here.close()


def refuse_failure(estimate: Estimate) -> None:
    """Raises ConfigError or StageError when the measurement has failed as the run would."""
    if estimate.failure and estimate.failure.faults:
        raise ConfigError(estimate.failure.faults)
    if estimate.failure:
        raise StageError(estimate.failure.text)
