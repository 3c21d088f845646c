"""The trial of a version beside others in MLflow's registry, each sampled in a process of its own by its own code."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest

from genpipe import cards, contestants, registry, trial
from genpipe.contestants import Contestant
from genpipe.data.arrays import write_arrays
from genpipe.errors import GenpipeError, StageError
from genpipe.metrics.repeated import summaries
from genpipe.project import Project
from genpipe.registry import ModelVersion
from genpipe.scores import FORMAT
from genpipe.stages import calibrate
from genpipe.tracking import ROWS, connect, log_rows
from genpipe.verdict import Verdict
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
    found = registry.get_version(project, int(made.version))
    assert found
    return found


def evaluated(project: Project, version: ModelVersion) -> dict[str, Any]:
    """What evaluate writes of such a version."""
    contestant = contestants.of_version(project, version)
    bench, plan = contestants.prepared(project, contestant)
    samples = contestant.samples(plan)
    write_arrays(project.artifacts / "evaluate" / "samples", {"image": samples[plan.slices()[0]]})
    parts = summaries(contestants.scores(bench, plan, samples))
    metrics = {name: {**found._asdict(), "floor": 0.0, "baseline": 0.0} for name, found in parts.items()}
    card = {"sampling": {}, "samples_digest": cards.digest(samples), "evaluator_digest": bench.evaluator.digest}
    registry.tag_version(project, int(version.version), trial.tags_of({"format": FORMAT, **metrics, "card": card}))
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


def test_on_new_data_a_version_is_held_against_the_best_one_too(project: Project) -> None:
    best, champion, newer = register(project, 30), register(project, 70), register(project, 70.5, rows="tuesday")
    evaluated(project, best)
    evaluated(project, champion)
    verdict = held(project, newer, champion)
    assert (verdict.rule, verdict.outcome) == ("not_worse", "kept")
    asked = {check.against: check.holds for check in verdict.checks if check.rule == "not worse"}
    assert asked == {"version 2": True, "version 1": False}


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
    assert "trained on 360 of the 360 examples that are held out now" in verdict.reasons[0]


def test_a_version_that_gives_other_samples_than_were_scored_is_an_error(project: Project) -> None:
    version = register(project, 40)
    metrics = evaluated(project, version)
    weights = Path(version.source) / "artifacts" / "model" / "model.safetensors"
    weights.write_text(weights.read_text().replace("40", "48"))
    with pytest.raises(
        StageError, match="version 1 as it was registered does not give the samples that evaluate scored"
    ):
        trial.hold(project, version, None, metrics)


def test_a_contestant_of_other_data_than_the_project_s_is_told(project: Project) -> None:
    found: Contestant = contestants.of_version(project, register(project, 40, shape=[1, 9, 9]))
    with pytest.raises(GenpipeError, match="version 1 makes"):
        contestants.prepared(project, found)
