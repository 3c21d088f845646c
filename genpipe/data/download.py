"""Fetching published files: from several places in turn, resumed, and never kept unless their checksum holds.

GENPIPE_DATA_MIRROR, a base URL or a folder (seen from the project's root), is looked in first, for
`<data set>/<file>`.
"""

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpx

from genpipe import __version__, progress
from genpipe.config import Field, settings
from genpipe.data import addresses
from genpipe.errors import DataError, OutOfReachError
from genpipe.files import room_for, write_json

MIRROR = "GENPIPE_DATA_MIRROR"
AGAIN = {408, 425, 429, 500, 502, 503, 504}  # answers after which the same request may succeed
REDIRECTS = {301, 302, 303, 307, 308}
MAX_REDIRECTS = 10


@settings
class Downloading:
    """How files are fetched."""

    allow_private: bool = Field(default=False, description="let URLs lead to loopback and private addresses")
    attempts: int = Field(default=3, ge=1, le=20, description="how often each place is tried")
    pause_seconds: float = Field(default=1.0, ge=0, description="wait before the second try, doubled before each other")
    timeout_seconds: float = Field(default=30.0, gt=0, description="how long a server may be silent")
    max_bytes: int = Field(default=2**40, ge=1, description="a larger file is not fetched")


@dataclass(frozen=True)
class Remote:
    """A published file: its name, where it lies, and checksums `algorithm:hex`, of which one has to hold."""

    name: str
    urls: tuple[str, ...]
    checksums: tuple[str, ...]


class FetchError(Exception):
    """Why one place did not give the file; `again` says whether it may, asked once more."""

    def __init__(self, reason: str, *, again: bool = False) -> None:
        self.again = again
        super().__init__(reason)


class RestartError(FetchError):
    """What was fetched before is of no use; the next try begins anew."""


def fetch(remote: Remote, owner: str, folder: Path, how: Downloading, root: Path = Path()) -> Path:
    """The file in `folder`, fetched unless it is there and whole. `owner` is the data set's name, for the mirror, and
    `root` the project's, from which a mirror is seen.

    What was fetched before an interruption is kept as `<name>.part`. Raises OutOfReachError that lists every place
    asked, with what was wrong there.
    """
    file, reasons = folder / remote.name, list[str]()
    if file.exists() and holds(file, remote.checksums):
        return file
    folder.mkdir(parents=True, exist_ok=True)
    for place in places(remote, owner, root):
        for attempt in range(how.attempts):
            try:
                with room_for(file):
                    return take(place, attempt, remote, file, how)
            except FetchError as error:
                reasons.append(f"  {bare(place)}: {error}")
                if not error.again:
                    break
                if attempt + 1 < how.attempts:
                    time.sleep(how.pause_seconds * 2**attempt)
    reasons = list(dict.fromkeys(reasons))
    raise OutOfReachError(
        "\n".join([f"{owner}: {remote.name} could not be fetched", *reasons])
        + f"\nCheck the network, or put the file at <folder>/{owner}/{remote.name} and set {MIRROR}=<folder>"
    )


def places(remote: Remote, owner: str, root: Path) -> Iterator[str]:
    """The mirror that the environment names, if any, then the publisher's own."""
    if mirror := os.environ.get(MIRROR):
        mirror = mirror if is_url(mirror) else str(root / mirror)
        yield f"{mirror.rstrip('/')}/{owner}/{remote.name}"
    yield from remote.urls


def is_url(place: str) -> bool:
    return place.lower().startswith(("http://", "https://"))


def bare(place: str) -> str:
    """A place without what may be secret in a URL: the password before the host, the words after the path."""
    if not is_url(place):
        return place
    try:
        parts = urlsplit(place)
    except ValueError:  # it is no URL, and which part of it is what can't be told
        return place.partition("?")[0].rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def take(place: str, attempt: int, remote: Remote, file: Path, how: Downloading) -> Path:
    """Copy the file from one place, check it and put it where it belongs. Raises FetchError."""
    part = file.with_name(f"{file.name}.part")
    resumed = part.exists()
    try:
        if is_url(place):
            receive(place, attempt, part, how)
        elif Path(place).is_file():
            discard(part)
            shutil.copyfile(place, part)
        else:
            raise FetchError("there is no such file")
        check(part, remote.checksums, again=resumed)
        part.replace(file)
    except (OSError, RestartError):
        discard(part)  # on a full disk it would be in the way
        raise
    discard(part)
    return file


def receive(url: str, attempt: int, part: Path, how: Downloading) -> None:
    """Write what `url` answers to `part`, or its rest to what `part` holds of the same version already."""
    held = json.loads(note_of(part).read_text(encoding="utf-8")) if part.exists() and note_of(part).exists() else {}
    start = part.stat().st_size if held.get("url") == url and held.get("version") else 0
    asked = {"Range": f"bytes={start}-", "If-Range": held["version"]} if start else {}
    with answered(url, attempt, asked, how) as answer:
        start = resumed_at(answer, start, held.get("version"))
        if not start:
            discard(part)
            write_json(note_of(part), {"url": url, "version": version_of(answer)})
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        with part.open("ab") as file, progress.fetched(part.stem, total, start) as show:
            for chunk in answer.iter_raw():
                file.write(chunk)
                show(file.tell())
                if max(file.tell(), total or 0) > how.max_bytes:
                    raise FetchError(f"larger than {how.max_bytes} bytes (ingest.source.download.max_bytes)")


@contextmanager
def answered(url: str, attempt: int, asked: Mapping[str, str], how: Downloading) -> Iterator[httpx.Response]:
    """The answer after redirects, each of which is checked like the first URL. Raises FetchError."""
    headers = {"Accept-Encoding": "identity", "User-Agent": f"genpipe/{__version__}", **asked}
    try:
        for _ in range(MAX_REDIRECTS + 1):
            target = addresses.checked(url, attempt, private=how.allow_private)
            with (
                httpx.Client(
                    proxy=target.proxy, trust_env=False, verify=httpx.create_ssl_context(), timeout=how.timeout_seconds
                ) as client,
                client.stream(
                    "GET", target.url, headers={**headers, **target.headers}, extensions=target.extensions
                ) as answer,
            ):
                if answer.status_code not in REDIRECTS:
                    yield answer
                    return
                url = urljoin(url, answer.headers.get("Location", ""))
        raise FetchError(f"redirected more than {MAX_REDIRECTS} times")
    except DataError as error:
        raise FetchError(str(error)) from error
    except httpx.TransportError as error:
        raise FetchError(f"the connection failed ({error or type(error).__name__})", again=True) from error
    except socket.gaierror as error:
        again = error.errno == socket.EAI_AGAIN
        raise FetchError(f"the host's name can't be looked up ({error.strerror})", again=again) from error
    except (httpx.InvalidURL, ValueError) as error:
        raise FetchError(f"no valid URL, or answer ({error})") from error


def resumed_at(answer: httpx.Response, start: int, version: str | None) -> int:
    """From which byte on the answer is: `start` if it is the rest of the same version, 0 if it is all anew.

    Raises FetchError for any other answer.
    """
    if answer.status_code == 200:
        return 0
    if answer.status_code == 206 and start:
        if answer.headers.get("Content-Range", "").startswith(f"bytes {start}-") and version_of(answer) == version:
            return start
        raise RestartError("it answered with another part than was asked for", again=True)
    if answer.status_code == 416 and start:
        raise RestartError("it has no more than what was fetched", again=True)
    raise FetchError(f"answered {answer.status_code} {answer.reason_phrase}", again=answer.status_code in AGAIN)


def version_of(answer: httpx.Response) -> str | None:
    """What names this version of the file, for If-Range: a strong entity tag, else the time of change."""
    tag: str = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified")


def discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    note_of(part).unlink(missing_ok=True)


def note_of(part: Path) -> Path:
    """Which version of which URL a part is of."""
    return part.with_name(f"{part.name}.json")


def check(part: Path, checksums: tuple[str, ...], *, again: bool) -> None:
    """Raises RestartError when no checksum holds."""
    if not holds(part, checksums):
        got = ", ".join(checksum_of(part, algorithm) for algorithm in algorithms(checksums))
        wanted = " or ".join(checksums)
        raise RestartError(f"not the file that is meant: its checksum is {got}, expected {wanted}", again=again)


def holds(file: Path, checksums: tuple[str, ...]) -> bool:
    found = {checksum_of(file, algorithm) for algorithm in algorithms(checksums)}
    return not found.isdisjoint(wanted.lower() for wanted in checksums)


def algorithms(checksums: tuple[str, ...]) -> list[str]:
    return sorted({wanted.partition(":")[0].lower() for wanted in checksums})


def checksum_of(file: Path, algorithm: str) -> str:
    with file.open("rb") as content:
        return f"{algorithm}:{hashlib.file_digest(content, algorithm).hexdigest()}"
