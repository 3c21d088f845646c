"""Faults caused for real in a flow: cancelled, killed, out of time. Nothing is lost and nothing is left behind."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import clones, waiting
from tests.clones import Clone

pytestmark = pytest.mark.slow
STEPS = 5000  # some ten seconds, in which a signal has to arrive
TRAIN = {"generator": {"kind": "gan", "hidden_dim": 32}, "steps": STEPS, "batch_size": 32, "threads": 1, "pictures": 0}
TIMED = """
from pathlib import Path
from prefect import flow
from genpipe.project import Project
from tasks import stages

@flow
def short():
    state = stages.train.with_options(timeout_seconds=12)(Project(Path.cwd()), return_state=True)
    print("state:", state.name)
    return "the state was looked at"

short()
"""
# What it is given on stdin is typed there: Control-C goes to every process of the foreground group.
IN_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A project whose stages before train are done."""
    clone = clones.make(tmp_path_factory.mktemp("faults"))
    clone.params(train={**TRAIN, "checkpoint_every_steps": 100})
    clone.run("genpipe", "stage", "ingest")
    clone.run("dvc", "repro", "calibrate")
    return clone


@contextmanager
def running(clone: Clone, *before: str) -> "Iterator[subprocess.Popen[bytes]]":
    """A flow in a process of its own, which does not outlive the test; `before` is the command that is to run it."""
    command = [*before, "genpipe", "run"]
    with (clone.root / ".genpipe" / "run.log").open("w") as log:
        flow = subprocess.Popen(
            command, cwd=clone.root, env=clone.env, stdin=subprocess.PIPE, stdout=log, stderr=log, bufsize=0
        )
    try:
        yield flow
    finally:
        flow.terminate()
        flow.communicate(timeout=60)


def log(clone: Clone) -> str:
    return (clone.root / ".genpipe" / "run.log").read_text()


def wait_for_checkpoints(clone: Clone, flow: "subprocess.Popen[bytes]", count: int, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while len(list((clone.root / ".genpipe").glob("checkpoints/*/step-*"))) < count:
        assert flow.poll() is None, log(clone)
        assert time.monotonic() < end, log(clone)
        time.sleep(0.05)


def stage_processes(clone: Clone) -> list[psutil.Process]:
    """What works in the clone's folder for the stage train."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[-2:] == ["stage", "train"] and process.cwd() == str(clone.root):
            found.append(process)
    return found


def servers(clone: Clone) -> list[psutil.Process]:
    """Temporary Prefect servers that a flow of the clone has started."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any("prefect.server" in word for word in process.info["cmdline"] or []):
            found += [process] if process.environ().get("PREFECT_HOME") == clone.env["PREFECT_HOME"] else []
    return found


def training_runs(clone: Clone) -> list[Any]:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{clone.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("digits")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def test_a_cancelled_flow_checkpoints_first_and_leaves_no_process(clone: Clone) -> None:
    with running(clone) as flow:
        wait_for_checkpoints(clone, flow, 1)
        flow.send_signal(signal.SIGTERM)
        assert flow.wait(60) != 0
    stopped = re.search(rf"stopped at step ([\d,]+) of {STEPS:,}", log(clone))
    assert stopped, log(clone)
    step = int(stopped[1].replace(",", ""))
    assert (max(clone.root.glob(".genpipe/checkpoints/*/step-*"))).name == f"step-{step:08d}"
    assert stage_processes(clone) == []
    assert servers(clone) == []
    assert [run.info.status for run in training_runs(clone)] == ["KILLED"]


def test_a_killed_stage_is_retried_and_resumes_in_the_same_run(clone: Clone) -> None:
    with running(clone) as flow:
        waiting.until(lambda: "resumed at step" in log(clone), "resumed training")
        (stage, *_) = stage_processes(clone)
        stage.send_signal(signal.SIGKILL)
        assert flow.wait(300) == 0, log(clone)
    assert log(clone).count("resumed at step") == 2  # after the cancellation, and after the kill
    (run,) = training_runs(clone)
    assert run.info.status == "FINISHED"
    assert logged_steps(clone, run) == list(range(100, STEPS + 1, 100))


def logged_steps(clone: Clone, run: Any) -> list[int]:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{clone.root / 'mlflow.db'}")
    return [point.step for point in client.get_metric_history(run.info.run_id, "painter_loss")]


def test_a_time_out_ends_the_whole_group(clone: Clone, tmp_path: Path) -> None:
    clone.params(train={**TRAIN, "steps": 400_000})
    script = tmp_path / "timed.py"
    script.write_text(TIMED)
    printed = clone.run("python", str(script)).stdout
    assert "state: TimedOut" in printed
    assert stage_processes(clone) == []
    assert list(clone.root.glob(".genpipe/checkpoints/*/step-*"))  # it was asked to stop before it was killed


def wait_for_stage(clone: Clone) -> psutil.Process:
    return waiting.until(lambda: stage_processes(clone), "stage train")[0]


def test_control_c_ends_a_run_with_a_checkpoint_and_a_word(clone: Clone) -> None:
    clone.params(train={**TRAIN, "seed": 3, "steps": 400_000, "checkpoint_every_steps": 400_000})
    with running(clone, sys.executable, "-c", IN_A_TERMINAL) as terminal:
        wait_for_stage(clone)
        waiting.until(lambda: "RUNNING" in statuses(clone), "training that is under way")
        assert len(servers(clone)) == 1
        assert terminal.stdin
        terminal.stdin.write(b"\x03")
        assert terminal.wait(60) == 130, log(clone)
    said = re.search(r"genpipe: (stopped by Control-C in train at step ([\d,]+) of 400,000); `genpipe run`", log(clone))
    assert said, log(clone)
    assert [word for word in ("Traceback", "Crash", "Error") if word in log(clone)] == []
    newest = max(clone.root.glob(".genpipe/checkpoints/*/step-*"), key=lambda file: file.stat().st_mtime)
    assert newest.name == f"step-{int(said[2].replace(',', '')):08d}"
    assert stage_processes(clone) == []
    assert servers(clone) == []
    assert "RUNNING" not in statuses(clone)
    last = json.loads(clone.run("genpipe", "status", "--json").stdout)["runs"]["last"][0]
    assert (last["outcome"], last["stage"], last["failure"]["cause"]) == ("stopped", "train", said[1])


def test_whoever_comes_second_is_told_and_the_first_ends_well(clone: Clone) -> None:
    clone.params(train={**TRAIN, "steps": 6000})
    # What another stage reads is not rewritten either, by augment.
    seconds = ["genpipe run", "genpipe stage train", "genpipe stage augment", "dvc repro augment"]
    with running(clone) as flow, ThreadPoolExecutor() as pool:
        wait_for_stage(clone)
        told = list(pool.map(partial(told_to, clone), seconds))
        assert f"the project is in use by process {flow.pid} (genpipe run, since" in told[0]
        by_either = r"genpipe stage (train|augment): the project is in use by process \d+ \(genpipe (run|stage train)"
        assert re.search(by_either, told[1])
        assert re.search(by_either, told[2])
        assert "is being blocked by" in told[3]
        assert flow.wait(300) == 0, log(clone)
    assert json.loads(clone.run("dvc", "status", "--json").stdout) == {}
    assert statuses(clone) <= {"FINISHED", "KILLED"}


def told_to(clone: Clone, command: str) -> str:
    """What a command says that is refused."""
    return clone.run(*command.split(), code=255 if command.startswith("dvc") else 1).stderr


# DVC runs a stage by the user's shell: bash becomes the stage, another may stand between the two.
@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh"])
def test_a_run_beside_dvc_is_told_and_a_stage_whose_dvc_is_killed_stops(clone: Clone, shell: str) -> None:
    clone.params(train={**TRAIN, "seed": len(shell), "steps": 400_000, "checkpoint_every_steps": 400_000})
    env = clone.env | {"SHELL": shell}
    with subprocess.Popen(["dvc", "repro", "train"], cwd=clone.root, env=env, stdout=subprocess.DEVNULL) as dvc:
        try:
            stage = wait_for_stage(clone)
            waiting.until(lambda: "RUNNING" in statuses(clone), "training that is under way")
            told = clone.run("genpipe", "run", code=1).stderr
            assert f"the project is in use by process {stage.pid} (genpipe stage train" in told
        finally:
            dvc.kill()
    stage.wait(60)
    newest = max(clone.root.glob(".genpipe/checkpoints/*/step-*"), key=lambda file: file.stat().st_mtime)
    assert 0 < int(newest.name.removeprefix("step-")) < 400_000
    assert "RUNNING" not in statuses(clone)


def statuses(clone: Clone) -> set[str]:
    return {run.info.status for run in training_runs(clone)}
