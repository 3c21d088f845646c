"""Retraining with nobody at hand: a real Prefect server, a pool, a worker with no project, an origin, a remote.

The tests follow one project from its first deployment on; each finds what the one before left.
"""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import yaml
from sklearn.datasets import load_digits

from tests import clones, unattended
from tests.clones import Clone
from tests.servers import serving, whole
from tests.unattended import Site

pytestmark = pytest.mark.slow
Heard = list[tuple[str, dict[str, str]]]  # path and headers of each request
RETRAIN = "retrain/digits"
OPS, DEADLY = ["custom-webhook/ops", "custom-webhook/gone"], ["custom-webhook/deadly"]
BLOCKS = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock

for name in ("ops", "gone", "deadly"):
    CustomWebhookNotificationBlock(
        name=name,
        url=sys.argv[1] + "/{{token}}/" + name,
        params={"subject": "{{subject}}", "body": "{{body}}"},
        secrets={"token": "hunter2"},
    ).save(name)
"""
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


@pytest.fixture(scope="module")
def heard(site: Site) -> Iterator[Heard]:
    """What a web server is asked that takes the notifications of `ops`, and none of `gone`; `deadly` kills the run."""

    def kill(request: BaseHTTPRequestHandler) -> None:
        (journal,) = (site.folder / "home").rglob("runs.json")
        with suppress(ProcessLookupError):  # the worker tells, too, that the run has crashed
            os.kill(json.loads(journal.read_text())[-1]["pid"], signal.SIGKILL)
        request.send_error(500)

    with serving({"/hunter2/ops": whole(b""), "/hunter2/deadly": kill}) as (address, asked):
        unattended.person(site).run("python", "-c", BLOCKS, address, env=site.env)
        yield asked


def said(heard: Heard, block: str = "ops") -> list[tuple[str, str]]:
    """Subject and body of each notification that a block was sent."""
    sent = [parse_qs(urlsplit(path).query) for path, _ in heard if f"/{block}?" in path]
    return [(query["subject"][0], query["body"][0]) for query in sent]


def test_a_first_run_trains_publishes_registers_and_is_killed_as_it_tells(site: Site, heard: Heard) -> None:
    run = site.start(RETRAIN, notify=DEADLY)
    assert site.end_of(run)["type"] == "CRASHED", site.log(run)
    assert "the first run" in site.artifact("reason")
    subjects = results(site, "log", "--format=%an: %s", "origin/main..origin/genpipe/results")
    assert subjects.splitlines() == [
        "genpipe: A model, because of the first run",
        "genpipe: Data for a model, because of the first run",
    ]
    assert int(client(site).get_model_version_by_alias("digits", "champion").version) == 1
    assert said(heard, "deadly")[0][0] == "genpipe: digits version 1 is champion"


def logged(site: Site, run: str, line: str) -> bool:
    """Whether the server has a line of a run's log, which it is sent every two seconds."""
    return line in site.log(run)


def test_the_next_runs_tell_of_the_champion_until_a_block_takes_it(site: Site, heard: Heard) -> None:
    for names in (OPS[1:], OPS):
        run = site.start(RETRAIN, notify=names)
        state = site.end_of(run)
        assert (state["type"], state["name"]) == ("COMPLETED", "Unchanged"), site.log(run)
        assert state["message"].endswith("Not told, since the notification failed: custom-webhook/gone.")
        refused = "custom-webhook/gone did not take 'genpipe: digits version 1 is champion': HTTPStatusError"
        unattended.wait_for(partial(logged, site, run, refused))
        assert "hunter2" not in site.log(run) + (site.folder / "worker.log").read_text()
    ((subject, body),) = said(heard)
    assert subject == "genpipe: digits version 1 is champion"
    assert "it passed the gate, as the first version" in body
    assert "Why it was trained: the first run." in body


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


def test_with_nothing_new_a_new_clone_pulls_stops_early_and_tells_nothing(site: Site, heard: Heard) -> None:
    told = len(heard)
    before = results(site, "rev-parse", "origin/genpipe/results")
    shutil.rmtree(site.folder / "home")  # the clone, DVC's cache, checkpoints
    state = site.run(RETRAIN, notify=OPS)
    assert (state["type"], state["name"]) == ("COMPLETED", "Unchanged"), state
    assert len(heard) == told
    assert "No new data; settings and code are those of the model that is registered." in state["message"]
    assert results(site, "rev-parse", "origin/genpipe/results") == before
    (clone,) = (site.folder / "home" / "workspaces").glob("*/")
    assert (clone / "artifacts" / "train" / "model.safetensors").exists()
    person = unattended.person(site)
    status = person.run("genpipe", "status", env=site.env | {"PYTHONPATH": str(person.root)}).stdout
    assert "No new data; settings and code are those of the model that is registered." in " ".join(status.split())


def test_new_data_and_a_persons_new_kind_are_trained_with_the_clones_own_code(site: Site) -> None:
    clone = unattended.person(site)
    clone.params(train={"generator": {"kind": "mean"}, "steps": 20, "optimizer": {"lr": 0.1}, "ema_decay": 0.5})
    kind = (clones.ROOT / "tests" / "plugins" / "generators" / "blot.py").read_text()
    (clone.root / "genpipe" / "generators" / "mean.py").write_text(kind)  # which the worker's genpipe does not have
    unattended.push(clone, "another kind")
    (clone.root / "notes.txt").write_text("half a thought")
    (clone.root / "params.yaml").write_text((clone.root / "params.yaml").read_text() + "# half another\n")
    before = clone.git("status", "--porcelain"), clone.git("rev-parse", "HEAD"), files(clone)
    grow(site, 900)
    state = site.run(RETRAIN)
    assert state["type"] == "COMPLETED", state
    assert "Because of new data: +200 rows, 900 in all; settings: " in state["message"]
    assert "train.generator.kind vae → mean" in state["message"]
    assert state["message"].endswith("code: genpipe/generators/mean.py.")
    why = state["message"].partition("Because of ")[2].removesuffix(".")
    assert (clone.git("status", "--porcelain"), clone.git("rev-parse", "HEAD"), files(clone)) == before
    run = client(site).get_run(client(site).get_model_version("digits", "2").run_id)
    assert run.data.params["generator.kind"] == "mean"
    assert run.data.tags["genpipe.why"] == why
    subject = results(site, "log", "-1", "--format=%s", "origin/genpipe/results")
    assert subject == f"A model, because of {why}\n"
    assert client(site).get_model_version("digits", "2").tags["genpipe.verdict"] in ("promoted", "kept")


def files(clone: Clone) -> set[str]:
    """What lies in the person's folder, DVC's and Python's own notes aside."""
    found = (path.relative_to(clone.root).as_posix() for path in clone.root.rglob("*") if path.is_file())
    return {name for name in found if not name.startswith((".git/", ".dvc/tmp/")) and "__pycache__" not in name}


def test_refused_data_are_told_and_nothing_is_trained(site: Site, heard: Heard) -> None:
    clone = unattended.person(site)
    clone.git("checkout", "-q", "params.yaml")
    clone.params(validate={"min_accepted": 5000})
    unattended.push(clone, "more is asked of the data")
    state = site.run(RETRAIN, notify=OPS[:1])
    assert (state["type"], state["name"]) == ("FAILED", "Failed")
    assert "validate.min_accepted asks for 5000 good rows" in state["message"]
    unattended.wait_for(lambda: "refused" in said(heard)[-1][0])  # it is told once the run has failed
    subject, body = said(heard)[-1]
    assert subject == f"genpipe: validation refused the data ({site.folder / 'origin.git'})"
    assert "validate.min_accepted asks for 5000 good rows" in body
    assert len(client(site).search_model_versions("name = 'digits'")) == 2


def test_an_unknown_block_is_refused_before_anything_runs(site: Site) -> None:
    run = site.start(RETRAIN, notify=["custom-webhook/nobody"], git_token="none")
    assert "notify names 'custom-webhook/nobody', which is no notification block" in site.end_of(run)["message"]
    assert "fetch" not in site.log(run)


def test_the_deployment_of_another_team_is_not_replaced(site: Site, tmp_path: Path) -> None:
    other = Clone(tmp_path / "other")
    unattended.person(site).git("clone", "-q", str(site.folder / "origin.git"), str(other.root))
    theirs = f"of another project ({site.folder / 'origin.git'})"
    other.git("remote", "set-url", "origin", str(tmp_path / "other.git"))
    refused = other.run("prefect", "--no-prompt", "deploy", "--all", env=site.env | {"COLUMNS": "2000"}, code=1)
    assert f"the deployment '{RETRAIN}' of {site.api} is {theirs}" in refused.stdout + refused.stderr
    own = site.env | {"PYTHONPATH": str(other.root)}
    (found,) = json.loads(other.run("genpipe", "status", "--json", env=own).stdout)["schedule"]["deployments"]
    assert theirs == f"of another project ({found['of_another']})"
    findings = json.loads(other.run("genpipe", "doctor", "--json", env=own, code=1).stdout)
    assert any(theirs in finding["text"] for finding in findings if finding["state"] == "wrong")


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_the_server_takes_the_templates_of_pools(site: Site, kind: str) -> None:
    template = str(clones.ROOT / "docs" / "deploy" / f"{kind}-pool.json")
    words = ("prefect", "work-pool", "create", kind, "--type", kind, "--base-job-template", template)
    unattended.person(site).run(*words, env=site.env)
    assert site.ask(f"work_pools/{kind}")["base_job_template"] == json.loads(Path(template).read_text())
