"""When a registered version is complete: its evaluation is noted, and its verdict whole and still what holds."""

import json
import subprocess
from pathlib import Path
from typing import Any

import mlflow
import pytest
from rich.console import Console

from genpipe import summary
from genpipe.champion import ledger
from genpipe.champion.gate import Opponent, decide
from genpipe.champion.verdict import CHECKS, OUTCOME, Verdict, of_tags
from genpipe.data import dataset
from genpipe.errors import RegistryError
from genpipe.files import write_json
from genpipe.project import Gate, Project
from genpipe.records import registry
from genpipe.records.registry import ModelVersion
from genpipe.records.tracking import COMMIT, DIRTY, code_state, connect
from genpipe.stages import STAGES, register
from tests import projects
from tests.test_estimate import ABOUT, rows

NAME = "genpipe"  # the default of mlflow.yml
KEPT = Verdict("kept", "better", (), ("It is not shown to be better.",))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """One with an evaluation and two versions, of which the first is champion."""
    project = projects.make(tmp_path)
    write_json(project.artifacts / "evaluate" / "metrics.json", {"format": 2})
    connect(project)
    mlflow.MlflowClient().create_registered_model(NAME)
    for _ in range(2):
        mlflow.MlflowClient().create_model_version(NAME, "nowhere")
    ledger.promote(project, version(project, 1), why="the first")
    return project


def version(project: Project, number: int) -> ModelVersion:
    found = registry.get_version(project, number)
    assert found
    return found


def noted(project: Project, verdict: Verdict) -> ModelVersion:
    """Version 2 with all that registering notes of it."""
    rests = {register.RESTS_ON: register.rests_on(project, ledger.champion(project))}
    tags = {**verdict.tags(), **rests, register.EVALUATION: register.evaluation_digest(project)}
    registry.tag_version(project, 2, tags)
    return version(project, 2)


def test_a_promotion_whose_alias_never_moved_is_not_complete(project: Project) -> None:
    promoted = noted(project, Verdict("promoted", "better", (), ("It is better.",)))
    assert not register.is_complete(promoted, project)
    ledger.promote(project, promoted, why="the gate")
    assert register.is_complete(version(project, 2), project)


def test_a_verdict_stands_until_champion_or_gate_change(project: Project) -> None:
    kept = noted(project, KEPT)
    assert register.is_complete(kept, project)
    (project.root / "mlflow.yml").write_text("gate: {margin: 0.5}\n")
    assert not register.is_complete(kept, Project(project.root))
    (project.root / "mlflow.yml").unlink()
    mlflow.MlflowClient().create_model_version(NAME, "nowhere")
    ledger.promote(project, version(project, 3), why="another one")
    assert not register.is_complete(kept, project)
    ledger.rollback(project, why="no")
    assert register.is_complete(kept, project)


def test_a_part_of_a_verdict_and_one_of_another_genpipe_are_none() -> None:
    draws = [{"frechet_distance": value, "near_copies": 0.0} for value in (3.0, 4.0)]
    own = {name: {"value": 1.0, "low": 1.0, "high": 1.0} for name in draws[0]}
    tags = decide(Gate(guards={}), "better", own, draws, Opponent("version 1", draws)).tags()
    assert of_tags(tags)
    assert list(tags)[-1] == OUTCOME  # until it is there, a kill leaves no verdict
    for lost in tags:
        assert of_tags({name: value for name, value in tags.items() if name != lost}) is None
    for before, after in (('"low"', '"lowest"'), ("frechet_distance", "fid"), ('"better"', '"best"'), ("{", "(")):
        assert of_tags(tags | {CHECKS: tags[CHECKS].replace(before, after)}) is None


def git(project: Project, *words: str) -> None:
    own = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
    subprocess.run(["git", "-C", project.root, *own, *words], check=True, capture_output=True)


def test_what_was_committed_later_passes_only_if_the_version_carries_that_code(project: Project) -> None:
    config = {"train": {"generator": {"kind": "vae"}}, "data": {"modality": "image"}}
    write_json(project.artifacts / "train" / "config.json", config)
    registry.tag_version(project, 2, {DIRTY: "true", registry.CODE: register.carried_now(project)})
    assert register.known_origin(project, version(project, 2)) is None  # no git
    git(project, "init", "-q")
    subprocess.run(["dvc", "init", "-q"], cwd=project.root, check=True)
    assert register.known_origin(project, version(project, 2)) is None  # no commit
    git(project, "add", "params.yaml", "dvc.yaml", "suites")
    git(project, "commit", "-qm", "all of it")
    found = register.known_origin(project, version(project, 2))
    assert found
    assert (found[DIRTY], len(found[COMMIT])) == ("false", 40)
    assert version(project, 2).tags[DIRTY] == "true"  # a question changes nothing
    registry.tag_version(project, 2, {registry.CODE: "that of an edit which was taken back"})
    assert register.known_origin(project, version(project, 2)) is None


def test_only_code_and_settings_count_as_uncommitted(project: Project) -> None:
    assert code_state(project) == {}
    git(project, "init", "-q")
    (project.root / "notes.md").write_text("before")
    git(project, "add", "params.yaml", "dvc.yaml", "suites", "notes.md")
    git(project, "commit", "-qm", "all of it")
    (project.root / "notes.md").write_text("after")
    assert code_state(project)[DIRTY] == "false"
    (project.root / "mlflow.yml").write_text("gate: {margin: 0.5}\n")  # new
    assert code_state(project)[DIRTY] == "true"
    (project.root / "mlflow.yml").unlink()
    (project.root / "params.yaml").write_text("train: {}\n")  # changed
    assert code_state(project)[DIRTY] == "true"


def test_a_version_whose_run_is_gone_has_no_link(project: Project) -> None:
    mlflow.MlflowClient().create_model_version(NAME, "nowhere", run_id="0" * 32)
    register.note(project, version(project, 3))
    assert json.loads(register.noted_file(project).read_text())["run"] == ""


def test_a_version_is_described_though_its_run_has_been_deleted(project: Project) -> None:
    gone = mlflow.MlflowClient().create_model_version(NAME, "nowhere", run_id="0" * 32)
    registry.describe_version(project, gone, {"team": "blue"}, "About it.")
    assert version(project, 3).tags["team"] == "blue"
    assert "of a training whose run has been deleted, data `not known`" in version(project, 3).description
    with mlflow.start_run(experiment_id=connect(project)) as active:
        run = active.info.run_id
    mlflow.MlflowClient().delete_run(run)  # to MLflow's bin, where its page still is
    binned = mlflow.MlflowClient().create_model_version(NAME, "nowhere", run_id=run)
    registry.describe_version(project, binned, {}, "About it.")
    assert f"runs/{run}" in version(project, 4).description


def test_a_registry_that_fails_is_named(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")  # nobody listens there
    elsewhere = Project(project.root)
    with pytest.raises(RegistryError, match=r"the registry http://127.0.0.1:9 .* answered: "):
        registry.find_version(elsewhere, "c0ffee")
    monkeypatch.delenv("MLFLOW_REGISTRY_URI")
    signature = registry.signature(("label",), {"seed": 0}, (1, 8, 8), "uint8")
    with pytest.raises(RegistryError, match=f"answered: .*{'0' * 32}"):  # of no run
        registry.log_version(Project(project.root), "0" * 32, tmp_path, tmp_path, signature, {})


def scores_of(**intervals: tuple[float, float]) -> dict[str, Any]:
    """metrics.json with these intervals, all beside a baseline of 0.5."""
    about = {"value": 0.0, "floor": 1.0, "baseline": 0.5}
    return {"format": 2} | {name: about | {"low": low, "high": high} for name, (low, high) in intervals.items()}


def test_the_summary_says_what_is_worse_than_the_baseline_beyond_its_interval() -> None:
    level = scores_of(frechet_distance=(0.4, 0.9), recall=(0.1, 0.5), near_copies=(0.6, 0.9))
    assert summary.below_baseline(level) == ""
    assert summary.below_baseline(scores_of(frechet_distance=(0.4, 0.9), precision=(0.6, 0.7), recall=(0.1, 0.4))) == (
        "Worse than the baseline, beyond the interval: recall."
    )
    poor = scores_of(frechet_distance=(0.6, 0.9), precision=(0.6, 0.7), recall=(0.1, 0.4))
    told = "Fréchet distance, recall; more steps (train.steps) are the first thing to try."
    assert summary.below_baseline(poor) == f"Worse than the baseline, beyond the interval: {told}"


def test_the_card_and_the_summary_show_the_same_scores(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"value": 8.9914, "low": 6.874, "high": 11.975, "floor": 7.838, "baseline": 9.875}
    metrics = {"format": 2, "frechet_distance": row}
    write_json(project.artifacts / "evaluate" / "metrics.json", metrics)
    dataset.add(project.data, ABOUT, rows(0, 2))
    text = register.card(project, {"train": {"generator": {"kind": "vae"}}}, metrics).splitlines()
    shown = ["Fréchet distance", "8.991", "6.874 to 11.975", "7.838", "9.875"]
    assert text[2:5] == [
        "| score | value | interval | real data | baseline |", "|---|---|---|---|---|", f"| {' | '.join(shown)} |",
    ]  # fmt: skip
    Console(width=120).print(summary.score_table(metrics))
    assert [cell.strip() for cell in capsys.readouterr().out.splitlines()[4].split("│")[1:-1]] == shown


def test_the_summary_is_folded_below_where_a_line_began_and_commands_are_whole(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(project.artifacts / "evaluate" / "metrics.json", {"format": 2})
    noted = {"name": NAME, "version": 2, "alias": "challenger", "run": "", "verdict": KEPT.plain()}
    write_json(register.noted_file(project), noted)
    monkeypatch.setenv("COLUMNS", "40")
    summary.show(project, dict.fromkeys(STAGES, 1.5))
    shown = capsys.readouterr().out.splitlines()
    assert shown[1:4] == [
        "Time        10.5 s: ingest 1.5  validate",
        "            1.5  augment 1.5  calibrate",
        "            1.5  train 1.5  evaluate 1.5",
    ]
    gate = shown.index("Gate        stays challenger, since it")
    told = " ".join(line.strip() for line in shown[gate : shown.index("Look at     artifacts/evaluate/report.html")])
    assert told == f"Gate        {KEPT.title} It is not shown to be better."
    assert "Next        genpipe sample models:/genpipe@challenger -n 64 --out samples" in shown
