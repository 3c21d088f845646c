"""lineage: from any file, version or digest to all that belongs to it, and back, in MLflow's registry and in git."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml

from genpipe import __version__, cli, dag
from genpipe.champion import ledger
from genpipe.data import dataset
from genpipe.data.arrays import write_arrays
from genpipe.data.dataset import Stored
from genpipe.files import write_json
from genpipe.project import Project
from genpipe.records import recording, registry, tracking
from genpipe.records.registry import EVALUATION, digest_of
from genpipe.sources import digits
from tests import clones, projects

NAME = "genpipe"  # the default of mlflow.yml
GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.invalid")
ABOUT = replace(digits.DATASET, name="squares", licence="CC0", source="made here")


def git(project: Project, *words: str) -> str:
    return subprocess.run([*GIT, *words], cwd=project.root, check=True, capture_output=True, text=True).stdout.strip()


def add_data(project: Project, *values: int) -> str:
    """Grow the data by squares of these values, and commit; returns the commit."""
    rows = [{"image": np.full((4, 4), value, np.uint8), "label": 0} for value in values]
    stored, _ = dataset.add(project.data, ABOUT, rows)
    dag.version_data(project, stored.digest)
    git(project, "add", "data.dvc", "params.yaml", "dvc.yaml", "suites", ".gitignore")
    git(project, "commit", "-qm", f"squares {values}")
    return git(project, "rev-parse", "HEAD")


def add_version(project: Project, weights: str) -> int:
    """Train with a run in MLflow, as the stage does, write outputs and register them."""
    train = project.artifacts / "train"
    train.mkdir(parents=True, exist_ok=True)
    (train / "model.safetensors").write_text(weights)
    write_json(train / "config.json", {"digest": f"training of {weights}"})
    write_json(project.artifacts / "evaluate" / "metrics.json", {"of": weights})
    config = {"generator": {"kind": "gan", "latent_dim": 7}, "steps": 30, "seed": 2}
    with recording.training_run(project, f"{weights}7000", config, resumed=False) as run:
        run_id = run.run_id
    tags = {
        **tracking.run_origin(project, run_id),
        registry.MODEL: digest_of(train / "model.safetensors", train / "config.json"),
        EVALUATION: digest_of(project.artifacts / "evaluate" / "metrics.json"),
    }
    client = mlflow.MlflowClient()
    return int(client.create_model_version(NAME, "nowhere", run_id=run_id, tags=tags).version)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, list[str], list[str]]:
    """Version 1 of the first data, versions 2 and 3 of more; with the commits of the data, and the digests of rows."""
    project = projects.make(tmp_path_factory.mktemp("lineage"))
    (project.root / ".gitignore").write_text("/data\n/artifacts\n/mlflow.db\n/mlartifacts\n/.genpipe\n")
    git(project, "init", "-q")
    dag.dvc(project, "init", "--quiet")
    image, label = np.zeros((1, 1, 4, 4), np.uint8), np.zeros(1, np.int64)
    for split in ("train", "validation", "test"):
        write_arrays(
            project.artifacts / "augment" / split, {"image": image, "label": label, "id": np.array(["0" * 32])}
        )
    tracking.connect(project)
    mlflow.MlflowClient().create_registered_model(NAME)
    commits, digests = [add_data(project, 1, 2)], [Stored.find(project.data).digest]
    add_version(project, "aaaaaa")
    commits.append(add_data(project, 3))
    digests.append(Stored.find(project.data).digest)
    add_version(project, "bbbbbb")
    with (project.root / "params.yaml").open("a") as file:
        file.write("# an edit\n")
    add_version(project, "cccccc")
    ledger.promote(project, registry.resolve(project, "2"), why="sharper")
    return project, commits, digests


@pytest.fixture
def project(made: tuple[Project, list[str], list[str]], monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("COLUMNS", "160")
    return made[0]


def lineage(project: Project, capsys: pytest.CaptureFixture[str], what: str | Path, code: int = 0) -> Any:
    assert cli.main(["lineage", str(what), "--json", "-C", str(project.root)]) == code
    captured = capsys.readouterr()
    return json.loads(captured.out) if code == 0 else captured.err


def numbers(answer: dict[str, Any]) -> list[int]:
    return [one["version"]["number"] for one in answer["versions"]]


def test_a_version_leads_to_its_data_code_settings_training_and_evaluation(
    made: tuple[Project, list[str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    project, commits, digests = made
    for word in ("1", f"models:/{NAME}/1"):
        (found,) = lineage(project, capsys, word)["versions"]
    assert found["data"]["digest"] == digests[0]
    assert (found["data"]["name"], found["data"]["rows"], found["data"]["licence"]) == ("squares", 2, "CC0")
    assert found["data"]["revision"] == commits[0]
    assert found["code"] == {"commit": commits[0], "committed": True, "genpipe": __version__}
    assert found["settings"]["generator.latent_dim"] == "7"
    assert found["training"]["digest"] == "aaaaaa7000"
    assert found["training"]["page"].endswith(f"/runs/{found['training']['run']}")
    (found,) = lineage(project, capsys, "champion")["versions"]
    assert (found["version"]["number"], found["version"]["aliases"]) == (2, ["champion"])
    assert (found["data"]["revision"], found["data"]["rows"]) == (commits[1], 3)
    assert [(move["kind"], move["why"]) for move in found["promotions"]] == [("promoted", "sharper")]
    (found,) = lineage(project, capsys, "3")["versions"]
    assert found["code"] == {"commit": commits[1], "committed": False, "genpipe": __version__}


def test_a_digest_leads_to_every_version_that_knows_it(
    made: tuple[Project, list[str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    project, commits, digests = made
    assert numbers(lineage(project, capsys, digests[0])) == [1]
    answer = lineage(project, capsys, digests[1][:12])
    assert numbers(answer) == [3, 2]
    assert answer["asked"] == f"data {digests[1][:12]}"
    assert numbers(lineage(project, capsys, commits[1][:10])) == [3, 2]
    (first,) = lineage(project, capsys, "1")["versions"]
    for part in ("training", "model", "evaluation"):
        assert numbers(lineage(project, capsys, first[part]["digest"][:8])) == [1], part
    assert numbers(lineage(project, capsys, first["data"]["files"])) == [1]


def test_files_lead_to_the_version_that_was_made_with_them(
    made: tuple[Project, list[str], list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    project, _, digests = made
    for name in ("train", "train/model.safetensors", "evaluate/metrics.json"):
        assert numbers(lineage(project, capsys, project.artifacts / name)) == [3], name
    assert numbers(lineage(project, capsys, "artifacts/train")) == [3]  # from the project's folder (-C)
    for place in (project.artifacts / "augment" / "train", project.root / "data.dvc", project.data):
        answer = lineage(project, capsys, place)
        assert numbers(answer) == [3, 2]
        assert {one["data"]["digest"] for one in answer["versions"]} == {digests[1]}
    (first,) = lineage(project, capsys, "1")["versions"]
    (tmp_path / "00000.png").touch()
    samples = {"model": "models:/genpipe@champion", "digest": first["model"]["digest"], "seed": 5, "samples": []}
    write_json(tmp_path / "manifest.json", samples)
    for path in (tmp_path, tmp_path / "00000.png", tmp_path / "manifest.json"):
        answer = lineage(project, capsys, path)
        assert numbers(answer) == [1]
        assert answer["samples"]["seed"] == 5


def test_what_has_changed_since_is_not_taken_for_what_it_was(
    project: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(project.artifacts / "train", tmp_path / "copy")
    assert numbers(lineage(project, capsys, tmp_path / "copy")) == [3]
    (tmp_path / "copy" / "model.safetensors").write_text("other weights")
    told = lineage(project, capsys, tmp_path / "copy", code=1)
    assert "no version of genpipe knows the model" in told
    told = lineage(project, capsys, tmp_path, code=1)
    assert "is no output of this project" in told
    write_json(tmp_path / "manifest.json", {"model": "models:/genpipe@champion"})
    assert "an older genpipe wrote it" in lineage(project, capsys, tmp_path, code=1)


def test_a_word_that_names_nothing_or_too_much_is_told(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no version of genpipe knows the digest 0123456789ab" in lineage(project, capsys, "0123456789abcd", code=1)
    assert "'winner' is no version of genpipe; versions: 3, 2, 1" in lineage(project, capsys, "winner", code=1)
    client = mlflow.MlflowClient()
    client.set_model_version_tag(NAME, "1", EVALUATION, "abcdef1")
    client.set_model_version_tag(NAME, "2", EVALUATION, "abcdef2")
    told = lineage(project, capsys, "abcdef", code=1)
    assert "'abcdef' is the beginning of several digests: evaluation abcdef2…, evaluation abcdef1…" in told


def test_sampling_a_version_that_is_not_there_tells_which_are(
    project: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for word, told in (
        ("models:/genpipe@challenger", "is no version of genpipe; versions: 3, 2, 1; aliases: champion"),
        ("models:/genpipe/9", "is no version of genpipe; versions: 3, 2, 1; aliases: champion"),
        ("models:/other/1", "is not in the registry"),
    ):
        assert cli.main(["sample", word, "--out", str(tmp_path / "out"), "-C", str(project.root)]) == 1
        assert f"'{word}' {told}" in capsys.readouterr().err


def test_the_terminal_shows_one_version_as_a_page_and_several_as_a_table(
    made: tuple[Project, list[str], list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, commits, digests = made
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.main(["lineage", "champion", "-C", str(project.root)]) == 0
    printed = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "50")
    assert cli.main(["lineage", "champion", "-C", str(project.root)]) == 0
    assert capsys.readouterr().out.split() == printed.split()
    assert "genpipe version 2 (champion)" in printed
    assert f"squares, 3 rows, {digests[1][:12]}" in printed
    assert f"data.dvc of commit {commits[1][:12]}" in printed
    assert f"commit {commits[1][:12]}, all of it committed, genpipe" in printed
    assert "generator.kind gan, steps 30, seed 2; all 4 of them in the run" in printed
    assert re.search(r"promoted [-0-9]+ [0-9:]+ UTC by .+: sharper$", printed, re.MULTILINE)
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.main(["lineage", digests[1], "-C", str(project.root)]) == 0
    printed = capsys.readouterr().out
    assert f"versions of genpipe with data {digests[1][:12]}" in printed
    assert f"{commits[1][:8]} +" in printed


@pytest.mark.slow
def test_a_run_that_was_deleted_takes_the_settings_and_nothing_else(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    number = add_version(project, "dddddd")
    run = registry.resolve(project, str(number)).run_id
    mlflow.MlflowClient().delete_run(run)
    uri = project.mlflow.server.mlflow_tracking_uri
    words = ["mlflow", "gc", "--backend-store-uri", uri, "--tracking-uri", uri, "--run-ids", str(run)]
    subprocess.run(words, check=True, capture_output=True)
    (found,) = lineage(project, capsys, str(number))["versions"]
    assert found["settings"] is None
    assert found["training"] == {"digest": "dddddd7000", "run": run, "page": None}
    assert found["data"]["name"] == "squares"


@pytest.mark.slow
def test_on_a_whole_project_samples_lead_back_to_data_that_git_names(tmp_path: Path) -> None:
    clone = clones.make(tmp_path / "project")
    clone.add_plugins("generators/blot.py")
    clone.params(train={"generator": {"kind": "blot"}, "steps": 20, "optimizer": {"lr": 0.1}, "ema_decay": 0.5})
    clones.commit(clone, "a toy")
    first, commit = clone.git("rev-list", "--reverse", "HEAD").split()
    clone.run("genpipe", "stage", "ingest")
    clone.run("dvc", "repro")
    clone.run("genpipe", "stage", "register")
    clone.run("genpipe", "sample", "models:/digits@champion", "-n", "3", "--out", "some")
    answer = json.loads(clone.run("genpipe", "lineage", "some/00002.png", "--json").stdout)
    (found,) = answer["versions"]
    named = yaml.safe_load((clone.root / "data.dvc").read_text())
    assert (found["data"]["digest"], found["data"]["files"]) == (named["meta"]["rows"], named["outs"][0]["md5"])
    assert (found["data"]["name"], found["data"]["rows"], found["data"]["revision"]) == ("digits", 1797, first)
    assert found["code"] == {"commit": commit, "committed": True, "genpipe": __version__}
    assert found["version"]["aliases"] == ["champion"]
    assert answer["samples"]["version"] == found["version"]["number"] == 1
    assert clone.run("genpipe", "lineage", "artifacts/evaluate/report.html", "--json").stdout.count('"number": 1') == 1
    digests = [found["training"]["digest"], *found["evaluation"].values(), named["meta"]["rows"]]
    for digest in digests:
        assert "digits version 1 (champion)" in clone.run("genpipe", "lineage", digest[:10]).stdout
    assert (found["gate"]["outcome"], found["promotions"][0]["kind"]) == ("promoted", "promoted")
    client = mlflow.MlflowClient(f"sqlite:///{clone.root / 'mlflow.db'}")
    version = client.get_model_version("digits", "1")
    run = client.get_run(version.run_id)
    assert run.data.tags["mlflow.note.content"] == version.description
    for link in (f"/runs/{version.run_id})", "(#/models/digits/versions/1)", named["meta"]["rows"][:12], commit[:12]):
        assert link in version.description
    (file,) = (clone.root / "mlartifacts").rglob("code/genpipe/generators/blot.py")
    file.write_text(file.read_text() + "# edited\n")
    client.delete_registered_model_alias("digits", "champion")
    told = clone.run("genpipe", "promote", "1", code=1).stderr
    assert "are not those that were registered: their digest genpipe.code" in told
    assert "moved outside" in clone.run("genpipe", "history").stdout
