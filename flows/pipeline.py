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


def without_traceback(record: logging.LogRecord) -> bool:
    """An error that a user can mend is told in words; the engine would print how it came up through it, twice.

    Control-C is no crash to whoever has pressed it, and is told once, when the run has ended.
    """
    if record.exc_info and isinstance(record.exc_info[1], GenpipeError):
        record.exc_info = None
    return INTERRUPTED not in record.getMessage()


INTERRUPTED = "Execution was aborted by an interrupt signal"  # as Prefect says it, four times

for name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(name).addFilter(without_traceback)

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
