"""`genpipe status` and `doctor` beside real runs: one of a deployment that fails, and one that is killed in training.

The tests follow one project, which a Prefect server of its own knows.
"""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from genpipe import errors
from tests import clones, daemons, unattended, waiting
from tests.clones import Clone

pytestmark = pytest.mark.slow
LONG = {"generator": {"kind": "gan", "hidden_dim": 32}, "steps": 400_000, "batch_size": 32, "threads": 1, "pictures": 0}
DEPLOYMENT = {
    "name": "digits",
    "entrypoint": "flows/pipeline.py:pipeline",
    "parameters": {"directory": "."},
    "work_pool": {"name": "watched"},
    "schedules": [{"slug": "monthly", "cron": "0 3 1 * *", "timezone": "UTC", "active": True}],
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A project whose data the validation refuses, since there are too few of them."""
    clone = clones.make(tmp_path_factory.mktemp("watched") / "project")
    clone.params(validate={"min_accepted": 5000}, train=LONG | {"checkpoint_every_steps": 100})
    (clone.root / "prefect.yaml").write_text(yaml.safe_dump({"name": "genpipe", "deployments": [DEPLOYMENT]}))
    clones.commit(clone, "too much is asked of the data")
    return clone


@pytest.fixture(scope="module")
def server(clone: Clone) -> Iterator[dict[str, str]]:
    """A Prefect server with a work pool, as the environment that names it."""
    site = unattended.new(clone.root.parent / "server")
    with daemons.running(daemons.prefect(site)):
        env = {"PREFECT_API_URL": site.api, "DO_NOT_TRACK": "true"}
        clone.run("prefect", "work-pool", "create", "watched", "--type", "process", env=env)
        yield env


def status(clone: Clone, env: dict[str, str], code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(clone.run("genpipe", "status", "--json", env=env, code=code).stdout)
    return found


def page(clone: Clone, env: dict[str, str], command: str = "status", code: int = 0) -> str:
    return " ".join(clone.run("genpipe", command, env=env, code=code).stdout.split())


def test_before_and_after_deploying_it_is_told_what_the_server_knows(clone: Clone, server: dict[str, str]) -> None:
    assert "declared in prefect.yaml, not deployed" in page(clone, server)
    assert "digits is not deployed" in page(clone, server, "doctor")
    clone.run("prefect", "--no-prompt", "deploy", "--all", env=server)
    due = waiting.until(lambda: status(clone, server)["schedule"]["deployments"][0]["next"], "scheduled run")
    assert due.endswith("-01T03:00:00+00:00")
    assert "monthly 0 3 1 * * UTC" in page(clone, server)
    told = page(clone, server, "doctor")
    assert "digits: its work pool 'watched' is NOT_READY, so that its runs wait" in told
    assert f"at {server['PREFECT_API_URL']}, client" in told


def test_a_run_that_failed_under_a_worker_is_told_with_stage_cause_and_remedy(
    clone: Clone, server: dict[str, str]
) -> None:
    clone.run("prefect", "deployment", "run", "genpipe/digits", env=server)
    worker = ("prefect", "worker", "start", "--pool", "watched", "--run-once", "--install-policy", "never")
    clone.run(*worker, env=server)
    found = status(clone, server)
    (last,) = found["runs"]["last"]
    assert (last["outcome"], last["stage"]) == ("failed", "validate")
    assert "5,000" in last["failure"]["cause"] or "5000" in last["failure"]["cause"]
    assert last["failure"]["remedy"] == getattr(errors, last["failure"]["error"]).remedy
    (run,) = found["schedule"]["runs"]
    assert (run["deployment"], run["state"]) == ("digits", "Failed")
    assert last["flow_run"] in run["page"]
    assert "Last run failed in validate" in page(clone, server)


def test_a_run_that_is_killed_in_training_is_told_by_what_it_leaves(clone: Clone, server: dict[str, str]) -> None:
    clone.params(validate={})
    with (clone.root.parent / "run.log").open("w") as log:
        run = subprocess.Popen(["genpipe", "run"], cwd=clone.root, env=clone.env | server, stdout=log, stderr=log)
    try:
        checkpoints = clone.root / ".genpipe" / "checkpoints"
        waiting.until(lambda: run.poll() is not None or list(checkpoints.glob("*/step-*")), "checkpoint")
        working = status(clone, server)
    finally:
        daemons.kill_tree(run.pid)
        run.wait()
    last, training = working["runs"]["last"][0], working["trainings"]["last"][0]
    assert (last["outcome"], last["stage"]) == ("running", "train")
    assert {lock["purpose"] for lock in working["locks"]["held"]} == {"genpipe run", "genpipe stage train"}
    assert all(lock["alive"] for lock in working["locks"]["held"])
    assert (training["state"], training["steps"]) == ("RUNNING", LONG["steps"])
    killed = status(clone, server)
    assert (killed["runs"]["last"][0]["outcome"], killed["runs"]["last"][0]["stage"]) == ("vanished", "train")
    assert not any(lock["alive"] for lock in killed["locks"]["held"])
    assert "ended without a word in train" in page(clone, server)
    assert "was killed" in page(clone, server, "doctor")
    assert json.loads((clone.root / ".genpipe" / "runs.json").read_text())[-1]["outcome"] == "running"
