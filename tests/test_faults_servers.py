"""Servers that are killed in mid-training and started again: the training goes on, and all that it logged is there."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import clones, daemons, unattended, waiting
from tests.clones import Clone
from tests.daemons import Daemon
from tests.unattended import FINAL, Site

pytestmark = pytest.mark.slow
EVERY = 50
TRAIN = {
    "generator": {"kind": "gan", "hidden_dim": 32},
    "steps": 3000,
    "batch_size": 32,
    "threads": 1,
    "pictures": 8,
    "log_every": EVERY,
    "checkpoint_every_steps": EVERY,
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A project whose stages before train are done."""
    clone = clones.make(tmp_path_factory.mktemp("servers"))
    clone.params(train=TRAIN, evaluate={"draws": 2})
    clone.run("genpipe", "stage", "ingest")
    clone.run("dvc", "repro", "calibrate")
    return clone


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return unattended.new(tmp_path_factory.mktemp("prefect"))


@pytest.fixture(scope="module")
def prefect(site: Site) -> Iterator[Daemon]:
    with daemons.running(daemons.prefect(site)) as server:
        yield server


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemons.running(daemons.mlflow(tmp_path_factory.mktemp("mlflow"))) as server:
        yield server


def step(clone: Clone) -> int:
    """The newest checkpoint's."""
    return max((int(file.name[5:]) for file in clone.root.glob(".genpipe/checkpoints/*/step-*")), default=0)


def begin_another(clone: Clone, seed: int) -> None:
    clone.params(train=TRAIN | {"seed": seed, "steps": 2000})
    shutil.rmtree(clone.root / ".genpipe" / "checkpoints", ignore_errors=True)


def started(clone: Clone, *words: str, env: dict[str, str]) -> "subprocess.Popen[bytes]":
    with (clone.root / ".genpipe" / "log").open("wb") as log:
        return subprocess.Popen(words, cwd=clone.root, env=clone.env | env, stdout=log, stderr=log)


def log(clone: Clone) -> str:
    return (clone.root / ".genpipe" / "log").read_text()


def client(server: Daemon | str) -> Any:
    import mlflow

    return mlflow.MlflowClient(server if isinstance(server, str) else server.health.removesuffix("/health"))


def the_run(server: Daemon) -> Any:
    (run,) = client(server).search_runs([client(server).get_experiment_by_name("digits").experiment_id])
    return run


def test_servers_restart_in_mid_training_and_nothing_is_lost(
    clone: Clone, site: Site, prefect: Daemon, mlflow: Daemon
) -> None:
    env = {"PREFECT_API_URL": site.api, "MLFLOW_TRACKING_URI": mlflow.health.removesuffix("/health")}
    flow = started(clone, "genpipe", "run", env=env)
    try:
        waiting.until(lambda: step(clone) >= 2 * EVERY or flow.poll() is not None, "checkpoint")
        prefect.kill()
        mlflow.kill()
        down = step(clone)
        waiting.until(lambda: step(clone) >= down + 4 * EVERY or flow.poll() is not None, "step while both were down")
        assert flow.poll() is None, log(clone)
        prefect.start()
        mlflow.start()
        assert flow.wait(400) == 0, log(clone)
    finally:
        flow.kill()
    assert "the training goes on, and what it logs waits" in log(clone)
    run = the_run(mlflow)
    assert run.info.status == "FINISHED"
    points = client(mlflow).get_metric_history(run.info.run_id, "painter_loss")
    assert [point.step for point in points] == list(range(EVERY, TRAIN["steps"] + 1, EVERY))
    pictures = [Path(file.path).name for file in client(mlflow).list_artifacts(run.info.run_id, "images")]
    shown = {int(name.split("+")[2]) for name in pictures if name.endswith(".png")}
    assert shown == {0, *range(375, TRAIN["steps"] + 1, 375)}
    assert [run["state_type"] for run in site.runs()] == ["COMPLETED"]


def test_a_training_whose_store_stays_away_ends_in_words_and_resumes(clone: Clone, mlflow: Daemon) -> None:
    env = {"MLFLOW_TRACKING_URI": mlflow.health.removesuffix("/health")}
    begin_another(clone, seed=5)
    settings = clone.root / "mlflow.yml"
    before = settings.read_text()
    settings.write_text(before.replace("tracking:\n", "tracking:\n  patience_seconds: 1\n"))
    stage = started(clone, "genpipe", "stage", "train", env=env)
    try:
        waiting.until(lambda: step(clone) >= 2 * EVERY or stage.poll() is not None, "checkpoint")
        mlflow.kill()
        assert stage.wait(240) == 1, log(clone)
    finally:
        stage.kill()
        settings.write_text(before)
    assert "the tracking store http://127.0.0.1" in log(clone)
    assert "Traceback" not in log(clone)
    mlflow.start()
    assert "resumed at step" in clone.run("genpipe", "stage", "train", env=env).stderr
    statuses = [run.info.status for run in client(mlflow).search_runs(["1"])]
    assert statuses == ["FINISHED", "FINISHED"]


def has_ended(site: Site, run: str) -> bool:
    return site.ask(f"flow_runs/{run}")["state_type"] in FINAL


def test_a_node_that_is_lost_leaves_no_run_behind_and_the_next_one_resumes(
    clone: Clone, site: Site, prefect: Daemon
) -> None:
    begin_another(clone, seed=6)
    clone.run("prefect", "work-pool", "create", "local", "--type", "process", env=site.env)
    words = ("--name", "here", "--pool", "local", "--param", f"directory={clone.root}")
    clone.run("prefect", "--no-prompt", "deploy", "flows.pipeline.pipeline", *words, env=site.env, cwd=site.folder)
    with daemons.running(daemons.worker(site, clone)) as worker:
        first = site.start("genpipe/here")
        waiting.until(lambda: step(clone) >= 2 * EVERY or has_ended(site, first), "checkpoint")
        assert not has_ended(site, first), site.log(first)
        worker.kill()
    (left,) = clone.root.glob(".genpipe/locks/pipeline.json")
    assert not psutil.pid_exists(json.loads(left.read_text())["pid"])
    assert site.ask(f"flow_runs/{first}")["state_type"] == "RUNNING"  # since nobody has told the server
    with daemons.running(daemons.worker(site, clone)):
        second = site.start("genpipe/here")
        assert site.end_of(second)["type"] == "COMPLETED", site.log(second)
    assert "resumed at step" in site.log(second)
    assert site.ask(f"flow_runs/{first}")["state_type"] == "CRASHED"
    tasks = site.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [first]}}})
    assert {task["name"].partition("-")[0]: task["state_type"] for task in tasks}["train"] == "CRASHED"
    (run,) = client(f"sqlite:///{site.folder / 'mlflow.db'}").search_runs(["1"])
    assert run.info.status == "FINISHED"
