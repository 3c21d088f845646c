"""The machine's clone, with real git repositories: it follows the people's branch, and never touches their folder."""

import base64
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
from prefect.client.schemas import TaskRun
from prefect.states import Failed

import tasks.workspace
from genpipe import dag, locks
from genpipe.errors import ConfigError, LockedError, WorkspaceError
from genpipe.project import Project, masked
from genpipe.unattended import keeping, origin, workspace
from genpipe.unattended.workspace import Workspace
from tests import projects, waiting
from tests.clones import GIT
from tests.servers import failing, serving


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENPIPE_HOME", str(tmp_path / "home"))


def git(folder: Path, *words: str) -> str:
    return subprocess.run([*GIT, *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def write(folder: Path, name: str, text: str, message: str = "") -> None:
    """Write a file of a person's folder, commit and push it."""
    (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", message or f"{name}: {text}")
    git(folder, "push", "-q", "origin", "HEAD")


@pytest.fixture
def person(tmp_path: Path) -> Path:
    """A person's folder with a project, whose `origin` is a bare repository beside it."""
    git(tmp_path, "init", "-q", "--bare", "-b", "main", "origin.git")
    folder = projects.make(tmp_path / "person").root
    git(folder, "init", "-q", "-b", "main")
    git(folder, "remote", "add", "origin", str(tmp_path / "origin.git"))
    write(folder, "dvc.lock", "first")
    return folder


@pytest.fixture
def clone(person: Path) -> Iterator[Workspace]:
    clone = Workspace(str(person.parent / "origin.git"), "main", "genpipe/results")
    with clone.held("test"):
        yield clone


def published(person: Path, name: str) -> str:
    git(person, "fetch", "-q", "origin")
    return git(person, "show", f"origin/genpipe/results:{name}")


def work(clone: Workspace, text: str, message: str = "A model") -> bool:
    """What a retraining does to the clone."""
    clone.prepare()
    project = clone.project(".")
    (project.root / "dvc.lock").write_text(text)
    return clone.publish(project, message)


def test_the_machine_commits_to_its_own_branch_and_leaves_the_persons_folder_alone(
    person: Path, clone: Workspace
) -> None:
    (person / "params.yaml").write_text("half a thought")
    before = git(person, "status", "--porcelain"), git(person, "rev-parse", "HEAD")
    assert work(clone, "second", "A model, because of new data: +12 rows")
    assert (git(person, "status", "--porcelain"), git(person, "rev-parse", "HEAD")) == before
    assert published(person, "dvc.lock") == "second"
    assert git(person, "log", "-1", "--format=%an: %s", "origin/genpipe/results") == (
        "genpipe: A model, because of new data: +12 rows\n"
    )
    assert git(person, "show", "origin/main:dvc.lock") == "first"


def test_nothing_new_is_not_pushed(person: Path, clone: Workspace) -> None:
    assert work(clone, "second")
    assert not work(clone, "second")
    assert git(person, "ls-remote", "origin", "genpipe/results").count("\n") == 1


def test_what_the_people_commit_is_merged_and_of_both_changed_theirs_wins_whole(person: Path, clone: Workspace) -> None:
    write(person, "dvc.lock", "".join(f"{line}\n" for line in range(40)))
    work(clone, "machine\n" + "".join(f"{line}\n" for line in range(1, 40)))
    theirs = "".join(f"{line}\n" for line in range(39)) + "person\n"  # lines of both would merge without a conflict
    write(person, "dvc.lock", theirs)
    write(person, "notes.txt", "read me")
    clone.prepare()
    assert (clone.folder / "notes.txt").read_text() == "read me"
    assert (clone.folder / "dvc.lock").read_text() == theirs


def test_a_file_that_the_people_removed_is_gone(person: Path, clone: Workspace) -> None:
    work(clone, "second")
    git(person, "rm", "-q", "dvc.lock")
    write(person, "notes.txt", "started over")
    clone.prepare()
    assert not (clone.folder / "dvc.lock").exists()


def test_a_branch_that_cannot_be_merged_is_told_with_the_remedy(person: Path, clone: Workspace) -> None:
    work(clone, "second")
    git(person, "fetch", "-q", "origin")
    git(person, "switch", "-q", "genpipe/results")
    write(person, "notes.txt", "in the machine's branch")
    git(person, "switch", "-q", "main")
    write(person, "notes.txt", "in main")
    said = r"can't be merged into 'genpipe/results' \(notes.txt\): somebody has"
    with pytest.raises(WorkspaceError, match=said) as told:
        clone.prepare()
    assert not told.value.again
    git(person, "push", "-q", "origin", "--delete", "genpipe/results")
    clone.prepare()  # made anew
    assert (clone.folder / "notes.txt").read_text() == "in main"


def test_what_a_killed_run_left_is_dropped(person: Path, clone: Workspace) -> None:
    clone.prepare()
    (clone.folder / "dvc.lock").write_text("half a run")
    git(clone.folder, "commit", "-qam", "not pushed")
    (clone.folder / "dvc.lock").write_text("and more")
    (clone.folder / ".git" / "index.lock").touch()  # of a git that was killed
    clone.prepare()
    assert (clone.folder / "dvc.lock").read_text() == "first"
    aside = clone.folder.rename(clone.folder.with_suffix(".partial"))  # a clone that was killed
    (aside / ".git" / "HEAD").unlink()
    clone.prepare()
    assert (clone.folder / "dvc.lock").read_text() == "first"


SLOW = """#!/bin/sh
touch {folder}/begun
while [ ! -e {folder}/go ]; do sleep 0.1; done
exec git-upload-pack "$@"
"""
FETCHING = """
import sys
from genpipe.unattended.workspace import Workspace
clone = Workspace(sys.argv[1], "main", "genpipe/results")
with clone.held("retrain"):
    clone.git("fetch", "origin")
"""


def test_a_fetch_that_outlives_its_killed_run_is_waited_for(
    person: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = Workspace(str(tmp_path / "origin.git"), "main", "genpipe/results")
    clone.prepare()
    write(person, "notes.txt", "new")
    server = tmp_path / "slow-upload-pack"
    server.write_text(SLOW.format(folder=tmp_path))
    server.chmod(0o755)
    clone.git("config", "remote.origin.uploadpack", str(server))
    with subprocess.Popen([sys.executable, "-c", FETCHING, clone.repository]) as flow:
        waiting.until((tmp_path / "begun").exists, "fetch that has begun")
        flow.kill()
    monkeypatch.setattr(locks, "LEFT_SECONDS", 0.5)
    with pytest.raises(LockedError, match=r"which was killed: process \d+ \(git .*fetch"), clone.held("the next"):
        pass
    (tmp_path / "go").touch()
    monkeypatch.setattr(locks, "LEFT_SECONDS", 30)
    with clone.held("the next"):
        assert clone.has("origin/main:notes.txt")


def test_a_push_that_is_rejected_is_told_and_the_next_run_takes_up_what_is_there(
    person: Path, clone: Workspace
) -> None:
    work(clone, "second")
    clone.prepare()
    git(person, "fetch", "-q", "origin")
    git(person, "switch", "-q", "genpipe/results")
    write(person, "dvc.lock", "another machine's")
    (clone.folder / "dvc.lock").write_text("third")
    with pytest.raises(WorkspaceError, match="did not take the machine's commit: it is protected") as told:
        clone.publish(clone.project("."), "A model")
    assert not told.value.again
    assert work(clone, "third")
    assert published(person, "dvc.lock") == "third"


def test_a_repository_that_is_gone_or_has_no_such_branch_is_told(person: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"git clone failed for .*nowhere\.git"):
        Workspace(str(tmp_path / "nowhere.git"), "main", "genpipe/results").prepare()
    with pytest.raises(ConfigError, match="has no branch 'trunk'; its branches: main"):
        Workspace(str(tmp_path / "origin.git"), "trunk", "genpipe/results").prepare()
    with pytest.raises(ConfigError, match="branch and results are both 'main'"):
        Workspace(str(tmp_path / "origin.git"), "main", "main")


def test_a_folder_that_holds_no_project_is_refused(clone: Workspace) -> None:
    clone.prepare()
    for directory in ("..", "suites", "/"):
        with pytest.raises(ConfigError, match="has no project there on the branch 'main'"):
            clone.project(directory)
    assert clone.project(".").root == clone.folder


def test_a_second_run_is_told_who_works_there(clone: Workspace) -> None:
    with pytest.raises(LockedError, match=r"in use by process \d+ \(test, since"), clone.held("retrain"):
        pass


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:hunter2@example.org/p.git", "https://***@example.org/p.git"),
        ("https://ghp_token@example.org/p.git", "https://***@example.org/p.git"),
        ("ssh://git:hunter2@example.org/p.git", "ssh://***@example.org/p.git"),
    ],
)
def test_a_url_with_a_secret_is_refused_and_the_secret_not_shown(url: str, shown: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Workspace(url, "main", "genpipe/results")
    assert f"the repository's URL {shown} holds a password" in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert "ghp_token" not in str(refused.value)


@pytest.mark.parametrize("url", ["git@example.org:team/p.git", "ssh://git@example.org/p.git", "/srv/p.git"])
def test_a_url_without_a_secret_is_taken(url: str) -> None:
    assert Workspace(url, "main", "genpipe/results").folder.name.startswith("p-")
    assert masked(url) == url


def test_the_token_goes_to_git_as_a_header_for_this_repository_and_into_no_words() -> None:
    with serving({"/p.git/info/refs": failing(1, 403, lambda _: None)}) as (address, asked):
        clone = Workspace(f"{address}/p.git", "main", "genpipe/results", token="hunter2")
        with pytest.raises(WorkspaceError) as told:
            clone.prepare()
    (path, headers) = asked[0]
    assert path.startswith("/p.git/info/refs")
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == b"x-access-token:hunter2"
    assert "403" in str(told.value)
    assert "hunter2" not in repr(clone) + str(told.value)
    assert clone.environment()["GIT_CONFIG_KEY_0"] == f"http.{address}/p.git.extraHeader"


@pytest.mark.parametrize(("code", "again"), [(503, True), (429, True), (401, False), (403, False), (404, False)])
def test_a_server_that_is_away_is_asked_again_and_a_refusal_stays_one(code: int, again: bool) -> None:
    with serving({"/p.git/info/refs": failing(9, code, lambda _: None)}) as (address, _):
        assert tried_again(f"{address}/p.git") == again


def test_a_server_that_is_down_is_asked_again_and_an_absent_folder_is_not(tmp_path: Path) -> None:
    with serving({}) as (address, _):
        pass
    assert tried_again(f"{address}/p.git")
    assert not tried_again(str(tmp_path / "nowhere.git"))


def test_a_server_that_says_nothing_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_HTTP_LOW_SPEED_TIME", "1")
    ended = Event()
    with serving({"/p.git/info/refs": lambda _: ended.wait(60) and None}) as (address, _):
        assert tried_again(f"{address}/p.git")
        ended.set()


def tried_again(repository: str) -> bool:
    """Whether the task clones once more after it has failed."""
    with pytest.raises(WorkspaceError) as told:
        Workspace(repository, "main", "genpipe/results").prepare()
    run = TaskRun(task_key="fetch", dynamic_key="0")
    return tasks.workspace.was_away(tasks.workspace.fetch, run, Failed(data=told.value))


@pytest.fixture
def foreign_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A GENPIPE_HOME in which this process may not write: root becomes another user, who is let in as far as there."""
    home = Path(tempfile.mkdtemp(prefix="genpipe-"))
    monkeypatch.setenv("GENPIPE_HOME", str(home))
    home.chmod(0o555)
    if root := os.geteuid() == 0:
        os.seteuid(65534)
    yield home
    if root:
        os.seteuid(0)
    home.rmdir()


def test_a_home_of_another_user_is_told(foreign_home: Path) -> None:
    clone = Workspace("/srv/p.git", "main", "genpipe/results")
    said = (
        rf"{foreign_home} belongs to user \d+, and user {os.geteuid()} can't work there; give each user a GENPIPE_HOME"
    )
    with pytest.raises(ConfigError, match=said), clone.held("retrain"):
        pass


def test_a_clone_in_which_git_does_not_work_for_this_user_is_told(
    clone: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone.prepare()
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own way to try this
    with pytest.raises(
        ConfigError, match=rf"{clone.folder} belongs to user {os.geteuid()}, .* a GENPIPE_HOME of their"
    ):
        clone.prepare()


def test_git_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/somewhere/else")  # as in a hook
    environment = Workspace("/srv/p.git", "main", "genpipe/results").environment()
    assert environment["GIT_TERMINAL_PROMPT"] == "0"
    assert "GIT_DIR" not in environment


# What would be lost with the clone


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project under git and DVC, in a folder that stands for the clone."""
    project = projects.make(tmp_path / "clone")
    git(project.root, "init", "-q")
    subprocess.run([*dag.DVC, "init", "-q"], cwd=project.root, check=True)
    return project


def test_stores_that_would_be_lost_are_refused_all_at_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as refused:
        keeping.refuse_losable(project, project.root)
    assert len(refused.value.faults) == 4
    for remedy in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT", "dvc remote add"):
        assert remedy in str(refused.value)


def test_absolute_stores_are_taken_and_a_relative_remote_is_not(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", str(tmp_path / "files"))
    for url, taken in (("../store", False), (str(tmp_path / "store"), True), ("s3://bucket/store", True)):
        words = ("remote", "add", "--force", "--default", "store", url)
        subprocess.run([*dag.DVC, *words], cwd=project.root, check=True, capture_output=True)
        fresh = Project(project.root)
        if taken:
            keeping.refuse_losable(fresh, project.root)
        else:
            with pytest.raises(ConfigError, match=r"DVC's remote 'store' is the relative folder ../../store"):
                keeping.refuse_losable(fresh, project.root)


def test_a_server_keeps_the_files_of_runs_itself(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2@127.0.0.1:5000")
    with pytest.raises(ConfigError) as refused:
        keeping.refuse_losable(project, project.root)
    assert [fault[:20] for fault in refused.value.faults] == ["DVC has no default r"]
    assert masked(str(project.mlflow.server.mlflow_tracking_uri)) == "http://***@127.0.0.1:5000"


@pytest.mark.parametrize(
    ("here", "there", "folder", "shown"),
    [
        ("git@example.org:team/p.git", "https://example.org/team/p", ".", None),
        ("ssh://git@example.org:22/team/p.git", "example.org:team/p/", "", None),
        ("/srv/p.git", "file:///srv/p.git", ".", None),
        ("https://example.org/team/p", "https://example.org/other/p", ".", "https://example.org/other/p"),
        ("/srv/p.git", "/srv/p.git", "two", "/srv/p.git, folder two"),
        ("/srv/p.git", "", ".", None),
    ],
)
def test_a_deployment_is_this_projects_by_repository_and_folder(
    tmp_path: Path, here: str, there: str, folder: str, shown: str | None
) -> None:
    git(tmp_path, "init", "-q")
    git(tmp_path, "remote", "add", "origin", here)
    assert origin.of_another(Project(tmp_path), {"repository": there, "directory": folder}) == shown


def test_home_is_named_or_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENPIPE_HOME")
    assert workspace.clones() == Path("~/.genpipe/workspaces").expanduser()
