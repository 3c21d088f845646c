"""Real servers in processes of their own: Prefect's and MLflow's, on free ports, which end with their test."""

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from genpipe.processes import end_group
from tests import waiting
from tests.clones import FOREIGN, Clone
from tests.unattended import Site


@dataclass
class Daemon:
    """A command that serves; it can be killed with all its processes, and started again."""

    command: Sequence[str]
    folder: Path
    env: Mapping[str, str]
    health: str = ""  # a URL that answers once it serves
    process: "subprocess.Popen[str] | None" = None

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, env=dict(self.env), stdout=log, stderr=log, text=True,
                start_new_session=True,
            )  # fmt: skip
        if self.health:
            waiting.until(self.answers, f"answer from {self.health}: {self.log.read_text()[-2000:]}")

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(self.health, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """SIGKILL to it and to all that it has started, as when a node is lost."""
        assert self.process is not None
        kill_tree(self.process.pid)
        self.process.wait()


def kill_tree(root: int) -> None:
    """SIGKILL to a process and all below it; each is stopped first, so that none starts another meanwhile."""
    tree = [psutil.Process(root)]
    for process in tree:
        process.suspend()
        tree += [child for child in process.children() if child not in tree]
    for process in tree:
        process.kill()
    psutil.wait_procs(tree[1:], timeout=30)


@contextmanager
def running(daemon: Daemon) -> Iterator[Daemon]:
    daemon.folder.mkdir(parents=True, exist_ok=True)
    daemon.start()
    try:
        yield daemon
    finally:
        assert daemon.process is not None
        end_group(daemon.process)


def prefect(site: Site) -> Daemon:
    """The Prefect server of a site; what it has lent is written down, so that it knows of that when it is restarted."""
    env = site.env | {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"}
    command = [sys.executable, "-m", "prefect", "server", "start"]
    return Daemon(command, site.folder, environment() | env, f"{site.api}/health")


def worker(site: Site, clone: Clone) -> Daemon:
    """A worker of the pool `local`, with the code of `clone`, which keeps its state in its own folder."""
    env = {name: value for name, value in (site.env | clone.env).items() if name != "GENPIPE_HOME"}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local", "--type", "process"]
    return Daemon(command, site.folder / "worker", env)


def mlflow(folder: Path) -> Daemon:
    """An MLflow server with database and files in `folder`."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    return Daemon(command, folder, environment(), f"http://127.0.0.1:{port}/health")


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in (*FOREIGN, "PYTHONPATH")}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
