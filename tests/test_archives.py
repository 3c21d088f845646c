"""Archives, broken and hostile ones made on the spot: unpacked whole, or a clear error and nothing left behind."""

import gzip
import io
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genpipe.data.archives import Limits, lay_out
from genpipe.errors import DataError

FILES = {"flowers/a.txt": b"rose" * 50, "flowers/b.txt": b"aster", "c.txt": b""}
SMALL = Limits(max_entries=100, max_bytes=10**8, max_ratio=20)


def tar(folder: Path, members: list[tarfile.TarInfo], ending: str = "tar", contents: bytes = b"abc") -> Path:
    file = folder / f"made.{ending}"
    with tarfile.open(file, "w:" + ending.partition(".")[2]) as archive:
        for member in members:
            member.size = len(contents) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(contents) if member.isreg() else None)
    return file


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found


def zipped(folder: Path, members: dict[str, bytes], *, mode: int = 0) -> Path:
    file = folder / "made.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return file


def tarred(folder: Path, ending: str) -> Path:
    for name, content in FILES.items():
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "in" / name).write_bytes(content)
    file = folder / f"made.{ending}"
    with tarfile.open(file, f"w:{ending.partition('.')[2].removeprefix('tgz')}") as archive:
        archive.add(folder / "in", arcname=".")
    return file


def refused(archive: Path, match: str, limits: Limits = SMALL) -> None:
    """It is refused with these words, and neither beside the target nor above it anything is left."""
    target = archive.parent / "out" / "here"
    before = sorted(archive.parent.iterdir())
    with pytest.raises(DataError, match=match):
        lay_out([archive], target, limits)
    (archive.parent / "out").rmdir()  # raises when something was left in it
    assert sorted(archive.parent.iterdir()) == before


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_tar_is_unpacked_whole(tmp_path: Path, ending: str) -> None:
    folder = lay_out([tarred(tmp_path, ending)], tmp_path / "out" / "here", SMALL)
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES


def test_a_zip_is_unpacked_whole_beside_a_plain_file_and_replaces_earlier_contents(tmp_path: Path) -> None:
    (tmp_path / "plain.csv").write_text("x")
    (tmp_path / "out" / "earlier").mkdir(parents=True)
    folder = lay_out([tmp_path / "plain.csv", zipped(tmp_path, FILES)], tmp_path / "out" / "here", SMALL)
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert (folder / "plain.csv").read_text() == "x"
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["here"]


@pytest.mark.parametrize("name", ["../escaped", "a/../../escaped", "/escaped", "..\\escaped", "C:/escaped"])
@pytest.mark.parametrize("make", [lambda folder, name: tar(folder, [member(name)]), lambda f, n: zipped(f, {n: b"x"})])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str, make: Callable[[Path, str], Path]) -> None:
    refused(make(tmp_path, name), r"entry '.*escaped': the name leads out of the folder")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_of_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    refused(tar(tmp_path, [member("good"), member("way-out", kind, "../../etc")]), "entry 'way-out': is a link")


def test_links_of_a_zip_are_refused(tmp_path: Path) -> None:
    refused(zipped(tmp_path, {"way-out": b"/etc"}, mode=stat.S_IFLNK | 0o777), "entry 'way-out': is a link")


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_devices_and_pipes_are_refused(tmp_path: Path, kind: bytes) -> None:
    refused(tar(tmp_path, [member("special", kind)]), "entry 'special': is a device or a pipe")


def test_a_bomb_is_refused_by_its_ratio_whatever_its_head_says(tmp_path: Path) -> None:
    refused(zipped(tmp_path, {"good": b"x", "bomb": bytes(50_000_000)}), "entry 'bomb': unpacks to more than 20 times")
    big = tar(tmp_path, [member("bomb")], "tar.gz", bytes(50_000_000))
    refused(big, "entry 'bomb': unpacks to more than 20 times")


def test_a_bomb_in_the_head_of_an_entry_is_refused(tmp_path: Path) -> None:
    name = member("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    name.size = 30_000_000
    archive = tmp_path / "made.tar.gz"
    archive.write_bytes(gzip.compress(name.tobuf(tarfile.GNU_FORMAT) + b"x" * name.size + member("a").tobuf()))
    refused(archive, "the head of an entry takes 30000128 bytes")


def test_folders_count_like_files(tmp_path: Path) -> None:
    folders = [member(f"{number}/", tarfile.DIRTYPE) for number in range(101)]
    refused(tar(tmp_path, folders, "tar.gz"), r"more than 100 entries; raise ingest\.source\.unpack\.max_entries")
    (tmp_path / "made.tar.gz").unlink()
    refused(zipped(tmp_path, {f"{number}/": b"" for number in range(101)}), "more than 100 entries")
    (tmp_path / "made.zip").unlink()
    many = tar(tmp_path, [member("d", tarfile.DIRTYPE)] * 200, "tar.gz")
    refused(many, "entry 'd': more than 100000 bytes unpacked", Limits(max_bytes=100_000))


def test_what_is_unpacked_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut can't be made here; that the system was told to write, and when, can be seen."""
    target, seen, sync = tmp_path / "out" / "here", list[tuple[bool, int]](), os.sync

    def watched() -> None:
        seen.append((target.exists(), len(list((tmp_path / "out").rglob("*.txt")))))
        sync()

    monkeypatch.setattr(os, "sync", watched)
    lay_out([zipped(tmp_path, FILES)], target, SMALL)
    assert seen == [(False, len(FILES))]


def test_too_many_bytes_and_too_many_entries_are_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path, {"a": b"x" * 600, "b": b"x" * 600})
    refused(archive, "entry 'b': more than 1000 bytes unpacked", Limits(max_bytes=1000))
    refused(archive, "has more than 1 entries", Limits(max_entries=1))


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    refused(tar(tmp_path, [member("a"), member("a")]), "entry 'a': can't be written .*each name may be there once")
    refused(tar(tmp_path, [member("a"), member("a/b")]), "entry 'a/b': can't be written")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path, {"secret": b"x" * 40})
    content = bytearray(archive.read_bytes())
    content[6] |= 1  # the flag in the entry's own head, and in the directory at the end
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    refused(archive, "entry 'secret': is encrypted")


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_tar_that_was_cut_off_is_refused_wherever_it_was_cut(tmp_path: Path, ending: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 3000, np.uint8).tobytes()
    archive = tar(tmp_path, [member("a"), member("b"), member("c")], ending, noise)
    whole = archive.read_bytes()
    used = len(whole) if ending != "tar" else 3 * (512 + 3072)  # after that a plain tar is only end marks
    for length in (*range(1, used - 8, used // 13), 512 + 3072, 2 * (512 + 3072)):
        if length < used:
            archive.write_bytes(whole[:length])
            refused(archive, r"made\.tar.*can't be unpacked")


def test_a_tar_that_is_damaged_between_two_entries_is_refused(tmp_path: Path) -> None:
    archive = tar(tmp_path, [member("a"), member("b")])
    content = bytearray(archive.read_bytes())
    content[1024:1034] = b"~" * 10  # tarfile takes a head that it can't read for the end
    archive.write_bytes(content)
    refused(archive, "after entry 'a': can't be unpacked")


def test_a_damaged_or_cut_zip_is_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path, {"a": os.urandom(3000)})
    whole = archive.read_bytes()
    archive.write_bytes(whole[:2000])
    refused(archive, "can't be unpacked .*get the archive anew")
    archive.write_bytes(whole[:1000] + b"damage" + whole[1006:])
    refused(archive, "entry 'a': can't be unpacked")
    archive.write_bytes(b"this is no archive")
    refused(archive, "can't be unpacked")


def test_a_disk_that_is_full_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    """The limit on a file's size makes the system refuse to write, as a full disk does."""
    archive = tar(tmp_path, [member("large")], "tar.gz", os.urandom(300_000))
    (tmp_path / "out" / "earlier").mkdir(parents=True)
    code = (
        "import resource, sys; from pathlib import Path; from genpipe.data.archives import Limits, lay_out\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: lay_out([Path(sys.argv[1])], Path(sys.argv[2]), Limits())\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    words = [sys.executable, "-c", code, str(archive), str(tmp_path / "out" / "here")]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said.startswith("DataError no room to write")
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["earlier"]
