"""Four projects at work at once that share DVC's cache, one MLflow store and one PREFECT_HOME: each ends well."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from genpipe.records import recording, tracking
from tests import clones, projects
from tests.clones import Clone

pytestmark = pytest.mark.slow
FOUR = range(1, 5)
LOGGING = """
import sys
from pathlib import Path
from genpipe.records import tracking
from genpipe.project import Project

project = Project(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
import mlflow
with mlflow.start_run(experiment_id=tracking.connect(project)) as run:
    for step in range(20):
        mlflow.log_metrics({f"loss_{number}": 1.0 for number in range(10)}, step=step)
"""


def together(commands: Sequence[Sequence[str]], **options: Any) -> "list[subprocess.Popen[str]]":
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return [subprocess.Popen(command, text=True, **pipes, **options) for command in commands]


def client(store: str) -> Any:
    import mlflow

    return mlflow.MlflowClient(store)


def test_a_store_that_four_find_absent_is_made_once_and_takes_every_point(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    folders = [projects.make(tmp_path / str(number)).root for number in FOUR]
    four = together(
        [[sys.executable, "-c", LOGGING, str(folder)] for folder in folders],
        env={**os.environ, "MLFLOW_TRACKING_URI": store},
    )
    for process in four:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in four:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in four:
        said, _ = process.communicate(timeout=400)
        assert process.returncode == 0, said
    (experiment,) = [one for one in client(store).search_experiments() if one.name != "Default"]
    runs = client(store).search_runs([experiment.experiment_id])
    assert len(runs) == 4
    for run in runs:
        points = [client(store).get_metric_history(run.info.run_id, f"loss_{number}") for number in range(10)]
        assert [[point.step for point in key] for key in points] == [list(range(20))] * 10


def test_a_store_that_is_locked_for_longer_than_it_waits_takes_every_point_in_the_end(tmp_path: Path) -> None:
    project = projects.make(tmp_path)
    run_id = client(project.mlflow.server.mlflow_tracking_uri).create_run(tracking.connect(project)).info.run_id
    run = recording.TrainingRun(project, run_id)
    with sqlite3.connect(tmp_path / "mlflow.db") as other:
        other.execute("BEGIN EXCLUSIVE")  # as a process that was stopped in mid-transaction
        run.log(1, {"loss": 0.5})
        run.flush()
        other.rollback()
    run.log(2, {"loss": 0.25})
    run.drain()
    points = client(project.mlflow.server.mlflow_tracking_uri).get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(1, 0.5), (2, 0.25)]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[Clone]:
    shared = tmp_path_factory.mktemp("shared")
    made = []
    for number in FOUR:
        clone = clones.make(tmp_path_factory.mktemp("four") / str(number))
        train = {"generator": {"kind": "gan", "hidden_dim": 16}, "steps": 40, "batch_size": 32, "threads": 1}
        clone.params(train={**train, "seed": number, "pictures": 1, "log_every": 10}, evaluate={"draws": 2})
        settings = clone.root / "mlflow.yml"
        named = settings.read_text().replace("registry:\n  name: digits", f"registry:\n  name: digits-{number}")
        settings.write_text(named.replace("artifacts: mlartifacts", f"artifacts: {shared / 'files'}"))
        clone.run("dvc", "config", "cache.dir", str(shared / "cache"))
        clones.commit(clone, "stores that four share")
        made.append(clone)
    return made


def test_four_runs_at_once_share_cache_store_and_home(four: list[Clone], tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    logs = [tmp_path / str(number) for number in FOUR]
    shared = {"MLFLOW_TRACKING_URI": store, "PREFECT_HOME": str(tmp_path / "prefect")}
    runs = []
    for clone, file in zip(four, logs, strict=True):
        with file.open("wb") as log:
            env = clone.env | shared
            runs.append(subprocess.Popen(["genpipe", "run"], cwd=clone.root, env=env, stdout=log, stderr=log))
    for run, file in zip(runs, logs, strict=True):
        assert run.wait(900) == 0, file.read_text()[-3000:]
    experiment = client(store).get_experiment_by_name("digits").experiment_id
    trained = client(store).search_runs([experiment])
    assert [run.info.status for run in trained] == ["FINISHED"] * 4
    versions = [client(store).get_model_version_by_alias(f"digits-{number}", "champion") for number in FOUR]
    assert {version.run_id for version in versions} == {run.info.run_id for run in trained}
    for run in trained:
        points = client(store).get_metric_history(run.info.run_id, "painter_loss")
        assert [point.step for point in points] == [10, 20, 30, 40]
    for clone in four:
        assert clone.run("dvc", "status", "--json").stdout.strip() == "{}"
