"""A project that the first genpipe with `init` made and ran, kept as it was, is understood and runs with today's code.

tests/old/noughts-0.1.0.tar.xz holds 280 pictures of noughts and ones as ingest stored them, not their files; git's
history, a model of sixty steps with its checkpoint and scores, and the registry with one version, which was promoted.
MLflow's database is in it as SQL, in which @PROJECT@ stands for the project's folder. Evaluator, arrays and DVC's cache
are left out. A later genpipe that can't read something of it has to say how it is brought up to date; never make the
archive anew for that.
"""

import json
import sqlite3
import tarfile
from pathlib import Path

import pytest
import yaml

from genpipe import checkpoint, dag
from genpipe.data.dataset import Stored
from genpipe.evaluation.scores import scored
from genpipe.project import Project
from genpipe.stages import check
from tests.clones import ROOT, Clone, commit
from tests.pictures import PIXELS, png

ARCHIVE = ROOT / "tests" / "old" / "noughts-0.1.0.tar.xz"
PATHS = {"PYTHONPATH": str(ROOT)}  # the project holds no code of its own


def restore(folder: Path) -> Clone:
    """The project in `folder`, with MLflow's files as they would be if it had been made there."""
    filtered = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # which Python 3.11 has from 3.11.4 on
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, **filtered)
    root = folder / "noughts"
    for file in (root / "mlflow.sql", *root.glob("mlartifacts/models/*/artifacts/MLmodel")):
        file.write_text(file.read_text().replace("@PROJECT@", str(root)))
    connection = sqlite3.connect(root / "mlflow.db")
    connection.executescript((root / "mlflow.sql").read_text())
    connection.close()
    (root / "mlflow.sql").unlink()
    return Clone(root)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return restore(tmp_path_factory.mktemp("old"))


def test_the_archive_is_small_and_holds_no_pickle() -> None:
    assert ARCHIVE.stat().st_size < 300_000
    with tarfile.open(ARCHIVE) as archive:
        assert [name for name in archive.getnames() if name.endswith((".pkl", ".pickle", ".pt", ".joblib"))] == []


def test_settings_data_scores_and_checkpoint_are_understood(old: Clone) -> None:
    project = Project(old.root)
    assert check(project)["train"].steps == 60
    assert old.git("status", "--porcelain") == ""
    stored = Stored.find(project.data)
    assert (stored.rows, stored.about.classes) == (280, ("nought", "one"))
    assert len(list(stored.read_rows())) == 280
    assert stored.digest == dag.versioned_rows(project)
    metrics = json.loads((project.artifacts / "evaluate" / "metrics.json").read_text())
    assert scored(metrics)["frechet_distance"]["value"] == pytest.approx(220.669, abs=1e-3)
    (step,) = project.state.glob("checkpoints/*/step-*")
    content, tensors = checkpoint.read(step)
    assert content["step"] == 60
    assert tensors


@pytest.mark.slow
def test_its_version_is_known_and_sampled_by_the_code_that_it_carries(old: Clone) -> None:
    told = old.run("genpipe", "lineage", "champion", env=PATHS).stdout
    assert "noughts version 1 (champion)" in told
    assert "commit 953b295a42fa, all of it committed" in told
    assert "promoted" in old.run("genpipe", "history", env=PATHS).stdout
    old.run("genpipe", "sample", "models:/noughts@champion", "-n", "2", "--label", "one", "--out", "ones", env=PATHS)
    assert len(list((old.root / "ones").glob("*.png"))) == 2


@pytest.mark.slow
def test_it_runs_with_new_data_and_other_settings_and_its_champion_is_the_one_to_beat(tmp_path: Path) -> None:
    """From another working directory, with one new picture where the source was: what it had then is still there."""
    clone = restore(tmp_path)
    (clone.root / "pictures" / "nought").mkdir(parents=True)
    (clone.root / "pictures" / "nought" / "new.png").write_bytes(png(PIXELS[0]))
    settings = yaml.safe_load((clone.root / "params.yaml").read_text())
    clone.params(train={**settings["train"], "seed": 1})
    commit(clone, "another seed")
    clone.run("genpipe", "run", "-C", str(clone.root), env=PATHS, cwd=tmp_path)
    assert Stored.find(clone.root / "data").rows == 281
    registered = json.loads((clone.root / ".genpipe" / "registered.json").read_text())
    assert registered["version"] == 2
    assert "(version 1)" in json.dumps(registered["verdict"])
    assert dag.outdated(Project(clone.root)) == set()
    changed = {line[3:] for line in clone.git("status", "--porcelain").splitlines()}
    assert changed <= {"data.dvc", "dvc.lock", "dvc.yaml", "genpipe.yaml"}
