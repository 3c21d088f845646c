"""What the log of a run says of an error: once, in words, and no traceback of what a user can mend."""

import logging
import sys

import pytest

from flows.pipeline import INTERRUPTED, worth_a_line
from genpipe import processes
from genpipe.errors import GenpipeError, KilledError, LockedError, StageError


def logged(logger: str, error: Exception) -> str | None:
    """What stays of the line that Prefect's engine logs when an error comes up through it."""
    try:
        raise error
    except type(error):
        record = logging.LogRecord(logger, logging.ERROR, "", 0, "Encountered %r", (error,), sys.exc_info())
    return logging.Formatter().format(record) if worth_a_line(record) else None


@pytest.mark.parametrize("error", [LockedError("in use by process 7"), KilledError("ended by signal 9")])
def test_an_error_is_said_once_on_its_way_up(error: GenpipeError) -> None:
    said = [logged(name, error) for name in ("prefect.task_runs", "prefect.flow_runs")]
    assert said == [f"{type(error).__name__}: {error}", None]


def test_what_a_stage_has_said_is_not_said_again() -> None:
    error = processes.failure(["genpipe: a draw has 30 examples", "ERROR: failed to reproduce 'train': exited with 1"])
    assert (type(error), str(error)) == (StageError, "a draw has 30 examples")
    assert logged("prefect.task_runs", error) is None


def test_what_nobody_foresaw_keeps_its_traceback() -> None:
    assert "Traceback" in str(logged("prefect.task_runs", ValueError("30 examples of 64 features")))


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Finished in state Completed()", False),
        ("Finished in state Failed('StageError: a draw has 30 examples')", False),
        (f"Crash detected! {INTERRUPTED}.", False),
        ("Finished in state Unchanged('No new data.', type=COMPLETED)", True),
        ("Crash detected! Execution was aborted by a termination signal.", True),
    ],
)
def test_lines_of_the_engine_that_repeat_what_is_known_are_left_out(said: str, kept: bool) -> None:
    assert worth_a_line(logging.LogRecord("prefect.flow_runs", logging.INFO, "", 0, said, (), None)) is kept


def test_the_engine_s_loggers_are_filtered() -> None:
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        assert worth_a_line in logging.getLogger(name).filters
