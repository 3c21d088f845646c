"""Files on the web, each with its checksum: fetched, archives among them unpacked, and read by another source."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from genpipe.config import Field, Plugin, settings
from genpipe.data import archives
from genpipe.data.dataset import Dataset
from genpipe.data.download import Downloading, Remote, bare, fetch
from genpipe.errors import ConfigError
from genpipe.project import Project
from genpipe.sources import _own


@settings
class File:
    url: str = Field(pattern=r"^https?://", description="where the file lies")
    sha256: str = Field(pattern=r"^[0-9a-fA-F]{64}$", description="its checksum: 64 hexadecimal digits")
    mirrors: tuple[str, ...] = Field(default=(), description="other URLs of the same file, tried in turn")
    name: str = Field(
        default="", pattern=r"^([^/\\.][^/\\]*)?$", description="its name; the end of the URL unless given"
    )


@settings
class Config:
    files: tuple[File, ...] = Field(min_length=1, description="what is fetched")
    read: Annotated[Any, Plugin("genpipe.sources")] = Field(
        description="the source that reads them; paths in its settings are seen from the folder of the files, "
        "in which archives are unpacked"
    )
    download: Downloading = Downloading()
    unpack: archives.Limits = archives.Limits()

    def __post_init__(self) -> None:
        _own.check_reader(self.read)
        try:
            names = [remote(file).name for file in self.files]
        except ValueError as error:
            raise ConfigError([f"params.yaml: ingest.source.files names a URL that is none ({error})"]) from error
        if len(set(names)) < len(names):
            raise ConfigError(
                [f"params.yaml: ingest.source.files are named {', '.join(names)}; give each its own `name`"]
            )


def modality(config: Config) -> str:
    return str(config.read.module.modality(config.read.config))


def describe(config: Config, root: Path) -> Dataset:
    """Fetches the files. Raises DataError when none of the places gives one that its checksum fits."""
    found: Dataset = config.read.module.describe(config.read.config, fetched(config, root))
    return replace(found, source=", ".join(bare(file.url) for file in config.files))


def fingerprint(config: Config, root: Path) -> str:
    return key([remote(file) for file in config.files])


def rows(config: Config, root: Path) -> Iterator[dict[str, Any]]:
    yield from config.read.module.rows(config.read.config, fetched(config, root))


def at_hand(config: Config, root: Path) -> bool:
    return contents([remote(file) for file in config.files], config.read.config.name, root).exists()


def fetched(config: Config, root: Path) -> Path:
    files = [remote(file) for file in config.files]
    return brought(files, config.read.config.name, root, config.download, config.unpack)


def brought(files: list[Remote], owner: str, root: Path, how: Downloading, limits: archives.Limits) -> Path:
    """The folder in which these files lie, archives among them unpacked; made unless it is there."""
    folder = contents(files, owner, root)
    home = folder.parents[1]
    if not folder.exists():
        there = [fetch(file, owner, home / "files", how, root) for file in files]
        archives.lay_out(there, folder, limits)
        for file in there:
            file.unlink(missing_ok=True)
    return folder


def contents(files: list[Remote], owner: str, root: Path) -> Path:
    """Where `brought` puts them."""
    return Project(root).state / "downloads" / owner / "contents" / key(files)


def remote(file: File) -> Remote:
    ending = unquote(urlsplit(file.url).path).rpartition("/")[2].lstrip(".")
    return Remote(file.name or ending or "file", (file.url, *file.mirrors), (f"sha256:{file.sha256}",))


def key(files: list[Remote]) -> str:
    """A short name for this set of files, the same wherever they come from."""
    return hashlib.sha256(repr([(file.name, file.checksums) for file in files]).encode()).hexdigest()[:16]
