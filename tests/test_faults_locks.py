"""DVC and the stores of runs, killed at one write after another: the next run goes on by itself, and nothing is lost.

A killer that counts from inside hits each moment for sure: DVC is killed before the n-th file that it would open for
writing, rename or delete (hashing, taking outputs into its cache, checking them out, its record of holders, dvc.lock),
`register` before the n-th commit to the database.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from genpipe import dag, rwlock
from genpipe.project import Project
from tests import clones
from tests.clones import Clone

pytestmark = pytest.mark.slow
DVC_KILLED = """
import os, signal, sys
left = int(sys.argv.pop(1))

def count(event, arguments):
    global left
    if event in ("os.rename", "os.remove", "os.link", "os.mkdir") or (
        event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
    ):
        if str(arguments[0]).startswith(os.getcwd()):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

from dvc.cli import main
sys.addaudithook(count)
code = main()
print("writes left:", left)
sys.exit(code)
"""
REGISTER_KILLED = """
import os, signal, sys
from pathlib import Path
import sqlalchemy
from genpipe import run
left = int(sys.argv.pop(1))

@sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "commit")
def count(connection):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

run.run_stage(Path(), "register")
print("commits left:", left)
"""
MANY = 10_000


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A project in which everything but register is done."""
    clone = clones.make(tmp_path_factory.mktemp("locks"))
    train = {"generator": {"kind": "gan", "hidden_dim": 16}, "steps": 40, "batch_size": 32, "threads": 1}
    clone.params(train={**train, "log_every": 10, "pictures": 1}, evaluate={"draws": 2})
    clones.commit(clone, "a short training")
    clone.run("genpipe", "stage", "ingest")
    clone.run("dvc", "repro")
    return clone


def lose_outputs(clone: Clone) -> None:
    """As in a clone without them: they come out of the cache again, and dvc.lock is written anew."""
    for name in ("augment", "train"):
        dag.discard(Project(clone.root), [name])


def outs(clone: Clone) -> dict[str, Any]:
    """What dvc.lock says of every output."""
    stages = yaml.safe_load((clone.root / "dvc.lock").read_text())["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def test_dvc_killed_at_any_write_is_followed_by_a_run_with_the_same_outputs(clone: Clone) -> None:
    before = outs(clone)
    lose_outputs(clone)
    count = int(clone.run("python", "-c", DVC_KILLED, str(MANY), "repro").stdout.rpartition(":")[2])
    writes = MANY - count
    assert writes > 30
    for number in range(0, writes, -(-writes // 8)):
        lose_outputs(clone)
        clone.run("python", "-c", DVC_KILLED, str(number), "repro", code=-signal.SIGKILL)
        rwlock.forget_dead_holders(Project(clone.root))  # as every run does first
        clone.run("dvc", "repro")
        assert outs(clone) == before, f"killed before write {number} of {writes}"
        assert json.loads(clone.run("dvc", "status", "--json").stdout) == {}


def test_a_holder_whose_number_went_to_another_process_is_forgotten(clone: Clone) -> None:
    """As in a container that was started again: DVC would wait for this test."""
    record = clone.root / ".dvc" / "tmp" / "rwlock"
    holder = {"pid": os.getpid(), "cmd": "dvc repro"}
    held = {"read": {str(clone.root / "data"): [holder]}, "write": {str(clone.root / "artifacts/train"): holder}}
    record.write_text(json.dumps(held))
    lose_outputs(clone)
    assert "is being blocked by" in clone.run("dvc", "repro", "train", code=255).stderr
    rwlock.forget_dead_holders(Project(clone.root))
    clone.run("dvc", "repro")


def test_register_killed_at_any_commit_is_completed_by_the_next(clone: Clone) -> None:
    import mlflow

    for number in (20, 50):
        clone.run("python", "-c", REGISTER_KILLED, str(number), code=-signal.SIGKILL)
    clone.run("genpipe", "stage", "register")
    client = mlflow.MlflowClient(f"sqlite:///{clone.root / 'mlflow.db'}")
    (version,) = client.search_model_versions("name = 'digits'")
    assert client.get_model_version_by_alias("digits", "champion").version == version.version
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_id == version.run_id
    assert "genpipe.reopened" not in run.data.tags
    assert Path(clone.root / ".genpipe" / "registered.json").exists()
