"""The journal: how runs went, told by the runs themselves, and by what a killed one can't tell any more."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from genpipe import errors, run
from genpipe.errors import ConfigError, DataError, GenpipeError, KilledError, RefusedDataError, StageError
from genpipe.project import Project
from genpipe.watching import ages, journal
from tests import projects

KILLED = """
import os, signal, socket, sys
from pathlib import Path
from genpipe import locks
from genpipe.watching import journal
from genpipe.project import Project

if len(sys.argv) > 1:  # as in a container, whose name is another each time
    socket.gethostname = lambda: sys.argv[1]
project = Project(Path.cwd())
with locks.held(project.lock("pipeline"), "genpipe run"), journal.recorded(project, "genpipe run"):
    with journal.stage(project, "train"):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return projects.make(tmp_path)


def killed_run(project: Project, *host: str) -> None:
    """A run that a real SIGKILL ends in the stage train, its lock in its hands; on this machine, or on `host`."""
    done = subprocess.run([sys.executable, "-c", KILLED, *host], cwd=project.root, check=False)
    assert done.returncode == -signal.SIGKILL


def last(project: Project) -> journal.Run:
    return journal.runs(project)[-1]


def test_a_run_is_written_down_while_it_runs_and_when_it_ends(project: Project) -> None:
    with journal.recorded(project, "genpipe run", "4711", "http://server/4711"):
        assert (last(project).outcome, last(project).pid, last(project).flow_run) == ("running", os.getpid(), "4711")
        assert not last(project).vanished
        with journal.stage(project, "train"):
            assert last(project).stage == "train"
        journal.remark(project, "nothing was new")
    ended = last(project)
    assert (ended.outcome, ended.stage, ended.failure, ended.remark) == ("done", None, None, "nothing was new")
    assert ended.begun <= str(ended.ended)


def test_a_failed_run_has_its_stage_the_cause_and_the_remedy(project: Project) -> None:
    with pytest.raises(StageError), journal.recorded(project, "genpipe run"), journal.stage(project, "augment"):
        raise StageError("the split\nis empty")
    failure = last(project).failure
    assert (last(project).outcome, last(project).stage) == ("failed", "augment")
    assert failure == journal.Failure("StageError", "the split is empty", StageError.remedy)


def fail_in_a_process_of_its_own(project: Project) -> None:
    """As in a flow: the stage tells what went wrong, and of what it printed the flow makes an error of its own."""
    with pytest.raises(DataError):
        run.run_stage(project.root, "validate")
    raise StageError("data must hold one dataset")


def test_what_the_process_of_a_stage_knows_better_is_taken_from_it(project: Project) -> None:
    with pytest.raises(StageError), journal.recorded(project, "genpipe run"), journal.stage(project, "validate"):
        fail_in_a_process_of_its_own(project)
    failure = last(project).failure
    assert failure
    assert (failure.error, failure.remedy) == ("DataError", DataError.remedy)
    assert "must hold one dataset" in failure.cause


def refuse_data(project: Project) -> None:
    """As the task of validate does."""
    try:
        with journal.stage(project, "validate"):
            fail_in_a_process_of_its_own(project)
    except StageError as error:
        raise RefusedDataError(str(error)) from None


def test_a_class_that_the_flow_gives_a_failure_is_kept(project: Project) -> None:
    with pytest.raises(RefusedDataError), journal.recorded(project, "genpipe run"):
        refuse_data(project)
    assert last(project).failure == journal.Failure.of(RefusedDataError("data must hold one dataset"))


def test_an_earlier_failure_of_the_stage_and_one_of_another_kind_are_not_taken(project: Project) -> None:
    with pytest.raises(DataError):
        run.run_stage(project.root, "validate")
    for error in (StageError("dvc has no cache"), KilledError("ended by signal 9"), TimeoutError("after 12 s")):
        with pytest.raises(type(error)), journal.recorded(project, "genpipe run"), journal.stage(project, "validate"):
            raise error
        failure = last(project).failure
        assert failure
        assert (failure.error, failure.cause) == (type(error).__name__, str(error))


def test_a_second_try_that_succeeds_leaves_no_failure(project: Project) -> None:
    with journal.recorded(project, "genpipe run"):
        with pytest.raises(KilledError), journal.stage(project, "train"):
            raise KilledError("ended by signal 9")
        with journal.stage(project, "train"):
            assert last(project).failure is None
    assert (last(project).outcome, last(project).failure) == ("done", None)


def test_what_fails_outside_a_stage_is_told_without_one(project: Project) -> None:
    with pytest.raises(ConfigError), journal.recorded(project, "genpipe run"):
        raise ConfigError(["params.yaml: train.steps is -5"])
    assert (last(project).outcome, last(project).stage) == ("failed", None)


def test_an_interrupted_run_was_stopped(project: Project) -> None:
    with pytest.raises(KeyboardInterrupt), journal.recorded(project, "genpipe run"), journal.stage(project, "train"):
        raise KeyboardInterrupt
    assert (last(project).outcome, last(project).stage) == ("stopped", "train")
    stopped = journal.Failure("KeyboardInterrupt", "stopped by Control-C in train", errors.INTERRUPTED)
    assert last(project).failure == stopped


def stop_a_training(project: Project) -> None:
    """As in a flow: the process of the stage is asked to stop, and tells how far it came."""
    with pytest.raises(StageError), journal.telling(project, "train"):
        raise StageError("stopped at step 1,234 of 20,000; the next run resumes there")
    raise KeyboardInterrupt


def test_an_interrupted_training_says_at_which_step(project: Project) -> None:
    said = "stopped by Control-C in train at step 1,234 of 20,000"
    with pytest.raises(KeyboardInterrupt, match=said), journal.recorded(project, "r"), journal.stage(project, "train"):
        stop_a_training(project)
    failure = last(project).failure
    assert failure
    assert failure.cause == said


def test_a_killed_run_is_known_by_its_process(project: Project) -> None:
    killed_run(project)
    assert (last(project).outcome, last(project).stage, last(project).vanished) == ("running", "train", True)


def test_a_run_that_was_killed_in_a_container_is_closed_by_the_next_one(project: Project) -> None:
    killed_run(project, "a1b2c3")
    assert not last(project).vanished  # nobody here can know
    with journal.recorded(project, "genpipe run"):
        before, now = journal.runs(project)
        assert (before.outcome, before.vanished, before.stage) == ("vanished", True, "train")
        assert (now.outcome, now.vanished) == ("running", False)


def test_a_living_run_of_this_machine_is_left_alone_in_a_copy_of_its_folder(project: Project, tmp_path: Path) -> None:
    with journal.recorded(project, "the original"):
        copy = Project(shutil.copytree(project.root, tmp_path / "copy"))
        with journal.recorded(copy, "the copy"):
            assert [one.outcome for one in journal.runs(copy)] == ["running", "running"]


def test_a_number_that_was_a_killed_runs_writes_nothing_into_it(project: Project) -> None:
    killed_run(project)
    journal.keep(project, [replace(last(project), pid=os.getpid(), begun="2026-01-01T00:00:00.000+00:00")])
    assert last(project).vanished
    with journal.stage(project, "evaluate"):
        pass
    assert last(project).stage == "train"


def test_the_last_runs_are_kept(project: Project) -> None:
    for number in range(journal.KEPT + 2):
        with journal.recorded(project, f"run {number}"):
            pass
    assert [one.purpose for one in journal.runs(project)] == [f"run {n}" for n in range(2, journal.KEPT + 2)]


def test_a_stage_outside_of_a_run_writes_into_nobodys(project: Project) -> None:
    killed_run(project)
    before = journal.runs(project)
    with journal.stage(project, "evaluate"):
        pass
    assert journal.runs(project) == before


@pytest.mark.parametrize("kind", [GenpipeError, *(k for k in vars(errors).values() if isinstance(k, type))])
def test_each_class_of_error_has_a_remedy_of_one_line(kind: type[Exception]) -> None:
    if issubclass(kind, GenpipeError):
        assert "remedy" in vars(kind)
        assert 20 < len(kind.remedy) < 120
        assert "\n" not in kind.remedy


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 seconds"), (1, "1 second"), (119, "119 seconds"), (120, "2 minutes"), (7300, "2 hours"),
     (172_800, "2 days"), (1_209_599, "13 days"), (1_209_600, "2 weeks")],
)  # fmt: skip
def test_ages_are_told_in_words(seconds: float, words: str) -> None:
    assert ages.lasting(seconds) == words
