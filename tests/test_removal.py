"""`genpipe data remove`: which examples are meant, that nothing holds them afterwards, and that a kill is made good."""

import hashlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from genpipe import cli, dag, locks, removal, run
from genpipe.data import dataset
from genpipe.data.arrays import Arrays
from genpipe.data.dataset import Row, Stored
from genpipe.errors import DataError
from genpipe.files import write_json
from genpipe.modalities import image
from genpipe.project import Project
from genpipe.sources import digits
from tests import projects, searching

GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.invalid")
ABOUT = replace(digits.DATASET, name="portraits")
FEW = {"validate": {"min_accepted": 10}}
STAGES: Mapping[str, Any] = {
    "validate": {"cmd": "genpipe stage validate", "deps": ["data"], "outs": ["artifacts/validate"]},
    "augment": {
        "cmd": "genpipe stage augment",
        "deps": ["data", "artifacts/validate/accepted.parquet"],
        "outs": ["artifacts/augment"],
    },
}


def portraits(count: int = 60) -> list[Row]:
    """Pictures of noise, each with the path that it came from."""
    draw, rows = np.random.default_rng(0), list[Row]()
    for number in range(count):
        encoded = image.encode(draw.integers(0, 256, (12, 11), np.uint8))["image"]
        rows.append({"image": {**encoded, "path": f"faces/{number % 10}/{number:03d}.png"}, "label": number % 10})
    return rows


def name_of(row: Row) -> str:
    """The id, by hand: over type, shape and bytes of the decoded pixels."""
    return hashlib.sha256(b"|u1(12, 11, 1)" + image.decode(row).tobytes()).hexdigest()[:32]


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    project = projects.with_rows(projects.make(tmp_path, **FEW), ABOUT, portraits())
    return Stored.find(project.data)


def test_examples_are_named_by_ids_their_beginnings_and_paths(stored: Stored) -> None:
    names = [name_of(row) for row in portraits()]
    assert removal.chosen(stored, [names[0], names[7][:10].upper()], None) == tuple(sorted([names[0], names[7]]))
    assert removal.chosen(stored, [], "faces/3/*") == tuple(sorted(names[3::10]))
    assert removal.chosen(stored, [names[3]], "*/013.png") == tuple(sorted([names[3], names[13]]))


def test_a_removed_example_may_be_named_again(stored: Stored) -> None:
    gone = name_of(portraits()[4])
    left = dataset.remove(stored.folder.parent, [gone])
    assert removal.chosen(left, [gone[:12]], None) == (gone,)


def test_data_of_which_all_was_removed_are_told(stored: Stored) -> None:
    dataset.remove(stored.folder.parent, [name_of(row) for row in portraits()])
    with pytest.raises(DataError, match=r"portraits holds no example any more; ingest.source can bring others"):
        projects.run(Project(stored.folder.parents[1]), "validate")


def test_every_word_that_names_no_example_is_told(stored: Stored) -> None:
    with pytest.raises(DataError) as caught:
        removal.chosen(stored, ["ab", "0" * 32, "zebra"], "faces/99/*")
    message = str(caught.value)
    assert "'ab' is too short; give at least 4 digits" in message
    assert f"'{'0' * 32}' begins the id of no example of portraits" in message
    assert "'zebra' begins the id of no example" in message
    assert "--path 'faces/99/*' matches no example's file" in message
    assert message.endswith("nothing was removed")
    with pytest.raises(DataError, match="name the examples by ids, --path PATTERN or --from FILE"):
        removal.chosen(stored, [], None)


def test_a_beginning_of_two_ids_is_refused() -> None:
    names = ["00aa11", "00aa12", "00ab00", "ff0000"]
    assert removal.starting_with("00aa", names) == ["00aa11", "00aa12"]
    assert removal.starting_with("00ab", names) == ["00ab00"]
    assert removal.starting_with("ff0000", names) == ["ff0000"]
    assert removal.starting_with("fff0", names) == []


def test_without_a_terminal_nothing_goes_unless_confirmed(stored: Stored, capsys: pytest.CaptureFixture[str]) -> None:
    root = stored.folder.parents[1]
    listed = root / "withdrawn.txt"
    listed.write_text("\n".join(name_of(row) for row in portraits()[:2]) + "\n")
    assert cli.main(["data", "remove", "-C", str(root), "--from", str(listed)]) == 2
    printed = capsys.readouterr()
    assert "portraits: 2 examples to remove" in printed.out
    assert "--yes confirms it" in printed.err
    assert Stored.find(root / "data") == stored
    assert not removal.unfinished(Project(root))


def test_no_stage_runs_between_a_kill_and_the_end_of_a_removal(stored: Stored) -> None:
    project = Project(stored.folder.parents[1])
    request = removal.Request((name_of(portraits()[0]),), gc=False, cloud=False)
    write_json(removal.journal(project), asdict(request))  # as a killed removal leaves it
    for stage in ("ingest", "validate", "train"):
        with pytest.raises(DataError, match="was interrupted; `genpipe data remove` completes it"):
            run.run_stage(project.root, stage)


# With DVC


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project under git and DVC with portraits, validated and augmented."""
    project = projects.make(tmp_path_factory.mktemp("original") / "project", **FEW)
    (project.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    subprocess.run([*GIT, "init", "-q"], cwd=project.root, check=True)
    dag.dvc(project, "init", "--quiet")
    stored, _ = dataset.add(project.data, ABOUT, portraits())
    dag.version_data(project, stored.digest)
    dag.dvc(project, "repro")
    return project


@pytest.fixture
def project(original: Project, tmp_path: Path) -> Project:
    return Project(shutil.copytree(original.root, tmp_path / "project"))


def places(project: Project, row: Row) -> set[str]:
    """The folders of the project in which something holds the example."""
    found = searching.holding(project.root, image.decode(row)[..., 0], row["image"]["bytes"])
    return {name.partition("/")[0] for name in found}


def in_split(project: Project, split: str) -> Row:
    """The first example of a split."""
    first = str(Arrays(project.artifacts / "augment" / split)["id"][0])
    return next(row for row in portraits() if name_of(row) == first)


def remove(project: Project, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "genpipe", "data", "remove", *words], cwd=project.root, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_after_a_removal_with_gc_no_file_holds_the_example(project: Project) -> None:
    gone, kept = in_split(project, "train"), in_split(project, "test")
    everywhere = {"data", "artifacts", ".dvc"}
    assert everywhere <= places(project, gone)
    printed = remove(project, name_of(gone)[:12], "--gc", "--yes")
    assert "DVC's cache will keep only what data.dvc and dvc.lock name afterwards" in printed
    assert places(project, gone) == set()
    assert everywhere <= places(project, kept)
    assert json.loads(dag.dvc(project, "status", "--json")) == {}
    assert not removal.unfinished(project)
    again, added = dataset.add(project.data, ABOUT, portraits(61))
    assert (added, again.rows, again.removed) == (1, 60, (name_of(gone),))


@pytest.mark.slow
def test_without_gc_only_the_cache_holds_it_and_the_command_is_told(project: Project) -> None:
    gone = in_split(project, "train")
    printed = remove(project, name_of(gone), "--yes")
    assert places(project, gone) == {".dvc"}
    assert "`dvc gc --workspace --force` deletes all versions but the present one" in printed
    dag.dvc(project, "gc", "--workspace", "--force")
    assert places(project, gone) == set()
    assert "--cloud: DVC has no remote here" in remove(project, name_of(gone), "--cloud", "--yes", code=2)


@pytest.mark.slow
def test_what_stays_too_small_to_validate_is_erased_all_the_same(project: Project) -> None:
    """The stage fails, nothing of before is left, and the project is not locked: more data can come."""
    gone = portraits()[17]
    told = remove(project, "--path", "faces/[0-8]/*", "--gc", "--yes")
    assert "validate.min_accepted asks for 10 good rows" in told
    assert "The examples are erased, but what is left can't be trained on" in told
    assert "54 examples removed, never to be taken in again." in told
    assert places(project, gone) == set()
    run.refuse_unfinished(project)
    stored, added = dataset.add(project.data, ABOUT, portraits(90))
    assert (added, stored.rows) == (30, 36)
    dag.dvc(project, "repro")


@pytest.mark.slow
def test_all_examples_may_be_withdrawn(project: Project) -> None:
    told = remove(project, "--path", "*", "--gc", "--yes")
    assert "60 examples removed, never to be taken in again." in told
    assert (Stored.find(project.data).rows, removal.unfinished(project)) == (0, False)
    assert places(project, portraits()[0]) == set()


KILLED = """
import os, signal, sys
from genpipe import cli

left = int(sys.argv[1])

def count(event, arguments):
    global left
    if event in ("os.rename", "shutil.rmtree", "subprocess.Popen"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_a_removal_that_is_killed_before_any_step_is_completed_by_the_same_command(
    project: Project, tmp_path: Path
) -> None:
    """With stages that copy the data, since what they compute is no matter here."""
    gone = in_split(project, "train")
    copying = {name: stage | {"cmd": f"cp -r data artifacts/{name}"} for name, stage in STAGES.items()}
    copying["augment"]["deps"] = ["data", "artifacts/validate"]
    (project.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": copying}))
    dag.dvc(project, "repro")
    words = [name_of(gone), "--gc", "--yes"]
    for step in range(40):
        copy = Project(shutil.copytree(project.root, tmp_path / f"step-{step}"))
        killed = [sys.executable, "-c", KILLED, str(step), "data", "remove", *words]
        code = subprocess.run(killed, cwd=copy.root, capture_output=True, check=False).returncode
        assert code in (0, -signal.SIGKILL)
        if code == 0:
            break
        assert removal.unfinished(copy) or step < 2 or places(copy, gone) == set()  # after the lock's note, the journal
        remove(copy, *words)
        assert places(copy, gone) == set()
        assert json.loads(dag.dvc(copy, "status", "--json")) == {}
        assert not removal.unfinished(copy)
    assert step > 10


@pytest.mark.slow
def test_between_a_kill_and_the_end_of_a_removal_nothing_is_run(project: Project) -> None:
    words = ["data", "remove", name_of(portraits()[0]), "--yes"]
    subprocess.run([sys.executable, "-c", KILLED, "2", *words], cwd=project.root, capture_output=True, check=False)
    with pytest.raises(DataError, match="was interrupted; `genpipe data remove` completes it"):
        run.refuse_unfinished(project)
    assert "The removal of 1 example that was interrupted is complete" in remove(project)
    run.refuse_unfinished(project)


@pytest.mark.slow
def test_a_stage_that_outlives_the_killed_command_is_waited_for(project: Project) -> None:
    gone, other = in_split(project, "train"), in_split(project, "test")
    command = [sys.executable, "-m", "genpipe", "data", "remove", name_of(gone), "--gc", "--yes"]
    first = subprocess.Popen(command, cwd=project.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    note = project.lock("stage").with_suffix(".json")
    while removal.unfinished(project) or "stage validate" not in str(locks.holder(note)):
        assert first.poll() is None
        time.sleep(0.005)
    first.kill()
    first.wait()
    remove(project, name_of(other), "--gc", "--yes")
    assert places(project, gone) == places(project, other) == set()


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "left"), [("n", 60), ("y", 59)])
def test_on_a_terminal_it_is_asked_for(project: Project, answer: str, left: int) -> None:
    leader, follower = pty.openpty()
    os.write(leader, f"{answer}\n".encode())
    command = [sys.executable, "-m", "genpipe", "data", "remove", name_of(portraits()[0])]
    done = subprocess.run(
        command, cwd=project.root, stdin=follower, capture_output=True, text=True, check=False, timeout=300
    )
    os.close(leader)
    os.close(follower)
    assert "This can't be undone. Remove? [y/N]" in done.stdout
    assert (done.returncode == 0) == (answer == "y"), done.stderr
    assert Stored.find(project.data).rows == left
