"""Clones of this repository for tests that work through whole projects with the real tools."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.invalid")
FOREIGN = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "GENPIPE_HOME", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Clone:
    root: Path

    def run(
        self, *words: str, env: Mapping[str, str] | None = None, code: int = 0, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment in the clone, with the clone's own code; it must end with `code`."""
        done = subprocess.run(
            words, cwd=cwd or self.root, env=self.env | dict(env or {}), capture_output=True, text=True, check=False
        )
        assert done.returncode == code, f"{' '.join(words)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    @property
    def env(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        own = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.root),
            "PREFECT_HOME": str(self.root.parent / f"{self.root.name}-prefect"),
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "240",  # on a machine with other work
            "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "1",  # the trainings here are short
            "COLUMNS": "160",
        }
        return kept | own

    def git(self, *words: str) -> str:
        return self.run(*GIT, *words).stdout

    def params(self, **sections: object) -> None:
        """Replace sections of params.yaml."""
        file = self.root / "params.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | sections, sort_keys=False))

    def add_plugins(self, *names: str) -> None:
        """Drop toy files (`generators/blot.py`, `suites/tokens.yaml`) into the clone, code into its genpipe/."""
        for name in names:
            place = self.root if name.startswith("suites/") else self.root / "genpipe"
            shutil.copy(ROOT / "tests" / "plugins" / name, place / name)


def make(folder: Path) -> Clone:
    """A git repository with the files of this one, as they are now, and one commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    clone = Clone(folder)
    clone.git("init", "-q")
    commit(clone, "all")
    return clone


def commit(clone: Clone, message: str) -> None:
    clone.git("add", "-A")
    clone.git("commit", "-qm", message)
