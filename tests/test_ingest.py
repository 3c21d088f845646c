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
from genpipe.data import dataset
from genpipe.data.dataset import Stored
from genpipe.errors import DataError, RemoteError
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


def test_a_remote_that_is_away_makes_nobody_begin_a_new_history(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dag.dvc(project, "remote", "add", "--default", "store", str(tmp_path / "unmounted"))
    named = data_dvc(project)
    shutil.rmtree(project.data)
    shutil.rmtree(project.root / ".dvc" / "cache")
    every = digits.rows
    monkeypatch.setattr(digits, "rows", lambda *given: islice(every(*given), 1000, None))
    with pytest.raises(RemoteError, match=r"DVC's remote 'store' .*unmounted\) is not there"):
        projects.run(project, "ingest")
    assert (data_dvc(project), project.data.exists()) == (named, False)
    monkeypatch.setattr(digits, "rows", every)  # the source has the same rows: nothing is missed
    projects.run(project, "ingest")
    assert data_dvc(project) == named


def test_what_somebody_put_beside_the_dataset_outlives_a_refusal(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(project.data)
    shutil.rmtree(project.root / ".dvc" / "cache")
    for own in (project.data / "notes.txt", project.data / "digits" / "notes.txt"):
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text("somebody's own")
    every = digits.rows
    monkeypatch.setattr(digits, "rows", lambda *given: islice(every(*given), 1000, None))
    with pytest.raises(DataError, match=r"gives other rows than data\.dvc names"):
        projects.run(project, "ingest")
    assert {str(file.relative_to(project.data)) for file in project.data.rglob("*.*")} == {
        "notes.txt", "digits/notes.txt",
    }  # fmt: skip


def without_first_row(project: Project) -> str:
    """Remove a row, as another clone would, and let data/ be as before; what data.dvc then names. The row's id last."""
    kept = project.root / "before"
    shutil.copytree(project.data, kept)
    gone = str(next(Stored.find(project.data).read_rows(["id"]))["id"])
    dag.version_data(project, dataset.remove(project.data, [gone]).digest)
    shutil.rmtree(project.data)
    kept.rename(project.data)
    return gone


def test_data_that_are_older_than_data_dvc_are_replaced_and_no_removed_row_comes_back(project: Project) -> None:
    before = dag.versioned_rows(project)
    gone = without_first_row(project)
    dag.note_rows(project, str(before))  # the clone's own state, to which data.dvc came by `git pull`
    named = data_dvc(project)
    assert projects.run(project, "ingest")["ingest"] == {"examples": 1796, "added": 0}
    assert data_dvc(project) == named
    assert Stored.find(project.data).removed == (gone,)
    assert gone not in {row["id"] for row in Stored.find(project.data).read_rows(["id"])}


def test_older_data_stay_and_are_told_where_dvc_cannot_replace_them(project: Project) -> None:
    without_first_row(project)
    shutil.rmtree(project.state)
    shutil.rmtree(project.root / ".dvc" / "cache")
    named, held = data_dvc(project), contents(project)
    with pytest.raises(DataError, match=r"data/ holds other rows than data.dvc names.*`dvc checkout --force data.dvc`"):
        projects.run(project, "ingest")
    assert (data_dvc(project), contents(project)) == (named, held)


def test_rows_that_an_interrupted_ingest_has_added_are_versioned_by_the_next(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = [*digits.rows(digits.Config(), project.root)]
    monkeypatch.setattr(digits, "rows", lambda *given: iter([*every, {**every[0], "image": every[0]["image"].T}]))
    ingest.take_in(project.section("ingest", ingest.Config).source, project)  # and is killed before it tells DVC
    assert projects.run(project, "ingest")["ingest"] == {"examples": 1798, "added": 0}
    assert dag.versioned_rows(project) == Stored.find(project.data).digest


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
