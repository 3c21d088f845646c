"""Every stage tried in a throw-away project: what works is told, what fails too, and nothing of it stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from genpipe.data.dataset import Stored
from genpipe.project import Project
from genpipe.rehearsal import slices, smoke
from tests import projects
from tests.test_estimate import ABOUT, files, rows

TRAIN = {"generator": {"kind": "vae", "hidden_dim": 16}, "steps": 50_000, "threads": 1, "log_every": 500}


def test_a_slice_has_enough_of_each_class(tmp_path: Path) -> None:
    project = projects.with_rows(projects.make(tmp_path / "project"), ABOUT, list(rows(0, 200)))
    taken = slices.take(project, tmp_path / "slice", 10, a_class=30)
    assert taken is not None
    labels = [row["label"] for row in Stored.find(tmp_path / "slice").read_rows(["label"])]
    assert len(labels) == 60
    assert min(labels.count(0), labels.count(1)) > 20


def test_settings_are_the_project_s_but_for_what_takes_long(tmp_path: Path) -> None:
    project = projects.make(tmp_path, train=TRAIN, augment={"test": 0.02}, evaluate={"neighbours": 3})
    small = smoke.smaller(project)
    assert (small["train"]["steps"], small["train"]["generator"]) == (20, TRAIN["generator"])
    assert small["evaluate"] == {"neighbours": 3, "draws": 2, "most": 500}
    assert small["augment"]["test"] == 0.2
    assert project.params["train"]["steps"] == 50_000


def test_rules_that_would_stop_are_only_counted() -> None:
    rules = [{"column": "error", "action": "quarantine"}, {"column": "label", "action": "stop", "mostly": 0.9}]
    assert smoke.lenient(rules) == [rules[0], {"column": "label", "action": "report", "mostly": 0.9}]


@pytest.mark.slow
def test_every_stage_is_tried_and_nothing_of_it_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = projects.make(tmp_path / "project", train=TRAIN)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'shared.db'}")
    (project.state / "smoke" / "left-by-a-kill").mkdir(parents=True)
    before = files(project.root)
    smoke.run(project)
    printed = capsys.readouterr().out
    told = [line.split()[0] for line in printed.splitlines() if line[:1].islower()]
    assert list(dict.fromkeys(told)) == [
        "ingest", "validate", "augment", "calibrate", "train", "evaluate", "register",
    ]  # fmt: skip
    assert "digits: 1,797 of 1,797 examples (in the source)" in printed
    assert "genpipe-smoke version 1" in printed
    assert "Every stage works." in printed
    gone = {name for name in before if "smoke" in name}
    left = {name: stamp for name, stamp in files(project.root).items() if not name.startswith(".genpipe")}
    assert left == {name: stamp for name, stamp in before.items() if name not in gone and name != ".genpipe"}
    assert [entry.name for entry in project.state.iterdir()] == ["locks"]
    assert not (tmp_path / "shared.db").exists()


@pytest.mark.slow
def test_a_stage_that_fails_is_told_as_in_a_run(tmp_path: Path) -> None:
    project = projects.make(tmp_path, train=TRAIN, ingest={"source": {"kind": "folder", "name": "pets", "path": "in"}})
    (tmp_path / "in").mkdir()
    for number in range(20):
        (tmp_path / "in" / f"{number}.png").write_bytes(b"no picture %d" % number)
    done = tried(project)
    assert done.returncode == 1
    assert "20 of 20 rows are bad (20 × can't be decoded)" in done.stderr
    assert "Every stage works" not in done.stdout
    assert [entry.name for entry in project.state.iterdir()] == ["locks"]
    assert yaml.safe_load((tmp_path / "params.yaml").read_text())["train"] == TRAIN


def tried(project: Project) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "genpipe", "run", "--smoke", "--set", "train.seed=1", "-C", str(project.root)]
    return subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False)
