"""DVC's remote that is away, or lacks what is asked for: real stores behind a real web server, and in a folder."""

import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from prefect.client.schemas import TaskRun
from prefect.states import Failed

from genpipe import dag, remotes
from genpipe.errors import RemoteError, StageError
from genpipe.project import Project
from tasks import workspace
from tests import projects

MADE = "mkdir -p artifacts && echo weights > artifacts/model && echo more > artifacts/more"


class Store:
    """A web server of a folder that can be told what to answer in place of a file."""

    def __init__(self, folder: Path) -> None:
        self.codes: dict[str, int] = {}  # end of a path, or of a method and a path → the code of the answer
        moods = self.codes

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:  # the name that http.server calls
                for end, code in moods.items():
                    if f"{self.command} {self.path}".endswith(end):
                        self.send_error(code)
                        return
                getattr(super(), f"do_{self.command}")()

            do_HEAD = do_GET  # noqa: N815  # as above

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self.handler = partial(Handler, directory=str(folder))
        self.port = 0
        self.start()

    def start(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), self.handler)
        self.port = self.server.server_port
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project whose stage has run, its outputs in the store beside it and nowhere else."""
    folder = tmp_path_factory.mktemp("trained")
    project = projects.make(folder / "project")
    stages = {"train": {"cmd": MADE, "outs": ["artifacts"]}}
    (project.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    for words in (["git", "init", "-q"], [*dag.DVC, "init", "-q"]):
        subprocess.run(words, cwd=project.root, check=True)
    name_store(project, str(folder / "store"))
    dag.dvc(project, "repro")
    dag.dvc(project, "push")
    forget(project)
    return folder


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Project:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    project = Project(tmp_path / "project")
    name_store(project, str(tmp_path / "store"))
    return project


@pytest.fixture
def store(project: Project, tmp_path: Path) -> Iterator[Store]:
    """The remote of the project, behind a web server."""
    store = Store(tmp_path / "store")
    name_store(project, f"http://127.0.0.1:{store.port}")
    yield store
    store.stop()


def name_store(project: Project, url: str) -> None:
    config = f"[core]\n    remote = store\n['remote \"store\"']\n    url = {url}\n"
    (project.root / ".dvc" / "config").write_text(config)


def forget(project: Project) -> None:
    shutil.rmtree(project.root / "artifacts", ignore_errors=True)
    shutil.rmtree(project.root / ".dvc" / "cache", ignore_errors=True)


def made(project: Project) -> bool:
    return (project.root / "artifacts" / "model").exists()


@pytest.mark.parametrize(
    ("code", "said", "again"),
    [
        (503, "does not answer: 503, message='Service Unavailable'", True),
        (403, "does not let this machine in: 403, message='Forbidden'", False),
    ],
)
def test_a_server_that_answers_with_an_error_has_not_said_that_it_lacks_the_outputs(
    project: Project, store: Store, code: int, said: str, again: bool
) -> None:
    store.codes[""] = code
    with pytest.raises(RemoteError) as told:
        remotes.pull_outputs(project)
    assert f"DVC's remote 'store' (http://127.0.0.1:{store.port}) {said}" in str(told.value)
    assert told.value.again == again
    assert not made(project)
    store.codes.clear()
    assert remotes.pull_outputs(project) == []
    assert made(project)


def test_a_server_that_is_down_is_told_and_asked_again_by_the_task(project: Project, store: Store) -> None:
    store.stop()
    with pytest.raises(RemoteError, match="does not answer: Cannot connect to host") as told:
        remotes.pull_outputs(project)
    run = TaskRun(task_key="pull", dynamic_key="0")
    assert workspace.was_away(workspace.pull, run, Failed(data=told.value))
    assert not workspace.was_away(workspace.pull, run, Failed(data=StageError("another")))
    store.start()
    assert remotes.pull_outputs(project) == []
    assert made(project)


def test_a_server_that_hangs_is_not_waited_for_for_ever(
    project: Project, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remotes, "ANSWER_SECONDS", 0.5)
    store.server.shutdown()  # its socket still takes connections
    with pytest.raises(RemoteError, match=r"does not answer within 0\.5 s"):
        remotes.pull_outputs(project)


def test_outputs_that_a_server_answers_not_to_have_are_made_anew(project: Project, store: Store) -> None:
    store.codes[""] = 404
    (lacking,) = remotes.pull_outputs(project)
    assert lacking.startswith("train: dvc pull --force train failed")


def test_a_transfer_that_breaks_off_is_tried_again(project: Project, store: Store, tmp_path: Path) -> None:
    weights = next(file for file in (tmp_path / "store").rglob("*") if file.is_file() and file.suffix != ".dir")
    store.codes[f"GET /{weights.relative_to(tmp_path / 'store')}"] = 503  # while HEAD says that it is there
    with pytest.raises(RemoteError, match="has what was asked for, and it could not be brought") as told:
        remotes.pull_outputs(project)
    assert told.value.again
    store.codes.clear()
    assert remotes.pull_outputs(project) == []
    assert made(project)


def test_a_folder_that_is_not_mounted_is_told_and_one_that_lacks_a_file_is_not_an_outage(
    project: Project, tmp_path: Path
) -> None:
    away = (tmp_path / "store").rename(tmp_path / "away")
    with pytest.raises(RemoteError, match=r"DVC's remote 'store' \(.*store\) is not there: mount it"):
        remotes.pull_outputs(project)
    away.rename(tmp_path / "store")
    next(file for file in (tmp_path / "store").rglob("*") if file.is_file() and file.suffix != ".dir").unlink()
    (lacking,) = remotes.pull_outputs(project)
    assert lacking.startswith("train: dvc pull --force train failed")


def test_outputs_in_the_cache_need_no_remote(project: Project, store: Store) -> None:
    assert remotes.pull_outputs(project) == []
    store.stop()
    shutil.rmtree(project.root / "artifacts")
    assert remotes.pull_outputs(project) == []
    assert made(project)
    store.start()
