"""The trial of a version beside others in MLflow's registry, each sampled in a process of its own by its own code."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest

from genpipe.champion import contestants, ledger, trial
from genpipe.champion.comparing import compare
from genpipe.champion.contestants import Contestant
from genpipe.champion.verdict import Verdict
from genpipe.data.arrays import write_arrays
from genpipe.errors import DataError, GenpipeError, RegistryError, StageError
from genpipe.evaluation import cards
from genpipe.evaluation.scores import FORMAT
from genpipe.metrics.repeated import summaries
from genpipe.project import Project
from genpipe.records import registry
from genpipe.records.registry import ModelVersion
from genpipe.records.tracking import ROWS, connect, log_rows
from genpipe.stages import calibrate
from tests import projects

NAME = "genpipe"  # the default of mlflow.yml
# The code of a version: real images of the labels asked for, with as much noise as its weights say.
SERVED = """
import json, sys
import numpy as np
from pathlib import Path
request = json.loads(Path(sys.argv[1]).read_text())
weights = json.loads((Path(request["model"]) / "artifacts" / "model" / "model.safetensors").read_text())
image, label = (np.load(Path(weights["folder"]) / f"{name}.npy") for name in ("image", "label"))
rng = np.random.default_rng([request["params"]["seed"], int(weights["deviation"])])
rows = np.array([rng.choice(np.flatnonzero(label == asked)) for asked in request["rows"]["label"]])
noisy = image[rows] + rng.normal(0, weights["deviation"], image[rows].shape)
np.save(request["out"], noisy.clip(0, 255).round().astype(np.uint8))
"""
SIGNATURE = {
    "inputs": '[{"name": "label", "type": "long"}]',
    "params": '[{"name": "seed", "default": 0, "type": "long"}]',
}
DATA = {"modality": "image", "shape": [1, 8, 8], "classes": list("0123456789")}


@pytest.fixture(scope="module")
def made(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with arrays, an evaluator and an empty registry."""
    project = projects.make(tmp_path_factory.mktemp("trial"), evaluate={"draws": 4, "most": 120})
    shutil.copytree(digits, project.artifacts / "augment")
    calibrate.run(calibrate.Config(steps=150), project)
    connect(project)
    mlflow.MlflowClient().create_registered_model(NAME)
    return project.root


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Project:
    shutil.copytree(made, tmp_path / "project")
    return Project(tmp_path / "project")


def register(
    project: Project, deviation: float, rows: str = "monday", run: str | None = None, **about: Any
) -> ModelVersion:
    """A version that draws with such noise, from a model of such data."""
    connect(project)
    folder = project.root / f"version-{len(registry.versions(project))}"
    model = folder / "artifacts" / "model"
    model.mkdir(parents=True)
    (folder / "MLmodel").write_text(json.dumps({"signature": SIGNATURE}))
    (folder / "served_model.py").write_text(SERVED)
    weights = {"folder": str(project.artifacts / "augment" / "train"), "deviation": deviation}
    (model / "model.safetensors").write_text(json.dumps(weights))
    (model / "config.json").write_text(
        json.dumps({"data": {**DATA, **about}, "train": {"generator": {"kind": "noise"}}})
    )
    made = mlflow.MlflowClient().create_model_version(NAME, str(folder), run_id=run, tags={ROWS: rows})
    return found(project, int(made.version))


def found(project: Project, number: int) -> ModelVersion:
    version = registry.get_version(project, number)
    assert version
    return version


def evaluated(project: Project, version: ModelVersion) -> dict[str, Any]:
    """What evaluate writes of such a version."""
    contestant = contestants.of_version(project, version)
    bench, plan = contestants.prepared(project, contestant)
    samples = contestant.samples(plan)
    write_arrays(project.artifacts / "evaluate" / "samples", {"image": samples[plan.slices()[0]]})
    parts = summaries(contestants.scores(bench, plan, samples))
    protocol = contestants.protocol(project, bench, plan)
    metrics = {name: {**part._asdict(), "floor": 0.0, "baseline": 0.0} for name, part in parts.items()}
    card = {"sampling": {}, "samples_digest": cards.digest(samples), **protocol}
    return {"format": FORMAT, **metrics, "card": card}


def held(project: Project, version: ModelVersion, champion: ModelVersion | None) -> Verdict:
    return trial.hold(project, version, champion, evaluated(project, version))


def test_the_rule_follows_from_the_data(project: Project) -> None:
    champion, better = register(project, 70), register(project, 40)
    first = held(project, champion, None)
    assert (first.outcome, first.rule) == ("promoted", "first")
    beside = held(project, better, champion)
    assert (beside.outcome, beside.rule) == ("promoted", "better")
    assert beside.checks[0].against == "version 1"
    assert held(project, champion, better).outcome == "kept"


def promote(project: Project, *versions: ModelVersion) -> None:
    for version in versions:
        ledger.promote(project, version, why="it looked best")


def test_on_new_data_a_version_is_held_against_the_best_former_champion_too(project: Project) -> None:
    best, champion, newer = register(project, 30), register(project, 70), register(project, 70.5, rows="tuesday")
    promote(project, register(project, 50), best, champion)
    verdict = held(project, newer, champion)
    assert (verdict.rule, verdict.outcome) == ("not_worse", "kept")
    asked = {check.against: check.holds for check in verdict.checks if check.rule == "not worse"}
    assert asked == {"version 2": True, "version 1": False}


def test_a_former_champion_that_can_not_be_scored_is_no_hindrance(project: Project) -> None:
    broken, champion, newer = register(project, 30), register(project, 70), register(project, 40, rows="tuesday")
    promote(project, broken, champion)
    (Path(broken.source) / "artifacts" / "model" / "model.safetensors").unlink()
    verdict = held(project, newer, champion)
    assert verdict.outcome == "promoted"
    assert verdict.reasons[-1].startswith("version 1 was left out: the version's own code failed to sample")


def test_where_the_champion_is_gone_the_last_one_is_the_measure(project: Project) -> None:
    champion, noise, better = register(project, 60), register(project, 150), register(project, 40)
    promote(project, champion)
    mlflow.MlflowClient().delete_registered_model_alias(NAME, ledger.CHAMPION)
    ledger.reconcile(project)
    worse = held(project, noise, None)
    assert (worse.outcome, worse.rule) == ("kept", "better")
    assert worse.checks[0].against == "version 1"
    assert held(project, better, None).outcome == "promoted"


def test_a_champion_of_data_that_are_not_known_must_be_beaten(project: Project) -> None:
    champion, newer = register(project, 60, rows=""), register(project, 60.5, rows="tuesday")
    assert trial.rule_for(project, newer, champion) == "better"


@pytest.mark.parametrize(
    ("answer", "told"),
    [("noisy[:-1]", r"shape \(479, 1, 8, 8\)"), ("noisy[:, :, 0]", r"shape \(480, 1, 8\)"), ("noisy / 255", "float64")],
)
def test_a_champion_that_answers_otherwise_than_asked_stays_and_is_told(
    project: Project, answer: str, told: str
) -> None:
    champion, newer = register(project, 60), register(project, 40)
    served = Path(champion.source) / "served_model.py"
    served.write_text(SERVED.replace("noisy.clip(0, 255).round().astype(np.uint8)", answer))
    (reason,) = held(project, newer, champion).reasons
    assert re.search(f"so it is not replaced: it gives samples of .*{told}", reason)


def test_an_evaluation_by_other_settings_than_the_present_ones_is_refused(project: Project) -> None:
    version = register(project, 40)
    metrics = evaluated(project, version)
    params = project.root / "params.yaml"
    params.write_text(params.read_text().replace("most: 120", "most: 100"))
    with pytest.raises(DataError, match=r"count_of_a_draw: 120 against 100.*`dvc repro` brings it up to date"):
        trial.hold(Project(project.root), version, None, metrics)


def test_a_champion_is_scored_anew_after_the_evaluator_was_fitted_anew(project: Project) -> None:
    champion, newer = register(project, 60), register(project, 40)
    before = evaluated(project, champion)
    calibrate.run(calibrate.Config(steps=150, seed=1), project)
    with pytest.raises(DataError, match="evaluator_digest"):
        trial.hold(project, champion, None, before)
    assert held(project, newer, champion).outcome == "promoted"


def test_a_champion_that_can_not_be_scored_stays_and_is_told(project: Project) -> None:
    newer = register(project, 40)
    other = register(project, 60, classes=["a", "b"])
    verdict = held(project, newer, other)
    assert verdict.outcome == "kept"
    assert "Version 2 can't be scored beside version 1, so it is not replaced" in verdict.reasons[0]
    assert "`genpipe promote 1`" in verdict.reasons[0]
    broken = register(project, 60)
    (Path(broken.source) / "artifacts" / "model" / "model.safetensors").unlink()
    (reason,) = held(project, newer, broken).reasons
    assert "the version's own code failed to sample: FileNotFoundError" in reason


def test_a_champion_that_knows_the_held_out_examples_is_no_measure(project: Project) -> None:
    with mlflow.start_run(experiment_id=connect(project)) as run:
        shutil.copytree(project.artifacts / "augment", project.artifacts / "as it was")
        test, train = project.artifacts / "augment" / "test", project.artifacts / "augment" / "train"
        test.rename(test.with_name("aside"))
        train.rename(test)
        test.with_name("aside").rename(train)  # the splits of the champion's day
        log_rows(project, run.info.run_id, "trained.parquet")
        shutil.rmtree(project.artifacts / "augment")
        (project.artifacts / "as it was").rename(project.artifacts / "augment")
    champion, newer = register(project, 60, run=run.info.run_id), register(project, 40)
    verdict = held(project, newer, champion)
    assert verdict.outcome == "kept"
    assert "version 1 was trained on 360 of the 360 examples that are held out now" in verdict.reasons[0]
    with pytest.raises(DataError, match="version 1 was trained on 360 of the 360 examples that are held out now"):
        compare(project.root, "2", "1")


def test_a_version_that_gives_other_samples_than_were_scored_is_an_error(project: Project) -> None:
    version = register(project, 40)
    metrics = evaluated(project, version)
    weights = Path(version.source) / "artifacts" / "model" / "model.safetensors"
    weights.write_text(weights.read_text().replace("40", "48"))
    with pytest.raises(
        StageError, match="version 1 as it was registered does not give the samples that evaluate scored"
    ):
        trial.hold(project, version, None, metrics)


def test_the_gate_promotes_no_version_whose_files_are_not_those_that_were_registered(project: Project) -> None:
    champion, newer = register(project, 60), register(project, 40)
    metrics, model = evaluated(project, newer), Path(newer.source) / "artifacts" / "model"
    tags = {registry.MODEL: registry.digest_of(model / "model.safetensors", model / "config.json")}
    registry.tag_version(project, 2, tags)
    assert trial.hold(project, found(project, 2), champion, metrics).outcome == "promoted"
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")  # gives the same samples
    with pytest.raises(RegistryError, match=r"the files of version 2 of genpipe are not those that were registered"):
        trial.hold(project, found(project, 2), champion, metrics)
    (reason,) = held(project, champion, found(project, 2)).reasons
    assert "so it is not replaced: the files of version 2 of genpipe are not" in reason


def test_compare_notices_an_alias_that_somebody_moved_and_says_how_it_draws(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = register(project, 60), register(project, 40)
    promote(project, one)
    registry.tag_version(project, int(other.version), {contestants.SAMPLING: '{"spread": 0.5}'})
    mlflow.MlflowClient().set_registered_model_alias(NAME, ledger.CHAMPION, "2")
    compare(project.root, "1", "champion")
    assert [event.kind for event in ledger.events(project)] == ["promoted", "moved outside"]
    told = capsys.readouterr().out.splitlines()[-2:]
    assert told == ["version 1 is drawn with its own defaults", 'version 2 is drawn with {"spread": 0.5}']


def test_a_contestant_of_other_data_than_the_project_s_is_told(project: Project) -> None:
    other: Contestant = contestants.of_version(project, register(project, 40, shape=[1, 9, 9]))
    with pytest.raises(GenpipeError, match="version 1 makes"):
        contestants.prepared(project, other)
