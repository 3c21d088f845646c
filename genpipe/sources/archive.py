"""A zip or tar of the user's own, which another source reads once it is unpacked."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from genpipe.config import Field, Plugin, settings
from genpipe.data import archives
from genpipe.data.dataset import Dataset
from genpipe.errors import ConfigError
from genpipe.project import Project
from genpipe.sources import _own


@settings
class Config:
    path: str = Field(min_length=1, description="the .zip or .tar file, seen from the project's root")
    read: Annotated[Any, Plugin("genpipe.sources")] = Field(
        description="the source that reads it; paths in its settings are seen from the top of the archive"
    )
    unpack: archives.Limits = archives.Limits()

    def __post_init__(self) -> None:
        _own.check_reader(self.read)
        if not archives.is_archive(self.path):
            raise ConfigError(
                [f"params.yaml: ingest.source.path is {self.path!r}; known endings: {', '.join(archives.ENDINGS)}"]
            )


def modality(config: Config) -> str:
    return str(config.read.module.modality(config.read.config))


def describe(config: Config, root: Path) -> Dataset:
    """Raises DataError for an archive that can't be unpacked."""
    found: Dataset = config.read.module.describe(config.read.config, unpacked(config, root))
    return replace(found, source=config.path)


def fingerprint(config: Config, root: Path) -> str:
    return str(_own.stamp(_own.existing(root, config.path)))


def rows(config: Config, root: Path) -> Iterator[dict[str, Any]]:
    yield from config.read.module.rows(config.read.config, unpacked(config, root))


def at_hand(config: Config, root: Path) -> bool:
    return contents(config, root).exists()


def unpacked(config: Config, root: Path) -> Path:
    """The folder of the archive's contents; it is unpacked again when it has changed."""
    folder = contents(config, root)
    return folder if folder.exists() else archives.lay_out([_own.existing(root, config.path)], folder, config.unpack)


def contents(config: Config, root: Path) -> Path:
    """Where `unpacked` puts them."""
    state = hashlib.sha256(repr(_own.stamp(_own.existing(root, config.path))).encode()).hexdigest()[:16]
    name: str = config.read.config.name
    return Project(root).state / "unpacked" / name / state
