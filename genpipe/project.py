"""A project: the folder that holds one pipeline's params.yaml, dvc.yaml, mlflow.yml and data.dvc.

Every path, store and lock is resolved from the project's root, whatever the working directory is.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import yaml
from pydantic import AfterValidator

from genpipe.config import Field, parse, settings
from genpipe.errors import ConfigError
from genpipe.files import written_aside
from genpipe.metrics import SCORES

T = TypeVar("T")


@settings
class Server:
    mlflow_tracking_uri: str = Field(default="sqlite:///mlflow.db", description="store of runs")
    mlflow_registry_uri: str | None = Field(default=None, description="store of models; that of runs unless given")


@settings
class Experiment:
    name: str = Field(default="genpipe", min_length=1, description="experiment in which training runs are listed")


@settings
class Tracking:
    experiment: Experiment = Experiment()
    artifacts: str = Field(default="mlartifacts", description="folder or URI of the files of runs")
    patience_seconds: float = Field(
        default=600.0, ge=0, description="how long a training goes on while the store of runs does not answer"
    )


@settings
class Registry:
    name: str = Field(default="genpipe", min_length=1, description="registered model of which versions are made")


@settings
class Ui:
    host: str = Field(default="127.0.0.1", description="address on which `genpipe ui` listens; links point to it")
    port: int = Field(default=5000, ge=1, le=65535, description="its port")


def known(score: str) -> str:
    """The name of a score. Raises ValueError for others."""
    if score not in SCORES:
        raise ValueError(f"'{score}' is no score; known scores: {', '.join(SCORES)}")
    return score


def ordered(score: str) -> str:
    """A score of which less or more is better. Raises ValueError for others."""
    if score not in (ranking := [name for name, about in SCORES.items() if about.better != "like real"]):
        raise ValueError(f"'{score}' can't rank models; scores that can: {', '.join(ranking)}")
    return score


ScoreName = Annotated[str, AfterValidator(known)]


@settings
class Limit:
    min: float | None = Field(default=None, description="the least allowed")
    max: float | None = Field(default=None, description="the most allowed")


@settings
class Gate:
    """What a challenger must show to become champion; how it is shown stands in genpipe/champion/gate.py.

    The Fréchet distance, since at equal counts its bias cancels from a difference, and since it stays away from 0, so
    that a share of it is a margin. From the margin the bias does not cancel: for a model near the floor it may be more
    than all that the model lies above real data. A margin on that alone would be too small to show an equal model on a
    small test set. The kernel distance tells smaller differences, but is near 0 for a good model.
    """

    score: Annotated[str, AfterValidator(ordered)] = Field(
        default="frechet_distance", description="in which score a challenger must be better, or not worse"
    )
    rule: Literal["auto", "better", "not_worse"] = Field(
        default="auto", description="auto: better than the champion on its data, not_worse on new data"
    )
    margin: float = Field(
        default=0.25, gt=0, lt=1, description="share of the champion's value that not_worse may be worse by"
    )
    guards: dict[ScoreName, Annotated[float, Field(ge=0)]] = Field(
        default_factory=lambda: {"recall": 0.1, "coverage": 0.1, "label_agreement": 0.05, "near_copies": 0.05},
        description="score: how much worse than the champion's it may be at most",
    )
    limits: dict[ScoreName, Limit] = Field(
        default_factory=lambda: {"near_copies": Limit(max=0.2)},
        description="score: {min, max}, which every champion keeps to, the first one too",
    )


@settings
class Mlflow:
    """mlflow.yml: where runs and models are kept, under which names, and which model becomes champion."""

    server: Server = Server()
    tracking: Tracking = Tracking()
    registry: Registry = Registry()
    gate: Gate = Gate()
    ui: Ui = Ui()


@dataclass(frozen=True)
class Project:
    root: Path

    @classmethod
    def find(cls, start: Path) -> "Project":
        """The project at `start` or above it. Raises ConfigError when there is none."""
        start = start.resolve()
        for folder in (start, *start.parents):
            if (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file():
                return cls(folder)
        raise ConfigError([f"{start} is not in a project: no params.yaml and dvc.yaml there or above (-C DIR)"])

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    @property
    def state(self) -> Path:
        """Checkpoints, locks and pages that no stage depends on; not versioned.

        In GENPIPE_HOME, which may serve several projects, each has a folder of its own.
        """
        if folder := home():
            return folder / f"{self.root.name}-{hashlib.sha256(bytes(self.root)).hexdigest()[:8]}"
        return self.root / ".genpipe"

    def lock(self, name: str) -> Path:
        """The file that whoever runs the pipeline, runs a stage, or moves the champion locks."""
        return self.state / "locks" / f"{name}.lock"

    @property
    def identity(self) -> str:
        """The name of this folder's state, drawn once: by it runs in a shared store know whose checkpoints they have.

        A copy of the folder draws another. Whoever asks holds the lock of the stages.
        """
        file, place = self.state / "identity", str(self.root)
        name, _, drawn_for = file.read_text(encoding="utf-8").partition("\n") if file.exists() else ("", "", "")
        if drawn_for != place:
            name = uuid4().hex
            with written_aside(file) as aside:
                aside.write_text(f"{name}\n{place}", encoding="utf-8")
        return name

    @cached_property
    def params(self) -> dict[str, Any]:
        return load_yaml(self.root / "params.yaml")

    def section(self, name: str, cls: type[T]) -> T:
        """One section of params.yaml. Raises ConfigError with every fault in it."""
        return parse(cls, self.params.get(name) or {}, name)

    @cached_property
    def mlflow(self) -> Mlflow:
        """mlflow.yml, with the environment's URIs in place of its own and relative places made absolute."""
        try:
            given = parse(Mlflow, load_yaml(self.root / "mlflow.yml"), "mlflow")
        except ConfigError as error:
            faults = [fault.replace("params.yaml: mlflow.", "mlflow.yml: ") for fault in error.faults]
            raise ConfigError(faults) from None
        tracking = os.environ.get("MLFLOW_TRACKING_URI") or given.server.mlflow_tracking_uri
        registry = os.environ.get("MLFLOW_REGISTRY_URI") or given.server.mlflow_registry_uri or tracking
        place = os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT") or given.tracking.artifacts
        artifacts = place if urlsplit(place).scheme else (self.root / place).as_uri()
        return Mlflow(
            server=Server(mlflow_tracking_uri=self.absolute(tracking), mlflow_registry_uri=self.absolute(registry)),
            tracking=replace(given.tracking, artifacts=artifacts),
            registry=given.registry,
            gate=given.gate,
            ui=given.ui,
        )

    def absolute(self, uri: str) -> str:
        """A relative SQLite file is meant from the root; any other URI stays."""
        prefix = "sqlite:///"
        if uri.startswith(prefix) and not uri.startswith(prefix + "/") and uri != prefix + ":memory:":
            return prefix + str(self.root / uri.removeprefix(prefix))
        return uri


def home() -> Path | None:
    """The folder that GENPIPE_HOME names; None without it. Raises ConfigError for a relative one."""
    named = os.environ.get("GENPIPE_HOME")
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_absolute():
        raise ConfigError([f"GENPIPE_HOME is {named}; it must be absolute, since processes of many folders read it"])
    return folder.resolve()


def foreign(place: Path) -> ConfigError:
    """That a place, or the folder in which it should be made, is another user's."""
    folder, owner = next(owned(place))
    remedy = "give each user a GENPIPE_HOME of their own" if home() else "work in a clone of your own"
    return ConfigError([f"{folder} belongs to user {owner}, and user {os.geteuid()} can't work there; {remedy}"])


def owned(place: Path) -> Iterator[tuple[Path, int]]:
    """The place and the folders above it, as far as they can be seen, with the numbers of their owners."""
    for folder in (place, *place.parents):
        with suppress(OSError):
            yield folder, folder.stat().st_uid


def masked(uri: str) -> str:
    """A URI as it may be shown: a password is hidden, and a user name, which may be a token."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc or (parts.scheme == "ssh" and parts.password is None):
        return uri
    return urlunsplit(parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}"))


def load_yaml(file: Path) -> dict[str, Any]:
    """A YAML mapping; an absent or empty file is an empty one. Raises ConfigError with the line of a mistake."""
    if not file.exists():
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError([f"{file.name}: {' '.join(str(error).split())}"]) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError([f"{file.name} holds {type(content).__name__}; it must be a mapping"])
    return content
