"""ingest with DVC itself: data.dvc names what data/ holds, in the first run and in every clone after it."""

import json
import shutil
import subprocess
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import yaml

from genpipe import dag
from genpipe.errors import DataError
from genpipe.project import Project
from genpipe.sources import digits
from genpipe.stages import ingest
from tests import projects
from tests.pictures import put

GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.invalid")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project under git and DVC with the digits ingested."""
    project = projects.make(tmp_path)
    subprocess.run([*GIT, "init", "-q"], cwd=tmp_path, check=True)
    dag.dvc(project, "init", "--quiet")
    projects.run(project, "ingest")
    return project


def data_dvc(project: Project) -> str:
    return (project.root / "data.dvc").read_text()


def contents(project: Project) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (project.data / "digits").iterdir()}


def test_ingesting_again_changes_nothing(project: Project) -> None:
    before, named = contents(project), data_dvc(project)
    assert projects.run(project, "ingest")["ingest"] == {"examples": 1797, "added": 0}
    assert (contents(project), data_dvc(project)) == (before, named)


def test_a_corrected_licence_is_versioned_too(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    named = yaml.safe_load(data_dvc(project))
    monkeypatch.setattr(digits, "DATASET", replace(digits.DATASET, licence="CC-BY-4.0, corrected"))
    projects.run(project, "ingest")
    assert yaml.safe_load(data_dvc(project))["outs"] != named["outs"]
    assert yaml.safe_load(data_dvc(project))["meta"] == named["meta"]  # the rows are the same
    assert json.loads(dag.dvc(project, "status", "--json")) == {}


def test_a_clone_gets_what_data_dvc_names_and_not_what_the_source_has_now(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, named = contents(project), data_dvc(project)
    shutil.rmtree(project.data)
    every = digits.rows
    monkeypatch.setattr(digits, "rows", lambda *given: islice(every(*given), 1000, None))  # it has dropped the oldest
    projects.run(project, "ingest")
    assert (contents(project), data_dvc(project)) == (before, named)


def test_a_source_that_lost_rows_does_not_overwrite_what_data_dvc_names(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = data_dvc(project)
    shutil.rmtree(project.data)
    shutil.rmtree(project.root / ".dvc" / "cache")
    every = digits.rows
    monkeypatch.setattr(digits, "rows", lambda *given: islice(every(*given), 1000, None))
    with pytest.raises(DataError, match=r"source 'digits' gives other rows than data.dvc names.*`dvc pull`"):
        projects.run(project, "ingest")
    assert data_dvc(project) == named
    assert not project.data.exists()
    monkeypatch.setattr(digits, "rows", every)
    projects.run(project, "ingest")
    assert data_dvc(project) == named


def test_a_source_out_of_reach_leaves_the_data_that_data_dvc_names(tmp_path: Path) -> None:
    photos = put(tmp_path / "photos", "rose/1.png", "aster/2.png")
    source = {"kind": "folder", "name": "flowers", "path": "photos"}
    project = projects.make(tmp_path, ingest={"source": source})
    subprocess.run([*GIT, "init", "-q"], cwd=tmp_path, check=True)
    dag.dvc(project, "init", "--quiet")
    projects.run(project, "ingest")
    named = data_dvc(project)
    photos.rename(tmp_path / "elsewhere")
    shutil.rmtree(project.state)  # as in a clone, which has the data by `dvc pull` and not the photos
    shutil.rmtree(project.data)
    assert projects.run(project, "ingest")["ingest"] == {"examples": 2, "added": 0}
    assert data_dvc(project) == named
    assert not ingest.pending(project)
    (tmp_path / "elsewhere").rename(photos)
    assert ingest.pending(project)
    photos.rename(tmp_path / "elsewhere")
    shutil.rmtree(project.data)
    shutil.rmtree(project.root / ".dvc" / "cache")
    with pytest.raises(DataError, match="photos is absent"):
        projects.run(project, "ingest")
