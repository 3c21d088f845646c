"""The ledger of promotions, in MLflow's own registry on SQLite: whatever happens, one champion, and a true history."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from genpipe.champion import ledger
from genpipe.champion.ledger import CHALLENGER, CHAMPION, EVENT
from genpipe.errors import RegistryError
from genpipe.project import Project
from genpipe.records import registry
from genpipe.records.tracking import connect
from tests import projects
from tests.clones import Clone
from tests.test_pipeline import post, served

NAME = "genpipe"  # the default of mlflow.yml
STORE = "mlflow.db"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with four versions and no alias, which each test gets a copy of: making the tables takes seconds."""
    project = at(tmp_path_factory.mktemp("registry"))
    connect(project)
    client = mlflow.MlflowClient()
    client.create_registered_model(NAME)
    for _ in range(4):
        client.create_model_version(NAME, "nowhere")
    return project.root / STORE


@pytest.fixture
def project(tmp_path: Path, store: Path) -> Project:
    shutil.copy(store, tmp_path / STORE)
    return at(tmp_path)


def at(folder: Path) -> Project:
    """The project of a folder, whose store alone counts: MLflow writes the last one used into the environment."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        os.environ.pop(name, None)
    return projects.make(folder)


def promote(project: Project, *numbers: int) -> None:
    for number in numbers:
        ledger.promote(project, version(project, number), why=f"version {number} looked best")


def version(project: Project, number: int) -> registry.ModelVersion:
    found = registry.get_version(project, number)
    assert found
    return found


def moves(project: Project) -> list[tuple[str, int | None, int | None]]:
    """Kind, version and replaced version of each event, after the next command has put things right."""
    return [(event.kind, event.version, event.replaced) for event in ledger.reconcile(project)]


def client(project: Project) -> mlflow.MlflowClient:
    """MLflow's own client: somebody who knows nothing of genpipe."""
    return mlflow.MlflowClient(registry_uri=project.mlflow.server.mlflow_registry_uri)


def test_a_promotion_moves_the_champion_and_says_who_when_and_why(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q", project.root], check=True)
    subprocess.run(["git", "-C", project.root, "config", "user.name", "Ada"], check=True)
    promote(project, 1)
    client(project).set_registered_model_alias(NAME, CHALLENGER, "3")
    ledger.promote(project, version(project, 3), why="sharper", verdict="better: fd 1.2 against 2.4")
    assert registry.aliases(project) == {CHAMPION: 3}  # which challenges nobody any more, nor does the one it replaced
    first, second = ledger.reconcile(project)
    assert (first.kind, first.version, first.replaced, first.by) == ("promoted", 1, None, "Ada")
    assert (second.version, second.replaced, second.why) == (3, 1, "sharper")
    assert second.verdict == "better: fd 1.2 against 2.4"
    assert first.at < second.at
    champion = ledger.champion(project)
    assert champion
    assert champion.version == 3
    assert champion.tags[ledger.PROMOTED].endswith("UTC by Ada. sharper")


def test_before_anything_is_registered_there_is_no_champion_and_no_event(tmp_path: Path, store: Path) -> None:
    shutil.copy(store, tmp_path / STORE)
    (tmp_path / "mlflow.yml").write_text("registry: {name: other}\n")
    project = at(tmp_path)
    assert ledger.reconcile(project) == []
    assert ledger.champion(project) is None
    with pytest.raises(RegistryError, match="no version of other to go back to"):
        ledger.rollback(project, why="")


def test_rollback_walks_back_and_a_promotion_goes_on_from_there(project: Project) -> None:
    promote(project, 1, 2, 3)
    assert ledger.rollback(project, why="blurred").version == 2
    assert ledger.rollback(project, why="still").version == 1
    with pytest.raises(RegistryError, match="no version of genpipe to go back to"):
        ledger.rollback(project, why="more")
    promote(project, 4)
    assert ledger.rollback(project, why="no").version == 1  # not 3, which had been left before
    assert moves(project)[3:] == [
        ("rolled back", 2, 3),
        ("rolled back", 1, 2),
        ("promoted", 4, 1),
        ("rolled back", 1, 4),
    ]


def test_rollback_passes_over_versions_that_were_deleted(project: Project) -> None:
    promote(project, 1, 2, 3)
    client(project).delete_model_version(NAME, "2")
    assert ledger.rollback(project, why="blurred").version == 1
    promote(project, 3)
    client(project).delete_model_version(NAME, "1")
    with pytest.raises(RegistryError, match="none that was champion before is left"):
        ledger.rollback(project, why="blurred")


def test_an_alias_moved_outside_is_noticed_and_rolled_back(project: Project) -> None:
    promote(project, 1, 2)
    client(project).set_registered_model_alias(NAME, CHAMPION, "4")
    assert moves(project)[2:] == [("moved outside", 4, 2)]
    assert moves(project)[2:] == [("moved outside", 4, 2)]  # once
    assert registry.aliases(project) == {CHAMPION: 4}
    assert ledger.rollback(project, why="who was that?").version == 2
    assert ledger.rollback(project, why="").version == 1


def test_an_alias_moved_back_outside_is_no_rollback(project: Project) -> None:
    promote(project, 1, 2)
    client(project).set_registered_model_alias(NAME, CHAMPION, "1")
    assert ledger.rollback(project, why="").version == 2  # which version 1 has just replaced


@pytest.mark.parametrize("lost", ["alias", "version"])
def test_a_champion_deleted_outside_is_noticed_and_put_back(project: Project, lost: str) -> None:
    promote(project, 1, 2)
    if lost == "alias":
        client(project).delete_registered_model_alias(NAME, CHAMPION)
    else:
        client(project).delete_model_version(NAME, "2")
    assert moves(project)[2:] == [("moved outside", None, 2)]
    assert ledger.champion(project) is None
    assert ledger.rollback(project, why="").version == {"alias": 2, "version": 1}[lost]


def test_a_registry_from_before_the_ledger_gets_its_first_event(project: Project) -> None:
    client(project).set_registered_model_alias(NAME, CHAMPION, "2")
    promote(project, 3)
    assert moves(project) == [("moved outside", 2, None), ("promoted", 3, 2)]
    assert ledger.rollback(project, why="").version == 2


def test_the_champion_is_not_promoted_again_and_not_past_one_that_came_between(project: Project) -> None:
    promote(project, 1)
    with pytest.raises(RegistryError, match="version 1 of genpipe is champion already"):
        promote(project, 1)
    before = ledger.champion(project)
    client(project).set_registered_model_alias(NAME, CHAMPION, "2")
    with pytest.raises(RegistryError, match="champion is version 2 by now, no longer 1"):
        ledger.promote(project, version(project, 3), why="", compared_with=before)
    with pytest.raises(RegistryError, match="champion is version 2 by now, no longer none"):
        ledger.promote(project, version(project, 3), why="", compared_with=None)
    assert registry.aliases(project)[CHAMPION] == 2


def test_an_alias_moved_in_the_last_moment_is_not_overwritten(project: Project) -> None:
    promote(project, 1)
    past = ledger.reconcile(project)
    client(project).set_registered_model_alias(NAME, CHAMPION, "2")
    with pytest.raises(RegistryError, match="champion is version 2 by now"):
        ledger.move(project, past, "promoted", 3, "")
    assert moves(project) == [("promoted", 1, None), ("moved outside", 2, 1)]


def test_a_promotion_elsewhere_while_the_ledger_is_read_is_none_outside(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(project, 1)
    elsewhere = tmp_path / "elsewhere"  # another project's folder, and so another lock
    elsewhere.mkdir()
    (elsewhere / "mlflow.yml").write_text(
        f"server: {{mlflow_tracking_uri: '{project.mlflow.server.mlflow_tracking_uri}'}}\n"
    )
    other, read = at(elsewhere), mlflow.MlflowClient.get_registered_model

    def read_before_a_promotion(client: mlflow.MlflowClient, name: str) -> object:
        found = read(client, name)
        monkeypatch.setattr(mlflow.MlflowClient, "get_registered_model", read)
        promote(other, 2)
        return found

    monkeypatch.setattr(mlflow.MlflowClient, "get_registered_model", read_before_a_promotion)
    ledger.reconcile(project)
    assert moves(project) == [("promoted", 1, None), ("promoted", 2, 1)]


def test_events_keep_their_order_when_a_clock_is_behind(project: Project) -> None:
    promote(project, 1)
    (event,) = ledger.reconcile(project)
    ahead = ledger.replace(event, at=event.at.replace(year=event.at.year + 1))
    client(project).delete_registered_model_tag(NAME, event.key)
    client(project).set_registered_model_tag(NAME, ahead.key, ahead.text())
    promote(project, 2)
    assert moves(project) == [("promoted", 1, None), ("promoted", 2, 1)]


def test_a_broken_tag_and_a_reason_too_long_are_told(project: Project) -> None:
    with pytest.raises(RegistryError, match=r"the reason has 5000 characters, \d+ too many; shorten it \(--why\)"):
        ledger.promote(project, version(project, 1), why="long " * 1_000)
    assert registry.aliases(project) == {}
    ledger.promote(project, version(project, 1), why="short", verdict='"quoted" and long ' * 1_000)
    (event,) = ledger.reconcile(project)
    assert len(event.written()) <= ledger.LONGEST
    assert event.verdict.endswith("…")
    client(project).set_registered_model_tag(NAME, f"{EVENT}now", "{}")
    with pytest.raises(RegistryError, match=r"'genpipe\.event\.now' holds no event"):
        ledger.reconcile(project)


@pytest.mark.slow
def test_on_a_server_an_alias_that_somebody_moved_by_rest_is_noticed(project: Project) -> None:
    promote(project, 1, 2)
    (project.root / ".genpipe").mkdir(exist_ok=True)
    words = ("mlflow", "server", "--backend-store-uri", project.mlflow.server.mlflow_tracking_uri)
    with served(Clone(project.root), words, "/health", {}) as address:
        (project.root / "mlflow.yml").write_text(f"server: {{mlflow_tracking_uri: '{address}'}}\n")
        there = at(project.root)
        post(f"{address}/api/2.0/mlflow/registered-models/alias", {"name": NAME, "alias": CHAMPION, "version": "4"})
        assert moves(there)[2:] == [("moved outside", 4, 2)]
        assert ledger.rollback(there, why="who was that?").version == 2
        promote(there, 3)
        assert registry.aliases(there) == {CHAMPION: 3}
        with pytest.raises(RegistryError, match=r"registry http://127.* answered: .*Model Version .*version=9\D"):
            registry.set_alias(there, CHAMPION, 9)


# Killed at every step: children that promote or roll back, each killed before or after one of its writes.

FORKING = """
import os, signal, sys
import mlflow
from pathlib import Path
from genpipe.champion import ledger
from genpipe.records import registry
from genpipe.project import Project

WRITES = [name for name in dir(mlflow.MlflowClient) if name.startswith(("set_", "delete_", "create_", "update_"))]
made = 0

def killing(write, when, number):
    def counted(*words, **named):
        global made
        made += 1
        if (when, number) == ("before", made):
            os.kill(os.getpid(), signal.SIGKILL)
        answer = write(*words, **named)
        if (when, number) == ("after", made):
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
    return counted

def act(folder, action, when, number):
    for name in WRITES:
        setattr(mlflow.MlflowClient, name, killing(getattr(mlflow.MlflowClient, name), when, number))
    project = Project(folder)
    if action == "promote":
        ledger.promote(project, registry.get_version(project, 4), why="best")
    else:
        ledger.rollback(project, why="worse")

for folder in map(Path, sys.argv[1:]):
    child = os.fork()
    if not child:
        action, when, number = folder.name.split("-")
        act(folder, action, when, int(number))
        os._exit(made)
    print(folder.name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
WRITES = 5  # event, champion, the version's tag, challenger, event
STEPS = [f"{when}-{number}" for when in ("before", "after") for number in range(1, WRITES + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_killed_at_any_write_the_old_or_the_new_champion_stands(project: Project, action: str) -> None:
    promote(project, 1, 2)
    number, kind = {"promote": (4, "promoted"), "rollback": (1, "rolled back")}[action]
    client(project).set_registered_model_alias(NAME, CHALLENGER, str(number))
    steps = [project.root / f"{action}-{step}" for step in (*STEPS, "never-0")]
    for folder in steps:
        folder.mkdir()
        shutil.copy(project.root / STORE, folder)
        at(folder)
    words = [sys.executable, "-c", FORKING, *map(str, steps)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    ends = dict(line.split() for line in done.stdout.splitlines())
    assert ends.pop(f"{action}-never-0") == str(WRITES), done.stderr  # so that every write had its turn
    assert set(ends.values()) == {str(-signal.SIGKILL)}
    outcomes = set()
    for folder in steps:
        there = at(folder)
        moved = registry.aliases(there)[CHAMPION] == number
        expected = [("promoted", 1, None), ("promoted", 2, 1), *([(kind, number, 2)] if moved else [])]
        assert moves(there) == expected, folder.name
        champion = ledger.champion(there)
        assert champion
        assert int(champion.version) == (number if moved else 2)
        assert CHALLENGER not in champion.aliases
        assert champion.tags[ledger.PROMOTED].startswith(kind if moved else "promoted")
        tags, _ = registry.tags_and_aliases(there)
        assert all(event.settled for event in ledger.written(tags))
        outcomes.add((folder.name.removeprefix(f"{action}-"), moved))
    assert {step for step, moved in outcomes if not moved} == {"before-1", "after-1", "before-2"}
