"""A training's run in MLflow says how it ended, and where it came to no good end, why."""

import shutil
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow.entities import Run

from genpipe import dag
from genpipe.data import dataset
from genpipe.errors import DivergedError, StageError
from genpipe.project import Project
from genpipe.records import tracking
from genpipe.sources import digits as source
from genpipe.watching import status
from tests import projects

TRAIN = {"generator": {"kind": "vae", "hidden_dim": 8}, "steps": 20, "log_every": 1, "pictures": 0, "threads": 1}


@pytest.fixture
def project(tmp_path: Path, digits: Path) -> Project:
    """One whose data are versioned and split, so that it may be trained."""
    project = projects.make(tmp_path)
    dag.dvc(project, "init", "--quiet", "--no-scm")
    stored, _ = dataset.add(project.data, source.DATASET, [{"image": np.zeros((8, 8), np.uint8), "label": 0}])
    dag.version_data(project, stored.digest)
    shutil.copytree(digits, project.artifacts / "augment")
    return project


def train(project: Project, **changes: Any) -> None:
    projects.run(projects.make(project.root, train=TRAIN | changes), "train")


def ended(project: Project) -> Run:
    """The one run of the project's experiment."""
    client, place = mlflow.MlflowClient(), tracking.connect(project)
    (run,) = client.search_runs([place])
    return run


def test_a_training_that_fails_says_why(project: Project) -> None:
    with pytest.raises(DivergedError) as failed:
        train(project, optimizer={"lr": 1e18})
    run = ended(project)
    assert run.info.status == "FAILED"
    assert run.data.tags[tracking.REASON] == "loss of part 'autoencoder' is nan at step 1"
    assert str(failed.value).startswith(run.data.tags[tracking.REASON])
    (told,) = status.trainings(project)["last"]
    assert (told["state"], told["reason"]) == ("FAILED", run.data.tags[tracking.REASON])


def test_a_training_that_is_stopped_says_so_until_it_has_gone_on_to_its_end(project: Project) -> None:
    with pytest.raises(StageError, match="stopped at step") as stopped:
        train(project, max_seconds=0.01)
    run = ended(project)
    assert (run.info.status, run.data.tags[tracking.REASON]) == ("KILLED", str(stopped.value))
    train(project)
    run = ended(project)
    assert (run.info.status, run.data.tags.get(tracking.REASON)) == ("FINISHED", None)
