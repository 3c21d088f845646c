"""The gate at work on a project: real trainings, MLflow's own registry, versions of older code, kills in between.

The tests follow one project from its clone on: each finds the champion that the one before left.
"""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from genpipe.champion.verdict import of_tags
from tests import clones
from tests.clones import Clone

pytestmark = pytest.mark.slow
# With it 10 to 60 steps make models of which each is plainly better than the one before.
FAST = {"generator": {"kind": "vae"}, "ema_decay": 0.9, "optimizer": {"lr": 0.002}, "pictures": 0, "threads": 1}
# Register in a process that is killed when it comes to a certain call.
KILLED = """
import importlib, os, signal, sys
module, name = sys.argv[1].rsplit(".", 1)
setattr(importlib.import_module(module), name, lambda *words, **named: os.kill(os.getpid(), signal.SIGKILL))
from genpipe.cli import main
main(["stage", "register"])
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A project whose first version has just been registered, from a commit."""
    clone = clones.make(tmp_path_factory.mktemp("gate"))
    commit_training(clone, 30)
    clone.run("genpipe", "stage", "ingest")
    register(clone)
    return clone


def commit_training(clone: Clone, steps: int) -> None:
    clone.params(train={**FAST, "steps": steps})
    clones.commit(clone, f"{steps} steps")


def register(clone: Clone) -> dict[str, Any]:
    """Bring the outputs up to date and register them; what the project notes of its version."""
    clone.run("dvc", "repro")
    clone.run("genpipe", "stage", "register")
    return noted(clone)


def noted(clone: Clone) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((clone.root / ".genpipe" / "registered.json").read_text())
    return content


def aliases(clone: Clone) -> dict[str, int]:
    return {alias: int(number) for alias, number in client(clone).get_registered_model("digits").aliases.items()}


def client(clone: Clone) -> Any:
    import mlflow

    return mlflow.MlflowClient(f"sqlite:///{clone.root / 'mlflow.db'}")


def test_the_first_version_is_champion_since_its_limits_hold(clone: Clone) -> None:
    assert noted(clone)["verdict"]["title"] == "promoted, as the first version"
    version = client(clone).get_model_version("digits", "1")
    assert "| Near copies: limit |" in version.description
    assert aliases(clone) == {"champion": 1}


def test_a_worse_model_is_kept_back_and_told_why(clone: Clone) -> None:
    commit_training(clone, 10)
    found = register(clone)
    assert (found["version"], found["verdict"]["outcome"], found["alias"]) == (2, "kept", "challenger")
    assert "it is not shown to be lower" in found["verdict"]["reasons"][0]
    version = client(clone).get_model_version("digits", "2")
    assert version.tags["genpipe.verdict"] == "kept"
    assert "| Fréchet distance: better |" in version.description
    assert client(clone).get_run(version.run_id).data.metrics["gate/frechet_distance_low"] > 0
    clone.run("genpipe", "stage", "register")
    assert noted(clone) == found  # a verdict stands


def test_a_better_model_of_uncommitted_settings_waits_for_the_commit(clone: Clone) -> None:
    clone.params(train={**FAST, "steps": 40})
    found = register(clone)
    assert (found["version"], found["verdict"]["outcome"]) == (3, "uncommitted")
    assert "`genpipe promote 3 --allow-dirty`" in found["verdict"]["reasons"][0]
    assert aliases(clone) == {"champion": 1, "challenger": 3}
    clones.commit(clone, "40 steps")
    clone.run("genpipe", "stage", "register")
    assert (noted(clone)["verdict"]["outcome"], noted(clone)["alias"]) == ("promoted", "champion")
    assert client(clone).get_model_version("digits", "3").tags["genpipe.dirty"] == "false"


def test_allow_dirty_lets_it_pass_at_once(clone: Clone) -> None:
    clone.params(train={**FAST, "steps": 50})
    clone.run("dvc", "repro")
    clone.run("genpipe", "stage", "register", env={"GENPIPE_ALLOW_DIRTY": "true"})
    assert (noted(clone)["version"], noted(clone)["alias"]) == (4, "champion")


def test_killed_at_any_point_it_is_completed_by_the_next(clone: Clone, tmp_path: Path) -> None:
    (script := tmp_path / "killed.py").write_text(KILLED)
    clone.params(train={**FAST, "steps": 60})
    clones.commit(clone, "60 steps")
    clone.run("dvc", "repro")
    for call, champion in (
        ("genpipe.champion.trial.hold", 4),  # the version is there, without a verdict
        ("genpipe.champion.ledger.move", 4),  # the verdict is there, the alias has not moved
        ("genpipe.records.registry.describe_version", 5),  # it has moved, the description is not there
    ):
        clone.run("python", str(script), call, code=-signal.SIGKILL)
        assert (aliases(clone)["champion"], noted(clone)["version"]) == (champion, 4)
    clone.run("genpipe", "stage", "register")
    assert (noted(clone)["version"], noted(clone)["alias"]) == (5, "champion")
    assert noted(clone)["verdict"]["title"] == "promoted, since it is shown to be better within guards and limits"
    assert "| Fréchet distance: better |" in client(clone).get_model_version("digits", "5").description


def tags(clone: Clone, number: int) -> dict[str, str]:
    return dict(client(clone).get_model_version("digits", str(number)).tags)


def test_a_version_of_older_code_is_sampled_compared_and_rolled_back_to(clone: Clone, tmp_path: Path) -> None:
    old = aliases(clone)["champion"]
    clone.run("genpipe", "sample", f"models:/digits/{old}", "-n", "8", "--out", str(tmp_path / "before"))
    decoder = "dense(cfg.latent_dim + self.classes, cfg.hidden_dim, width, cfg.layers)"
    rename(clone, "genpipe/generators/vae.py", decoder, f"nn.Sequential({decoder})")  # weights of other names
    rename(clone, "genpipe/generators/vae.py", "temperature", "spread")
    rename(clone, "genpipe/sampling.py", "def draw(", "def drawn_from(")
    for user in ("records/served_model", "stages/evaluate", "stages/train", "drawing"):
        rename(clone, f"genpipe/{user}.py", "sampling.draw(", "sampling.drawn_from(")
    commit_training(clone, 600)
    found = register(clone)
    assert found["version"] > old
    checked = of_tags(tags(clone, found["version"]))
    assert checked
    assert any(check.against == f"version {old}" for check in checked.checks)  # it was sampled, and scored
    if found["verdict"]["outcome"] != "promoted":
        clone.run("genpipe", "promote", str(found["version"]), "--why", "to go back from")
    assert aliases(clone)["champion"] == found["version"]
    table = clone.run("genpipe", "compare", str(old), "champion").stdout
    assert f"version {old}" in table
    assert "Fréchet distance" in table
    clone.run("genpipe", "rollback", "--why", "to see whether it can be done")
    assert aliases(clone)["champion"] == old
    clone.run("genpipe", "sample", "models:/digits@champion", "-n", "8", "--out", str(tmp_path / "after"))
    for name in ("00000.png", "00007.png"):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()
    clone.run("genpipe", "stage", "register")
    assert aliases(clone)["champion"] == old  # what was rolled back is not promoted again by itself


def rename(clone: Clone, file: str, before: str, after: str) -> None:
    content = (clone.root / file).read_text()
    assert before in content
    (clone.root / file).write_text(content.replace(before, after))


def test_a_champion_of_another_shape_stays_and_is_told(clone: Clone) -> None:
    champion = aliases(clone)["champion"]
    clone.params(augment={"prepare": {"size": 16}})
    clones.commit(clone, "larger images")
    found = register(clone)
    assert found["verdict"]["outcome"] == "kept"
    assert f"Version {champion} can't be scored" in found["verdict"]["reasons"][0]
    assert "shape: (1, 16, 16) against (1, 8, 8)" in found["verdict"]["reasons"][0]
    assert f"genpipe promote {found['version']}" in found["verdict"]["reasons"][0]
    assert aliases(clone)["champion"] == champion
    told = clone.run("genpipe", "compare", "champion", "challenger", code=1).stderr
    assert "make unlike things and are not compared" in told


def test_on_data_that_have_grown_a_model_has_to_be_not_worse(tmp_path: Path) -> None:
    digits = load_digits()
    pictures, labels = np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target
    clone = clones.make(tmp_path / "grown")
    (clone.root / "data.dvc").unlink()
    parts = [{"images": "pictures", "labels": "labels"}]
    clone.params(ingest={"source": {"kind": "npz", "name": "digits", "path": "digits.npz", "arrays": parts}})
    ignored = clone.root / ".gitignore"
    ignored.write_text(ignored.read_text() + "digits.npz\n")
    found = []
    for count, steps in ((1300, 40), (len(labels), 60)):
        np.savez(clone.root / "digits.npz", pictures=pictures[:count], labels=labels[:count])
        commit_training(clone, steps)
        assert f"digits: {count} examples" in clone.run("genpipe", "stage", "ingest").stdout
        found.append(register(clone))
    assert found[0]["verdict"]["title"] == "promoted, as the first version"
    verdict = of_tags(tags(clone, 2))
    assert verdict
    assert (verdict.rule, verdict.outcome) == ("not_worse", "promoted")
    assert [check.against for check in verdict.checks if check.rule == "not worse"] == ["version 1"]
    assert aliases(clone)["champion"] == 2
    first, second = (tags(clone, number) for number in (1, 2))
    assert first["genpipe.evaluator"] == second["genpipe.evaluator"]  # kept, though the data have grown
    assert first["genpipe.data"] != second["genpipe.data"]
