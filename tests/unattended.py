"""A Prefect server, a process pool and a worker without any project's folder, for tests of what runs with nobody there.

All that is kept lies beside the person's folder: an origin, a DVC remote, MLflow's stores, GENPIPE_HOME.
"""

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any
from urllib.error import HTTPError

from genpipe.processes import end_group
from genpipe.run import DEFAULTS
from tests.clones import GIT, ROOT, Clone

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True)
class Site:
    """A place where projects are retrained: a Prefect server's port, and a folder for all that is kept."""

    folder: Path
    port: int

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def env(self) -> dict[str, str]:
        """What a team sets on its machines."""
        return DEFAULTS | {
            "PYTHONPATH": str(ROOT),  # the worker's genpipe, which is not the project's
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "GENPIPE_HOME": str(self.folder / "home"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow.db'}",
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(self.folder / "mlartifacts"),
        }

    def ask(self, path: str, content: Any = None) -> Any:
        """Prefect's answer: to a POST with `content`, or to a GET."""
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self.api}/{path}", data, {"Content-Type": "application/json"})
        for _ in range(20):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return json.load(answer)
            except HTTPError as error:
                if error.code != 503:  # "busy", on which Prefect's own clients ask again, too
                    raise
                time.sleep(1)
        raise TimeoutError(path)

    def start(self, deployment: str, **parameters: Any) -> str:
        """Begin a run of `FLOW/NAME`; its id."""
        found = self.ask(f"deployments/name/{deployment}")
        run = self.ask(f"deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def runs(self) -> list[dict[str, Any]]:
        """All runs, the one that began last first."""
        return list(self.ask("flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC"}))

    def end_of(self, run: str, seconds: float = 400) -> dict[str, Any]:
        """The state in which a run ends: its `name`, `type` and `message`."""
        end = time.monotonic() + seconds
        while (state := self.ask(f"flow_runs/{run}")["state"])["type"] not in FINAL:
            assert time.monotonic() < end, f"{state}\n{self.log(run)}"
            time.sleep(0.5)
        return dict(state)

    def run(self, deployment: str, **parameters: Any) -> dict[str, Any]:
        """The state in which a new run ends."""
        return self.end_of(self.start(deployment, **parameters))

    def log(self, run: str) -> str:
        """What a run and its tasks have logged."""
        asked = {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"}
        lines: list[str] = []
        while page := self.ask("logs/filter", asked | {"offset": len(lines)}):  # 200 at a time
            lines += [line["message"] for line in page]
        return "\n".join(lines)

    def artifact(self, key: str) -> str:
        """The latest of a key, as it is kept."""
        return str(self.ask(f"artifacts/{key}/latest")["data"])

    @contextmanager
    def served(self) -> Iterator[None]:
        """Run the Prefect server."""
        with self.process("prefect", "server", "start"):
            wait_for(lambda: self.ask("health"))
            yield

    @contextmanager
    def worked(self) -> Iterator["subprocess.Popen[str]"]:
        """Run a worker of the pool `local`, from a folder that holds nothing."""
        with self.process("prefect", "worker", "start", "--pool", "local") as worker:
            wait_for(lambda: self.ask("work_pools/local/workers/filter", {}))
            yield worker

    @contextmanager
    def process(self, *words: str) -> Iterator["subprocess.Popen[str]"]:
        """A process that does not outlive the test."""
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        with (self.folder / f"{words[1]}.log").open("a") as log:
            child = subprocess.Popen(
                words, cwd=empty, env=person(self).env | self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                text=True, start_new_session=True,
            )  # fmt: skip
        try:
            yield child
        finally:
            end_group(child)


def new(folder: Path) -> Site:
    with closing(socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return Site(folder, probe.getsockname()[1])


def person(site: Site) -> Clone:
    """The folder in which somebody works."""
    return Clone(site.folder / "person")


def push(clone: Clone, message: str) -> None:
    """Commit all that git keeps, and push it to an origin beside the folder, which is made if need be."""
    origin = clone.root.parent / "origin.git"
    if not origin.exists():
        subprocess.run([*GIT, "init", "-q", "--bare", "-b", "main", origin], check=True)
        clone.git("remote", "add", "origin", str(origin))
        clone.git("branch", "-M", "main")
    clone.git("add", "-A")
    clone.git("commit", "-qm", message)
    clone.git("push", "-q", "-u", "origin", "main")


def wait_for(asked: Any, seconds: float = 120) -> None:
    """Ask until there is an answer that is not empty."""
    end = time.monotonic() + seconds
    while True:
        try:
            if asked():
                return
        except OSError:
            assert time.monotonic() < end
        assert time.monotonic() < end
        time.sleep(0.3)
