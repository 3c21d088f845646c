"""DVC's remote: "it has no such file" is told apart from "it does not answer", which DVC reports in the same words.

DVC takes an HTTP server that is down or answers 503, and a folder that is not mounted, for one that lacks the files.
Whoever believed that would train anew what lies there safe, since a store was away for a minute. So the remote itself
is asked for the objects: for one before anything is brought, for all when that failed.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from genpipe import dag
from genpipe.deadlines import within
from genpipe.errors import RemoteError, StageError
from genpipe.project import Project, load_yaml, masked

ANSWER_SECONDS = 60.0  # for one object
REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
GONE = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
LISTING = ".dir"  # the end of the name of an object that lists a folder's files
DATA = "data.dvc"


def pull_outputs(project: Project) -> list[str]:
    """Bring the outputs that dvc.lock names from cache or remote; returns what DVC said of stages where it could not.

    Those are made anew, if a run needs them: their outputs were never pushed, or are not in this remote any more. Data
    are brought as far as the cache, from which ingest takes them. Raises RemoteError where the remote does not answer.
    """
    failed, known = [], locked(project)
    for name, found in dag.status(project).items():
        if not any("changed outs" in part for part in found):
            continue
        if name == DATA:
            with suppress(StageError):  # ingest reads the source instead, and says so
                bring(project, "fetch", DATA)
        elif name in known:
            try:
                bring(project, "pull", "--force", name)
            except StageError as error:
                failed.append(f"{name}: {' '.join(str(error).split())}")
    return failed


def restore_data(project: Project) -> None:
    """Bring back what data.dvc names, from a remote if there is one, else from the cache.

    Raises StageError where that is impossible, and where data/ holds what is in no cache; RemoteError where the remote
    does not answer.
    """
    if dag.default_remote(project):
        bring(project, "pull", DATA)
    else:
        dag.dvc(project, "checkout", DATA)


def bring(project: Project, *words: str) -> None:
    """Run a command of DVC that brings what its last word names.

    Raises StageError with what DVC says where the remote lacks some of it, RemoteError where it does not answer.
    """
    names = objects(project, words[-1])
    with opened(project) as remote:
        next(remote.answers(names), None)
    try:
        dag.dvc(project, *words)
    except StageError as error:
        with opened(project) as remote:
            lacking = list(remote.answers(names))
            if lacking and all(lacking):
                raise RemoteError(f"{remote} has what was asked for, and it could not be brought: {error}") from error
        raise


def refuse_silent(project: Project) -> str:
    """Name and place of the remote; raises RemoteError when it does not say whether it has what data.dvc names."""
    with opened(project) as remote:
        for name in objects(project, DATA):
            remote.has(name)
        return str(remote)


def objects(project: Project, target: str) -> list[str]:
    """The names of the objects that are the outputs of a stage, or data.dvc's."""
    entry = load_yaml(project.root / target) if target == DATA else locked(project)[target]
    return [out["md5"] for out in entry.get("outs", []) if "md5" in out]


def locked(project: Project) -> dict[str, Any]:
    return load_yaml(project.root / "dvc.lock").get("stages") or {}


@contextmanager
def opened(project: Project) -> "Iterator[Remote]":
    """The project's default remote. Raises RemoteError where it can't be used, or is a folder that is not there."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    with Repo(str(project.root)) as repo:
        try:
            place = repo.cloud.get_remote()
        except DvcException as error:  # such as a library that is not installed
            raise RemoteError(f"DVC's remote can't be used: {error}", again=False) from error
        remote = Remote(place.name, repo.config["remote"][place.name]["url"], repo.cache.local, place.odb)
        if place.fs.protocol == "local" and not Path(place.path).is_dir():
            raise RemoteError(f"{remote} is not there: mount it, or make it by `dvc push` where nothing was pushed yet")
        yield remote


@dataclass(frozen=True)
class Remote:
    """A remote, and the cache beside it; each keeps objects under the digests of their contents."""

    name: str
    url: str
    cache: Any
    store: Any

    def __str__(self) -> str:
        return f"DVC's remote '{self.name}' ({masked(self.url)})"

    def answers(self, names: Sequence[str]) -> Iterator[bool]:
        """Whether the remote has it, for each object that the cache lacks; those in a folder come after its listing."""
        for name in names:
            cached = self.cache.exists(name)
            if not cached:
                yield (there := self.has(name))
                if not there:
                    continue
            if name.endswith(LISTING):
                files = self.cache if cached else self.store
                listing = self.ask(partial(files.fs.cat_file, files.oid_to_path(name)))
                yield from self.answers([entry["md5"] for entry in json.loads(listing)])

    def has(self, name: str) -> bool:
        """Whether an object is in the remote. Raises RemoteError where that does not say."""
        try:
            self.ask(partial(self.store.fs.info, self.store.oid_to_path(name)))
        except FileNotFoundError:
            return False
        return True

    def ask(self, question: Callable[[], Any]) -> Any:
        """The answer; FileNotFoundError is one. Raises RemoteError where there is none."""
        try:
            return within(ANSWER_SECONDS, question)
        except FileNotFoundError as error:
            if is_outage(error.__cause__):  # an HTTP store hides it so
                raise self.silence(error.__cause__) from error
            raise
        except TimeoutError as error:
            raise RemoteError(f"{self} does not answer within {ANSWER_SECONDS:g} s") from error
        except Exception as error:  # each kind of store has its own
            raise self.silence(error) from error

    def silence(self, error: BaseException | None) -> RemoteError:
        said = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, PermissionError) or getattr(error, "status", None) in REFUSED:
            return RemoteError(f"{self} does not let this machine in: {said}", again=False)
        return RemoteError(f"{self} does not answer: {said}")


def is_outage(error: BaseException | None) -> bool:
    """Whether this, which a store has turned into FileNotFoundError, says nothing about the file."""
    from aiohttp import ClientError

    gone = isinstance(error, FileNotFoundError) or getattr(error, "status", None) in GONE
    return isinstance(error, (ClientError, OSError)) and not gone
