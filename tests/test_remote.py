"""Two clones and a DVC remote: one trains and pushes, the other pulls and registers, then examples are taken back.

The tests follow both from beginning to end, each where the one before has left them.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from tests import clones, searching
from tests.clones import Clone

pytestmark = pytest.mark.slow
SHORT = {"generator": {"kind": "gan"}, "steps": 60, "log_every": 20, "pictures": 2}


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("remote") / "store"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, remote: Path) -> Clone:
    """A project that was run once, its data and outputs pushed, all that git keeps committed."""
    clone = clones.make(tmp_path_factory.mktemp("project") / "one")
    clone.params(train=SHORT)
    clone.run("dvc", "remote", "add", "--quiet", "--default", "store", str(remote))
    clones.commit(clone, "a short training, a remote")
    clone.run("genpipe", "run")
    clone.run("dvc", "push")
    clones.commit(clone, "what was made")
    return clone


@pytest.fixture(scope="module")
def other(clone: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone of git's own making: no data, no cache, no store of models."""
    folder = tmp_path_factory.mktemp("project") / "other"
    clone.git("clone", "-q", str(clone.root), str(folder))
    return Clone(folder)


def client(clone: Clone) -> Any:
    import mlflow

    return mlflow.MlflowClient(f"sqlite:///{clone.root / 'mlflow.db'}")


def test_a_remote_out_of_reach_is_told_and_loses_nothing(other: Clone, remote: Path) -> None:
    remote.rename(remote.with_name("away"))
    told = other.run("dvc", "pull", code=1)
    assert "failed to pull" in (told.stdout + told.stderr).lower()
    told = other.run("genpipe", "data", "diff", "HEAD", code=1)
    assert "are in no cache here and in no remote that answers (`dvc remote list`)" in told.stderr
    told = other.run("genpipe", "stage", "ingest")
    assert "is not there: mount it, or make it by `dvc push`" in told.stdout
    assert "; the source is read instead" in told.stdout
    remote.with_name("away").rename(remote)
    assert other.git("status", "--porcelain") == ""


def test_pulled_data_and_outputs_are_those_that_were_pushed(clone: Clone, other: Clone) -> None:
    other.run("dvc", "pull")
    for name in ("data/digits/00000.parquet", "artifacts/train/model.safetensors", "artifacts/evaluate/metrics.json"):
        assert (other.root / name).read_bytes() == (clone.root / name).read_bytes()
    assert json.loads(other.run("dvc", "status", "--json").stdout) == {}


def test_a_run_in_the_other_clone_trains_nothing_and_registers(clone: Clone, other: Clone) -> None:
    printed = other.run("genpipe", "run")
    assert "Running stage" not in printed.stdout + printed.stderr
    there, here = (client(one).get_model_version_by_alias("digits", "champion") for one in (other, clone))
    assert there.tags["genpipe.model"] == here.tags["genpipe.model"]
    run = client(other).get_run(there.run_id)
    assert run.data.tags["genpipe.restored"] == "true"
    assert {file.path for file in client(other).list_artifacts(there.run_id, "lineage")} == {
        "lineage/trained.parquet", "lineage/measured.parquet",
    }  # fmt: skip
    assert other.git("status", "--porcelain") == ""


def test_a_removed_example_leaves_the_project_and_the_remote_and_its_models_are_listed(
    clone: Clone, remote: Path
) -> None:
    ids = {split: np.load(clone.root / f"artifacts/augment/{split}/id.npy") for split in ("train", "test")}
    pixels = np.load(clone.root / "artifacts/augment/train/image.npy")[0, 0]
    stored = pq.read_table(clone.root / "data/digits/00000.parquet", filters=[("id", "=", ids["train"][0])])
    png = stored["image"][0].as_py()["bytes"]
    assert all(searching.holding(folder, pixels, png) for folder in (clone.root, remote))
    words = ("genpipe", "data", "remove", ids["train"][0], ids["test"][0][:16], "--cloud", "--yes")
    printed = clone.run(*words).stdout
    assert f"version 1 (champion) was trained on {ids['train'][0][:12]}" in printed
    assert "The weights of the models above remember them." in printed
    assert "The evaluator in artifacts/calibrate was fitted before, and stays." in printed
    assert [searching.holding(folder, pixels, png) for folder in (clone.root, remote)] == [set(), set()]
    version = client(clone).get_model_version_by_alias("digits", "champion")
    assert version.tags["genpipe.removed_rows"] == "1"
    kept = {Path(file.path).name for file in client(clone).list_artifacts(version.run_id, "evaluation")}
    assert "metrics.json" in kept
    assert not {"neighbours.png", "report.html"} & kept


def test_a_version_that_was_only_measured_on_an_example_is_told_apart(clone: Clone) -> None:
    held_out = np.load(clone.root / "artifacts/augment/test/id.npy")[0]
    printed = clone.run("genpipe", "data", "remove", held_out, "--yes").stdout
    assert f"version 1 (champion) was only measured on {held_out[:12]}" in printed
    assert "The weights" not in printed


def test_the_next_run_trains_without_the_example_and_the_difference_is_shown(clone: Clone) -> None:
    removed = yaml.safe_load((clone.root / "data" / "digits" / "dataset.yaml").read_text())["removed"]
    clone.run("genpipe", "run")
    versions = client(clone).search_model_versions("name = 'digits'")
    assert sorted(int(version.version) for version in versions) == [1, 2]
    assert json.loads(clone.run("dvc", "status", "--json").stdout) == {}
    clone.run("dvc", "push")
    clones.commit(clone, "without three examples")
    told = clone.run("genpipe", "data", "diff", "HEAD~1", code=1).stderr  # gone from the cache and from the remote
    assert "are in no cache here and in no remote that answers" in told
    assert len(removed) == 3
    assert not set(removed) & set(np.load(clone.root / "artifacts/augment/train/id.npy").tolist())
