"""promote, rollback and history as commands: only a version that is whole, sampled and committed becomes champion."""

import json
import shutil
from pathlib import Path

import mlflow
import pytest

from genpipe import cli
from genpipe.champion import ledger
from genpipe.champion.verdict import Verdict
from genpipe.code import carried_digest
from genpipe.project import Project
from genpipe.records import registry
from genpipe.records.registry import EVALUATION, digest_of
from genpipe.records.tracking import COMMIT, DIRTY, connect
from tests import projects

NAME = "genpipe"  # the default of mlflow.yml
# The code of a version as simple as can be: grey images, or what its weights make of them.
SERVED = """
import json, sys
import numpy as np
from pathlib import Path
request = json.loads(Path(sys.argv[1]).read_text())
weights = (Path(request["model"]) / "artifacts" / "model" / "model.safetensors").read_text()
if weights == "broken":
    raise RuntimeError("these weights are broken")
shape = json.loads(weights)
np.save(request["out"], np.full((len(request["rows"]["label"]), *shape), 7, np.uint8))
"""
SIGNATURE = {
    "inputs": '[{"name": "label", "type": "long"}]',
    "outputs": '[{"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": [-1, 1, 2, 2]}}]',
    "params": '[{"name": "seed", "default": 0, "type": "long"}]',
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("COLUMNS", "160")
    project = projects.make(tmp_path)
    connect(project)
    mlflow.MlflowClient().create_registered_model(NAME)
    return project


def register(
    project: Project, weights: str = "[1, 2, 2]", dirty: str = "false", served: str = SERVED, **changes: str | None
) -> int:
    """A version of these weights, whole, sampled by code of its own; a tag of `changes` that is None is left out."""
    folder = project.root / f"version-{len(registry.versions(project))}"
    model = folder / "artifacts" / "model"
    model.mkdir(parents=True)
    (folder / "MLmodel").write_text(json.dumps({"signature": SIGNATURE}))
    (folder / "served_model.py").write_text(served)
    (model / "model.safetensors").write_text(weights)
    (model / "config.json").write_text('{"data": {"modality": "image", "shape": [1, 2, 2], "classes": ["a", "b"]}}')
    digest = digest_of(model / "model.safetensors", model / "config.json")
    (folder / "code" / "genpipe").mkdir(parents=True)
    (folder / "code" / "genpipe" / "sampling.py").write_text("GREY = 7\n")
    carried = carried_digest(folder / "code" / "genpipe", folder / "served_model.py")
    tags = {registry.MODEL: digest, registry.CODE: carried, EVALUATION: "e1", COMMIT: "c0ffee", DIRTY: dirty} | changes
    given = {key: value for key, value in tags.items() if value is not None}
    return int(mlflow.MlflowClient().create_model_version(NAME, str(folder), tags=given).version)


def genpipe(project: Project, *words: str, code: int = 0) -> None:
    assert cli.main([*words, "-C", str(project.root)]) == code


def test_versions_are_promoted_rolled_back_and_listed(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        register(project)
    genpipe(project, "history")
    genpipe(project, "promote", "1", "--why", "the first that is sharp")
    registry.set_alias(project, ledger.CHALLENGER, 3)
    genpipe(project, "promote", "challenger")
    genpipe(project, "promote", f"models:/{NAME}/2")
    genpipe(project, "rollback", "--why", "colours are off")
    assert capsys.readouterr().out.splitlines() == [
        "genpipe: no version has been champion yet",
        "genpipe: version 1 is champion",
        "genpipe: version 3 is champion, in place of version 1",
        "genpipe: version 2 is champion, in place of version 3",
        "genpipe: version 3 is champion again, in place of version 2",
    ]
    genpipe(project, "history", "--json")
    told = json.loads(capsys.readouterr().out)
    assert [(move["kind"], move["version"], move["replaced"]) for move in told["moves"]] == [
        ("promoted", 1, None), ("promoted", 3, 1), ("promoted", 2, 3), ("rolled back", 3, 2)
    ]  # fmt: skip
    assert (told["name"], told["moves"][3]["why"]) == (NAME, "colours are off")


def test_the_history_says_why_and_what_the_gate_had_said_at_any_width(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Verdict("kept", "better", (), ("It is not shown to be better.",))
    register(project)
    register(project, **kept.tags())
    genpipe(project, "promote", "1", "--why", "the first [that] is sharp")
    genpipe(project, "promote", "2", "--why", "rounder " * 12)
    genpipe(project, "rollback")
    capsys.readouterr()
    monkeypatch.delenv("COLUMNS")
    genpipe(project, "history")
    first, *lines = (line[18:] for line in capsys.readouterr().out.splitlines()[1:])
    by = first.partition(" by ")[2]
    assert [first, *lines] == [
        f"version 1, promoted by {by}",
        "why: the first [that] is sharp",
        "without a verdict of the gate",
        f"version 2, in place of version 1, promoted by {by}",
        f"why: {'rounder ' * 12}".rstrip(),
        f"against the gate's verdict: {kept.title}",
        f"version 1, in place of version 2, rolled back by {by}",
    ]
    monkeypatch.setenv("COLUMNS", "60")
    genpipe(project, "history")
    folded = capsys.readouterr().out
    assert max(map(len, folded.splitlines())) <= 60
    assert " ".join(line[18:] for line in folded.splitlines()[1:]).split() == " ".join([first, *lines]).split()


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ({"dirty": "true"}, "made with changes that were not committed"),
        ({COMMIT: None, DIRTY: None}, "made with no commit of git's"),
        (
            {EVALUATION: None},
            "did not come to its end. `git checkout c0ffee` and `dvc checkout` bring",
        ),
        ({registry.MODEL: "0" * 64}, "are not those that were registered"),
        ({registry.CODE: "0" * 64}, "their digest genpipe.code is"),
        ({"weights": "broken"}, "these weights are broken"),
        ({"weights": "[3, 2, 2]"}, "gives samples of shape (4, 3, 2, 2) and type uint8, not (4, 1, 2, 2) and uint8"),
        ({"served": SERVED.replace("uint8", "float32")}, "and type float32, not (4, 1, 2, 2) and uint8"),
    ],
)
def test_a_version_that_can_not_be_trusted_is_refused(
    project: Project, capsys: pytest.CaptureFixture[str], made: dict[str, str], told: str
) -> None:
    number = register(project, **made)
    genpipe(project, "promote", str(number), code=1)
    assert told in capsys.readouterr().err
    assert registry.aliases(project) == {}
    assert ledger.reconcile(project) == []


def test_rollback_puts_back_no_version_whose_files_are_gone_or_were_changed(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (register(project), register(project)):
        genpipe(project, "promote", str(number))
    weights = project.root / "version-0" / "artifacts" / "model" / "model.safetensors"
    weights.write_text("[1,2,2]")
    genpipe(project, "rollback", code=1)
    assert "the files of version 1 of genpipe are not those that were registered" in capsys.readouterr().err
    shutil.rmtree(project.root / "version-0")
    genpipe(project, "rollback", code=1)
    assert "'models:/genpipe/1' is not in the registry" in capsys.readouterr().err
    assert registry.aliases(project) == {ledger.CHAMPION: 2}
    assert [event.kind for event in ledger.reconcile(project)] == ["promoted", "promoted"]


def test_a_model_from_uncommitted_code_becomes_champion_when_asked_for(project: Project) -> None:
    register(project, dirty="true")
    genpipe(project, "promote", "1", "--allow-dirty")
    assert registry.aliases(project) == {ledger.CHAMPION: 1}


def test_a_version_that_is_not_there_and_the_champion_itself_are_told(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    genpipe(project, "promote", "champion", code=1)
    assert "'champion' is no version of genpipe; versions: none; aliases: none" in capsys.readouterr().err
    register(project)
    genpipe(project, "promote", "1")
    genpipe(project, "promote", "7", code=1)
    assert "'7' is no version of genpipe; versions: 1; aliases: champion" in capsys.readouterr().err
    genpipe(project, "promote", "champion", code=1)
    assert "version 1 of genpipe is champion already" in capsys.readouterr().err
    genpipe(project, "rollback", code=1)
    assert "no version of genpipe to go back to" in capsys.readouterr().err
