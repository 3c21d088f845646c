"""The pipeline: raw data to a registered model."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from prefect import flow

from flows.claim import claimed
from genpipe import dag
from genpipe.errors import GenpipeError
from genpipe.project import Project
from genpipe.stages import check
from tasks import stages

INTERRUPTED = "Execution was aborted by an interrupt signal"
REPEATS = ("Finished in state Failed(", "Finished in state Completed()")


def worth_a_line(record: logging.LogRecord) -> bool:
    """Whether a record of Prefect's engine says anything that is not said by the stage, or by whoever began the run.

    An error that a user can mend is told in words, once; the engine would add how it came up through it, at each level.
    Control-C is no crash to whoever has pressed it, and is told when the run has ended.
    """
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, GenpipeError):
        said, error.said = error.said, True
        record.msg, record.args, record.exc_info = f"{type(error).__name__}: {error}", (), None
        return not said
    return not record.getMessage().startswith(REPEATS) and INTERRUPTED not in record.getMessage()


for name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(name).addFilter(worth_a_line)

ORDER = (
    stages.ingest,
    stages.validate,
    stages.augment,
    stages.calibrate,
    stages.train,
    stages.evaluate,
    stages.register,
)


@flow(name="genpipe")
def pipeline(directory: Path = Path()) -> dict[str, float]:
    """Run every stage of the project in `directory`; returns the seconds that each took.

    A stage that has nothing to do is skipped by DVC or by itself; a failure ends the run. Raises ConfigError with all
    faults of the settings, before anything runs, and LockedError when another run works on the project.
    """
    project = Project.find(directory)
    with claimed(project, "genpipe run"):
        check(project)
        dag.refresh(project)
        return {stage.name: timed(stage, project) for stage in ORDER}


def timed(stage: Callable[[Project], None], project: Project) -> float:
    begun = time.monotonic()
    stage(project)
    return time.monotonic() - begun
