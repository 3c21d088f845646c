"""Unpacking archives that may be broken or hostile: whole, or not at all, and never outside of the folder meant.

Links are refused altogether: with none on the disk, no later entry can be led elsewhere by one. Sizes are counted while
unpacking, since what an archive says of itself may be false; of a tar all that is read counts, heads and folders too.
"""

import bz2
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import IO, Any

from genpipe.config import Field, settings
from genpipe.errors import DataError
from genpipe.files import FULL, room_for

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
BROKEN = (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, RuntimeError, ValueError)
CHUNK_BYTES = 2**20


@settings
class Limits:
    """What an archive may hold; a small one that unpacks to very much is an attack."""

    max_entries: int = Field(default=5_000_000, ge=1, description="files and folders in one archive")
    max_bytes: int = Field(default=2 * 2**40, ge=1, description="bytes that one archive may unpack to")
    max_ratio: float = Field(default=200.0, gt=0, description="bytes unpacked for each byte of the archive, at most")


@dataclass
class Budget:
    """What has been unpacked of `archive` so far, against the limits."""

    archive: Path
    limits: Limits
    size: int
    entries: int = 0
    bytes: int = 0

    def entry(self) -> None:
        self.entries += 1
        if self.entries > self.limits.max_entries:
            raise DataError(
                f"{self.archive} has more than {self.limits.max_entries} entries; raise "
                "ingest.source.unpack.max_entries (params.yaml) if that is right"
            )

    def take(self, count: int, name: str = "") -> None:
        self.bytes += count
        where = f"{self.archive}, entry '{name}'" if name else str(self.archive)
        if self.bytes > self.limits.max_bytes:
            raise DataError(
                f"{where}: more than {self.limits.max_bytes} bytes unpacked; raise "
                "ingest.source.unpack.max_bytes (params.yaml) if that is right"
            )
        if self.bytes > self.limits.max_ratio * max(self.size, CHUNK_BYTES):
            raise DataError(
                f"{where}: unpacks to more than {self.limits.max_ratio:g} times its size, as "
                "decompression bombs do; raise ingest.source.unpack.max_ratio (params.yaml) if that is right"
            )


class Counted:
    """The stream of a tar: what is read or passed over counts, and no head, such as a long name, fills the memory."""

    def __init__(self, stream: Any, budget: Budget) -> None:
        self.stream, self.budget, self.tell = stream, budget, stream.tell
        self.entry = ""

    def read(self, count: int) -> bytes:
        if count > CHUNK_BYTES:
            raise DataError(f"{self.budget.archive}: the head of an entry takes {count} bytes; pack the files anew")
        self.reach(self.tell() + count)
        return bytes(self.stream.read(count))

    def seek(self, place: int) -> int:
        self.reach(place)
        return int(self.stream.seek(place))

    def reach(self, place: int) -> None:
        self.budget.take(max(0, place - self.budget.bytes), self.entry)


def is_archive(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def lay_out(files: Iterable[Path], folder: Path, limits: Limits) -> Path:
    """Make `folder` of these files: archives are unpacked into it, then others moved there.

    Made aside and, once it is on the disk, renamed, so that a failure leaves nothing; earlier folders beside it are
    removed then. Raises DataError, naming the entry, for an archive that is broken, hostile, or beyond `limits`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as aside:
        contents = Path(aside) / "contents"
        contents.mkdir()
        for file in sorted(files, key=lambda file: not is_archive(file.name)):
            if is_archive(file.name):
                unpack(file, contents, limits)
            else:
                if (contents / file.name).exists():
                    raise DataError(f"{file.name} is there twice, as a file and in an archive; give one another name")
                file.replace(contents / file.name)
        os.sync()  # one call, where one a file would take minutes
        contents.replace(folder)
    for other in folder.parent.iterdir():
        if other.is_dir() and other != folder:
            shutil.rmtree(other)
    return folder


def unpack(archive: Path, folder: Path, limits: Limits) -> None:
    budget = Budget(archive, limits, archive.stat().st_size)
    entries = zip_entries if archive.suffix.lower() == ".zip" else tar_entries
    for name, content in entries(archive, budget):
        write(content, target(folder, name, archive), name, budget)


def target(folder: Path, name: str, archive: Path) -> Path:
    """Where the entry `name` is to be written. Raises DataError for a name that leads out of `folder`."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or PureWindowsPath(name).drive:
        raise DataError(f"{archive}, entry '{name}': the name leads out of the folder; nothing was unpacked")
    return folder / path


def write(content: IO[bytes], file: Path, name: str, budget: Budget) -> None:
    with room_for(file):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            unpacked = file.open("xb")
        except OSError as error:
            if error.errno in FULL:
                raise
            raise DataError(
                f"{budget.archive}, entry '{name}': can't be written ({error.strerror}); each name may be there once"
            ) from error
        with unpacked:
            for chunk in chunks(content, name, budget.archive):
                budget.take(len(chunk), name)
                unpacked.write(chunk)


def chunks(content: IO[bytes], name: str, archive: Path) -> Iterator[bytes]:
    while True:
        with readable(archive, name):
            chunk = content.read(CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


@contextmanager
def readable(archive: Path, name: str = "") -> Iterator[None]:
    """Tells of a broken archive, and of the entry at which it broke."""
    try:
        yield
    except BROKEN as error:
        where = f", entry '{name}'" if name else ""
        raise DataError(f"{archive}{where}: can't be unpacked ({error}); get the archive anew") from error


def zip_entries(archive: Path, budget: Budget) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each file in a zip."""
    with readable(archive):
        opened = zipfile.ZipFile(archive)
    with opened:
        for entry in opened.infolist():
            budget.entry()
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if entry.is_dir():
                continue
            if entry.flag_bits & 1:
                raise DataError(f"{archive}, entry '{entry.filename}': is encrypted; pack it without a password")
            if kind not in (0, stat.S_IFREG):
                refuse(archive, entry.filename, link=kind == stat.S_IFLNK)
            with readable(archive, entry.filename):
                content = opened.open(entry)
            with content:
                yield entry.filename, content


def tar_entries(archive: Path, budget: Budget) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each file in a tar, however it is compressed."""
    with decompressed(archive) as unpacked:
        stream: Any = Counted(unpacked, Budget(archive, budget.limits, budget.size))
        with readable(archive):
            opened = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115  # closed below
        with opened:
            name = ""
            while (entry := following(opened, archive, name)) is not None:
                name = stream.entry = entry.name
                budget.entry()
                if entry.isdir():
                    continue
                if not entry.isreg():
                    refuse(archive, name, link=entry.issym() or entry.islnk())
                with readable(archive, name):
                    content = opened.extractfile(entry)
                assert content is not None  # a regular file has content
                yield name, content
            check_end(opened, stream, archive, name)


def following(opened: tarfile.TarFile, archive: Path, last: str) -> tarfile.TarInfo | None:
    """The next entry of a tar; those before it are forgotten, or they would fill the memory."""
    with readable(archive, last):
        entry = opened.next()
    opened.members.clear()  # type: ignore[attr-defined]  # of tarfile, where typeshed has none
    return entry


def check_end(opened: tarfile.TarFile, stream: Any, archive: Path, last: str) -> None:
    """Raises DataError when a tar stops without its end mark, which tarfile takes for an end, too."""
    with readable(archive, last):
        stream.seek(opened.offset)
        ended = stream.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    if not ended:
        raise DataError(f"{archive}, after entry '{last}': can't be unpacked (it was cut off); get the archive anew")


@contextmanager
def decompressed(archive: Path) -> Iterator[Any]:
    with archive.open("rb") as raw:
        start = raw.read(6)
        raw.seek(0)
        kinds = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
        kind = next((kind for magic, kind in kinds.items() if start.startswith(magic)), None)
        yield kind(raw) if kind else raw  # type: ignore[operator]  # the three differ in further arguments


def refuse(archive: Path, name: str, *, link: bool) -> None:
    if link:
        raise DataError(f"{archive}, entry '{name}': is a link; pack the files themselves (tar --dereference)")
    raise DataError(f"{archive}, entry '{name}': is a device or a pipe; nothing was unpacked")
