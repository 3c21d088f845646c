"""The train stage as a process of its own: killed, stopped, run again, and in the end the same files."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import mlflow
import pytest
import yaml

from genpipe.data import dataset
from genpipe.project import Project
from genpipe.sources import digits as source

SETTINGS = {
    "generator": {"kind": "gan", "hidden_dim": 32},
    "steps": 1500,
    "batch_size": 32,
    "threads": 1,
    "log_every": 70,
    "pictures": 3,
    "checkpoint_every_steps": 100,
}
KILL = """
import os, signal
from genpipe.stages import train
publish = train.publish
def killed(session):
    {before}
    os.kill(os.getpid(), signal.SIGKILL)
train.publish = killed
"""
STAGE = """
import sys
from pathlib import Path
from genpipe.errors import GenpipeError
from genpipe.project import Project
from genpipe.stages import train
project = Project(Path(sys.argv[1]))
try:
    print(train.run(project.section("train", train.Config), project))
except GenpipeError as error:
    sys.exit(str(error))
"""


def project_at(root: Path, digits: Path, **settings) -> Project:
    """A project folder with the augmented digits and what tracking asks for."""
    shutil.copytree(digits, root / "artifacts" / "augment", dirs_exist_ok=True)
    dataset.add(root / "data", source.DATASET, islice(source.rows(source.Config(), root), 3))
    (root / "data.dvc").write_text(yaml.safe_dump({"outs": [{"md5": "0" * 32, "path": "data"}]}))
    (root / "params.yaml").write_text(yaml.safe_dump({"train": {**SETTINGS, **settings}}))
    (root / "dvc.yaml").write_text("stages: {}\n")
    return Project(root)


def start(project: Project, script: str = STAGE) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", script, str(project.root)]
    return subprocess.Popen(command, cwd=project.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(project: Project) -> str:
    """Run to the end; what was written to stderr."""
    child = start(project)
    _, errors = child.communicate(timeout=300)
    assert child.returncode == 0, errors
    return errors


def interrupt(project: Project, number: signal.Signals, after: int) -> tuple[int, str]:
    """Send a signal once there are `after` checkpoints; the exit code and what was written to stderr."""
    child, until = start(project), time.monotonic() + 120
    while len(checkpoints(project)) < after and time.monotonic() < until:
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.005)
    child.send_signal(number)
    _, errors = child.communicate(timeout=60)
    return child.returncode, errors


def checkpoints(project: Project) -> list[Path]:
    return sorted(project.state.glob("checkpoints/*/step-*"))


def outputs(project: Project) -> dict[str, bytes]:
    folder = project.artifacts / "train"
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> dict[str, bytes]:
    """The outputs of a run that nobody stopped."""
    project = project_at(tmp_path_factory.mktemp("whole"), digits)
    finish(project)
    assert [folder.name for folder in checkpoints(project)] == ["step-00001500"]
    return outputs(project)


@pytest.mark.slow
def test_a_run_writes_what_it_promises(whole: dict[str, bytes]) -> None:
    pictures = {f"samples/step-{step:08d}.png" for step in (0, 500, 1000, 1500)}
    assert set(whole) == {"model.safetensors", "config.json", "curves.csv", *pictures}
    steps = [line.split(b",")[0] for line in whole["curves.csv"].splitlines()]
    assert steps == [b"step", *(str(step).encode() for step in [*range(70, 1500, 70), 1500])]


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bytes(whole: dict[str, bytes], digits: Path, tmp_path: Path) -> None:
    project = project_at(tmp_path, digits)
    code, _ = interrupt(project, signal.SIGKILL, after=2)
    assert code == -signal.SIGKILL
    assert re.search(r"train: resumed at step [\d,]+00 of 1,500", finish(project))
    assert outputs(project) == whole


@pytest.mark.slow
def test_a_stopped_run_says_where_and_resumes_there(whole: dict[str, bytes], digits: Path, tmp_path: Path) -> None:
    project = project_at(tmp_path, digits)
    code, errors = interrupt(project, signal.SIGTERM, after=1)
    assert code == 1
    stopped = re.search(r"stopped at step ([\d,]+) of 1,500; the next run resumes there", errors)
    assert stopped
    assert f"train: resumed at step {stopped[1]} of 1,500" in finish(project)
    assert outputs(project) == whole


@pytest.mark.slow
def test_other_settings_start_anew_and_say_why(digits: Path, tmp_path: Path) -> None:
    project = project_at(tmp_path, digits)
    interrupt(project, signal.SIGTERM, after=1)
    left = checkpoints(project)
    project_at(tmp_path, digits, steps=200, generator={"kind": "gan", "hidden_dim": 16})
    errors = finish(Project(tmp_path))
    assert "is not resumed, since these differ: config.steps: 1500 → 200" in errors
    assert "config.generator.hidden_dim: 32 → 16" in errors
    assert set(checkpoints(project)) > set(left)


@pytest.mark.slow
@pytest.mark.parametrize("before", ["pass", "publish(session)"])
def test_a_kill_around_publishing_leaves_one_run_and_the_same_bytes(
    before: str, whole: dict[str, bytes], digits: Path, tmp_path: Path
) -> None:
    project = project_at(tmp_path, digits)
    child = start(project, KILL.format(before=before) + STAGE)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL, errors
    assert "train: complete already; its outputs are written again" in finish(project)
    assert outputs(project) == whole
    assert_one_whole_run(project)


@pytest.mark.slow
def test_lost_outputs_are_written_again_without_training(whole: dict[str, bytes], digits: Path, tmp_path: Path) -> None:
    project = project_at(tmp_path, digits)
    finish(project)
    shutil.rmtree(project.artifacts / "train")
    without_effect = {"checkpoint_keep": 5, "checkpoint_every_steps": 77, "max_seconds": 1e6}
    assert "complete already" in finish(project_at(tmp_path, digits, **without_effect))
    assert outputs(project) == whole
    assert_one_whole_run(project)
    (tmp_path / "mlflow.db").unlink()  # another store is told all that there is to know
    finish(project)
    assert_one_whole_run(project)


def assert_one_whole_run(project: Project) -> None:
    """The store holds one run, complete, with each point once."""
    client = mlflow.MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("genpipe").experiment_id])
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "painter_loss")
    assert [point.step for point in points] == [*range(70, 1500, 70), 1500]


@pytest.mark.slow
def test_of_other_trainings_only_a_few_unfinished_ones_stay(digits: Path, tmp_path: Path) -> None:
    project = project_at(tmp_path, digits, steps=20)
    finish(project)
    (done,) = checkpoints(project)
    content = json.loads((done / "state.json").read_text())
    for number, step in enumerate([7, 7, 20, 7, 7]):
        shutil.copytree(done, other := done.parents[1] / f"other-{number}" / "step-00000007")
        (other / "state.json").write_text(json.dumps({**content, "step": step}))
        os.utime(other.parent, (1e9 + number, 1e9 + number))
    finish(project_at(tmp_path, digits, steps=10))
    left = {folder.parent.name: folder.name for folder in checkpoints(project)}
    assert len(left) == 4
    assert {"other-1", "other-3", "other-4"} < set(left)
    assert done.parent.name not in left
