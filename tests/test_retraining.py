"""Retraining with nobody at hand: a real Prefect server, a pool, a worker with no project, an origin, a remote.

The tests follow one project from its first deployment on; each finds what the one before left.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.datasets import load_digits

from tests import clones, unattended
from tests.clones import Clone
from tests.unattended import Site

pytestmark = pytest.mark.slow
RETRAIN = "retrain/digits"
TRAIN = {"generator": {"kind": "vae"}, "steps": 20, "ema_decay": 0.9, "pictures": 0, "threads": 1}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server, a worker, and the deployment of a project whose source is an archive that others write."""
    site = unattended.new(tmp_path_factory.mktemp("site"))
    clone = clones.make(site.folder / "person")
    (clone.root / "data.dvc").unlink()
    (clone.root / "dvc.lock").unlink()
    grow(site, 700)
    parts = [{"images": "pictures", "labels": "labels"}]
    source = {"kind": "npz", "name": "digits", "path": str(site.folder / "digits.npz"), "arrays": parts}
    clone.params(ingest={"source": source}, train=TRAIN, evaluate={"draws": 3})
    clone.run("dvc", "remote", "add", "--quiet", "--default", "store", str(site.folder / "store"))
    unattended.push(clone, "the project")
    with site.served():
        clone.run("prefect", "work-pool", "create", "local", "--type", "process", env=site.env)
        clone.run("prefect", "--no-prompt", "deploy", "--all", env=site.env)
        with site.worked():
            yield site


def grow(site: Site, count: int) -> None:
    """Let the archive hold so many of the digits."""
    digits = load_digits()
    pictures = np.rint(digits.images[:count] * (255 / 16)).astype(np.uint8)
    np.savez(site.folder / "digits.npz", pictures=pictures, labels=digits.target[:count])


def results(site: Site, *words: str) -> str:
    """What git says in the person's folder of the machine's branch, as it is now."""
    clone = unattended.person(site)
    clone.git("fetch", "-q", "origin")
    return clone.git(*words)


def client(site: Site) -> Any:
    import mlflow

    return mlflow.MlflowClient(site.env["MLFLOW_TRACKING_URI"])


def workspace(site: Site) -> Path:
    (folder,) = (site.folder / "home" / "workspaces").glob("*/")
    return folder


def test_the_first_run_trains_publishes_and_registers(site: Site) -> None:
    state = site.run(RETRAIN)
    assert state["type"] == "COMPLETED", state
    assert "digits version 1 (champion): promoted, as the first version" in state["message"]
    assert "Because of the first run." in state["message"]
    assert "the first run" in site.artifact("reason")
    subjects = results(site, "log", "--format=%an: %s", "origin/main..origin/genpipe/results")
    assert (
        subjects == "genpipe: A model, because of the first run\ngenpipe: Data for a model, because of the first run\n"
    )


def test_the_champions_commit_and_data_can_be_fetched_by_anybody(site: Site, tmp_path: Path) -> None:
    version = client(site).get_model_version_by_alias("digits", "champion")
    assert version.tags["genpipe.dirty"] == "false"
    commit = version.tags["mlflow.source.git.commit"]
    assert commit in results(site, "rev-list", "origin/genpipe/results")
    other = Clone(tmp_path / "other")
    unattended.person(site).git("clone", "-q", str(site.folder / "origin.git"), str(other.root))
    other.git("checkout", "-q", commit)
    other.run("dvc", "pull", "data.dvc")
    assert yaml.safe_load((other.root / "data.dvc").read_text())["meta"]["rows"] == version.tags["genpipe.data"]
    other.git("checkout", "-q", "genpipe/results")
    other.run("dvc", "pull")
    assert json.loads(other.run("dvc", "status", "--json").stdout) == {}


def test_with_nothing_new_it_stops_early_and_says_so(site: Site) -> None:
    before = results(site, "rev-parse", "origin/genpipe/results")
    state = site.run(RETRAIN)
    assert (state["type"], state["name"]) == ("COMPLETED", "Unchanged"), state
    assert "No new data; settings and code are those of the model that is registered." in state["message"]
    assert results(site, "rev-parse", "origin/genpipe/results") == before


def test_a_source_that_has_grown_waits_for_the_cooldown(site: Site) -> None:
    grow(site, 900)
    state = site.run(RETRAIN, cooldown_hours=24)
    assert (state["type"], state["name"]) == ("COMPLETED", "Cooldown"), state
    assert "new data: +200 rows, 900 in all" in state["message"]


def test_an_event_starts_the_retraining_on_data_that_have_grown(site: Site) -> None:
    clone = unattended.person(site)
    (clone.root / "notes.txt").write_text("half a thought")
    (clone.root / "params.yaml").write_text((clone.root / "params.yaml").read_text() + "# half another\n")
    before = clone.git("status", "--porcelain"), clone.git("rev-parse", "HEAD"), files(clone)
    known = {run["id"] for run in site.runs()}
    told = clone.run("genpipe", "notify-data", env=site.env).stdout
    assert told == "genpipe.data.changed was told to the Prefect server for genpipe.project.digits\n"
    end = time.monotonic() + 60
    while not (new := [run["id"] for run in site.runs() if run["id"] not in known]):
        assert time.monotonic() < end
        time.sleep(0.3)
    state = site.end_of(new[0])
    assert state["type"] == "COMPLETED", state
    assert "digits version 2" in state["message"]
    assert "by the rule not_worse" in state["message"]
    assert "Because of new data: +200 rows, 900 in all." in state["message"]
    assert (clone.git("status", "--porcelain"), clone.git("rev-parse", "HEAD"), files(clone)) == before
    run = client(site).get_run(client(site).get_model_version("digits", "2").run_id)
    assert run.data.tags["genpipe.why"] == "new data: +200 rows, 900 in all"
    assert run.data.tags["genpipe.flow_run"] == new[0]
    subject = results(site, "log", "-1", "--format=%s", "origin/genpipe/results")
    assert subject == "A model, because of new data: +200 rows, 900 in all\n"
    aliases = {name: int(number) for name, number in client(site).get_registered_model("digits").aliases.items()}
    verdict = client(site).get_model_version("digits", "2").tags["genpipe.verdict"]
    assert aliases == ({"champion": 2} if verdict == "promoted" else {"champion": 1, "challenger": 2})


def files(clone: Clone) -> set[str]:
    """What lies in the person's folder, DVC's and Python's own notes aside."""
    found = (path.relative_to(clone.root).as_posix() for path in clone.root.rglob("*") if path.is_file())
    return {name for name in found if not name.startswith((".git/", ".dvc/tmp/")) and "__pycache__" not in name}


def test_new_settings_of_a_person_are_merged_and_run_with_the_clones_own_code(site: Site) -> None:
    clone = unattended.person(site)
    clone.git("checkout", "-q", "params.yaml")
    clone.params(train={"generator": {"kind": "mean"}, "steps": 20, "optimizer": {"lr": 0.1}, "ema_decay": 0.5})
    kind = (clones.ROOT / "tests" / "plugins" / "generators" / "blot.py").read_text()
    (clone.root / "genpipe" / "generators" / "mean.py").write_text(kind)  # which the worker's genpipe does not have
    unattended.push(clone, "another kind")
    state = site.run(RETRAIN)
    assert state["type"] == "COMPLETED", state
    assert "train.generator.kind vae → mean" in state["message"]
    run = client(site).get_run(client(site).get_model_version("digits", "3").run_id)
    assert run.data.params["generator.kind"] == "mean"


def test_the_clone_can_be_thrown_away(site: Site) -> None:
    import shutil

    shutil.rmtree(site.folder / "home")
    state = site.run(RETRAIN)
    assert (state["type"], state["name"]) == ("COMPLETED", "Unchanged"), state
    assert (workspace(site) / "artifacts" / "train" / "model.safetensors").exists()  # pulled, not trained
