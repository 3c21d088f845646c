"""`genpipe data diff`: the comparison by hand, then revisions of a real repository, read from DVC's cache."""

import json
import shutil
import subprocess
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from genpipe import cli, dag
from genpipe.data import dataset
from genpipe.data.dataset import Row
from genpipe.data.difference import Rows, compare
from genpipe.data.keys import KEY, packed
from genpipe.data.rows import encoded, identify
from genpipe.modalities import image
from genpipe.project import Project
from genpipe.sources import digits
from tests import projects

GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.invalid")
ABOUT = replace(digits.DATASET, name="squares")


def rows(*pairs: tuple[int, str]) -> Rows:
    names = tuple(sorted({name for _, name in pairs}))
    said = [names.index(name) for _, name in pairs]
    return Rows(packed(f"{key:032x}" for key, _ in pairs), np.array(said, np.int64), names)


def positions(old: Rows, new: Rows) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    added, removed, (was, now) = compare(old, new)
    return added.tolist(), removed.tolist(), list(zip(was.tolist(), now.tolist(), strict=True))


def test_rows_are_added_removed_and_relabelled() -> None:
    old, new = rows((1, "a"), (2, "b"), (3, "c")), rows((3, "a"), (4, "b"), (1, "a"))
    assert positions(old, new) == ([1], [1], [(2, 0)])


def test_the_order_of_rows_and_of_names_is_no_difference() -> None:
    assert positions(rows((1, "b"), (2, "c")), rows((2, "c"), (9, "a"), (1, "b"))) == ([1], [], [])


def test_a_row_that_is_there_twice_is_matched_once() -> None:
    assert positions(rows((1, "a")), rows((1, "a"), (1, "a"))) == ([1], [], [])
    assert positions(rows((1, "a"), (1, "b")), rows((1, "b"), (1, "c"))) == ([], [], [(0, 1)])
    assert positions(rows((1, "a"), (1, "b"), (1, "b")), rows((1, "b"))) == ([], [0, 2], [])


def test_nothing_and_something() -> None:
    assert positions(rows(), rows((1, "a"), (2, "a"))) == ([0, 1], [], [])
    assert positions(rows((1, "a")), rows()) == ([], [0], [])


def test_a_comparison_of_many_rows_takes_arrays_only() -> None:
    count = 50_000
    keys = np.frombuffer(np.random.default_rng(0).bytes(KEY.itemsize * count), KEY)
    said = np.arange(count) % 10
    old, new = (Rows(keys[part], said[part], tuple("0123456789")) for part in (slice(0, -10), slice(10, None)))
    tracemalloc.start()
    try:
        added, removed, (changed, _) = compare(old, new)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (added.tolist(), removed.tolist(), len(changed)) == (list(range(count - 20, count - 10)), [*range(10)], 0)
    assert peak < 200 * count


def square(value: int, label: int) -> Row:
    return {"image": np.full((4, 4), value, np.uint8) + np.arange(4, dtype=np.uint8), "label": label}


def name_of(row: Row) -> str:
    return identify(encoded(row, image), image)


def store(project: Project, about: dataset.Dataset, *given: Row) -> None:
    """Let data/ hold these rows and no others, and commit data.dvc."""
    for file in (project.data / about.name).glob("*"):
        file.unlink()
    stored, _ = dataset.add(project.data, about, given)
    dag.version_data(project, stored.digest)
    subprocess.run([*GIT, "add", "data.dvc"], cwd=project.root, check=True)
    subprocess.run([*GIT, "commit", "-qm", "data"], cwd=project.root, check=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Three commits: no data, four squares, and two of them with one more and one under another label."""
    project = projects.make(tmp_path_factory.mktemp("project"))
    subprocess.run([*GIT, "init", "-q", "-b", "main"], cwd=project.root, check=True)
    subprocess.run([*GIT, "commit", "-qm", "none", "--allow-empty"], cwd=project.root, check=True)
    dag.dvc(project, "init", "--quiet")
    store(project, ABOUT, square(1, 1), square(2, 2), square(3, 3), square(4, 4))
    store(project, ABOUT, square(1, 1), square(2, 7), square(3, 3), square(5, 5))
    return project


def diff(project: Project, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert cli.main(["data", "diff", "-C", str(project.root), *words]) == code
    printed = capsys.readouterr()
    return printed.err if code else printed.out


def test_two_commits_are_compared_by_id(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(diff(project, capsys, "HEAD~1", "main", "--json"))
    names = {value: name_of(square(value, 0)) for value in range(1, 6)}
    assert found["added"] == [{"id": names[5], "label": "5"}]
    assert found["removed"] == [{"id": names[4], "label": "4"}]
    assert found["relabelled"] == [{"id": names[2], "from": "2", "to": "7"}]
    assert (found["old"]["examples"], found["new"]["examples"]) == (4, 4)
    assert found["quarantine_unknown"] == {"HEAD~1": "there is no dvc.lock", "main": "there is no dvc.lock"}


def test_the_working_tree_is_the_other_side_unless_named(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    printed = diff(project, capsys, "HEAD~1")
    assert "squares: 4 examples in HEAD~1, 4 in ." in printed
    assert [line.split("│")[1:3] for line in printed.splitlines() if "relabelled" in line] == [
        [" relabelled    ", " 1     "]
    ]


def test_what_cannot_be_compared_is_told_with_its_reason(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'nowhere' is no revision of this repository" in diff(project, capsys, "nowhere", code=1)
    assert "HEAD~2 has no data.dvc, so it names no data" in diff(project, capsys, "HEAD~2", code=1)
    cache = project.root / ".dvc" / "cache"
    cache.rename(project.root / "elsewhere")
    told = diff(project, capsys, "HEAD~1", code=1)
    (project.root / "elsewhere").rename(cache)
    assert "the data that HEAD~1 names in data.dvc are in no cache here and in no remote that answers" in told


@pytest.mark.parametrize(("others", "names"), [(("circles",), "circles, squares"), ((), "none")])
def test_a_side_without_one_dataset_is_told(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], others: tuple[str, ...], names: str
) -> None:
    """As a merge of two branches, or a deletion by hand, leaves it."""
    copy = Project(shutil.copytree(project.root, tmp_path / "copy"))
    squares = copy.data / "squares"
    for name in others:
        shutil.copytree(squares, copy.data / name)
    if not others:
        (squares / "dataset.yaml").unlink()
    dag.dvc(copy, "add", "--quiet", "data")
    told = diff(copy, capsys, "HEAD", ".", code=1)
    assert f"the data that the working tree names must be one dataset and are {names}" in told


def test_a_remote_that_does_not_answer_is_told_too(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """No server listens there; and the plug-in for the other is not installed."""
    cache = project.root / ".dvc" / "cache"
    cache.rename(project.root / "elsewhere")
    for remote in ("http://127.0.0.1:9/store", "s3://bucket/store"):
        dag.dvc(project, "remote", "add", "--force", "--default", "store", remote)
        assert "in no remote that answers" in diff(project, capsys, "HEAD~1", code=1)
    dag.dvc(project, "remote", "remove", "store")
    (project.root / "elsewhere").rename(cache)


@pytest.mark.slow
def test_the_quarantine_is_compared_by_reason(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """validate as DVC runs it, on data with one row that has an unknown label, then without it."""
    (project.root / "params.yaml").write_text(yaml.safe_dump({"validate": {"min_accepted": 1, "max_quarantined": 1}}))
    stage = {"cmd": "genpipe stage validate", "deps": ["data"], "outs": ["artifacts/validate"]}
    (project.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"validate": stage}}))
    for given in ([square(1, 1), square(2, 11)], [square(1, 1), square(2, 2), square(2, 2)]):
        store(project, ABOUT, *given)
        dag.dvc(project, "repro")
        subprocess.run([*GIT, "add", "dvc.yaml", "dvc.lock"], cwd=project.root, check=True)
        subprocess.run([*GIT, "commit", "-qm", "validated"], cwd=project.root, check=True)
    found = json.loads(diff(project, capsys, "HEAD~2", "HEAD", "--json"))
    (moved,) = found["other_reason"]
    assert (moved["from"], moved["to"]) == ("unknown label", "the same content as another row")
    assert (found["quarantined"], found["released"]) == ([], [])
    assert "dvc.lock tells of other data" in diff(project, capsys, "HEAD~1", "HEAD", "--json")
