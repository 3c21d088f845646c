"""The news of a champion: told of those that retraining made, until somebody was told, and never of others."""

from pathlib import Path

import mlflow
import pytest

from genpipe.champion import ledger, news
from genpipe.champion.verdict import Verdict
from genpipe.project import Project
from genpipe.records import registry
from genpipe.records.registry import ModelVersion
from genpipe.records.tracking import connect
from genpipe.unattended.pending import WHY
from tests import projects

NAME = "genpipe"  # the default of mlflow.yml
FIRST = Verdict("promoted", "first", (), ("There was no champion.",))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = projects.make(tmp_path)
    connect(project)
    mlflow.MlflowClient().create_registered_model(NAME)
    return project


def new_version(project: Project) -> ModelVersion:
    """One with all that registering tags it with before the alias moves."""
    made = mlflow.MlflowClient().create_model_version(NAME, "nowhere")
    registry.tag_version(project, int(made.version), news.tags() | FIRST.tags())
    return made


def promote(project: Project, version: ModelVersion) -> None:
    ledger.promote(project, version, why="the gate: promoted, as the first version")


def test_a_champion_of_a_retraining_is_news_until_somebody_was_told(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert news.untold(project) is None
    monkeypatch.setenv(WHY, "new data: +2 rows")
    version = new_version(project)
    assert news.untold(project) is None  # a version that has not become champion
    promote(project, version)
    monkeypatch.delenv(WHY)  # the run was killed; the next one asks
    found = news.untold(project)
    assert found
    assert found.version == version.version
    since, verdict, why = news.text(found).splitlines()
    assert since.startswith("promoted 20")
    assert since.endswith("the gate: promoted, as the first version")
    assert (verdict, why) == ("There was no champion.", "Why it was trained: new data: +2 rows.")
    news.settle(project, found)
    assert news.untold(project) is None
    promote(project, new_version(project))
    ledger.rollback(project, why="no better")
    assert news.untold(project) is None  # what it was told of once is no news when it comes back


def test_a_champion_that_a_person_trained_is_no_news(project: Project) -> None:
    promote(project, new_version(project))
    assert news.untold(project) is None
