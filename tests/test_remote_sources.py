"""Archives, URLs and the catalogue, from a real server and a mirror; and what settings of sources say when wrong."""

import dataclasses
import gzip
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genpipe import plugins
from genpipe.config import parse
from genpipe.data.download import MIRROR
from genpipe.errors import ConfigError, DataError
from genpipe.sources import catalogue
from genpipe.stages import ingest
from tests import projects
from tests.pictures import PIXELS, chosen, described, idx, names, pixels_of, png, rows
from tests.servers import serving, whole


def packed(file: Path, *names: str) -> bytes:
    with zipfile.ZipFile(file, "w") as archive:
        for name, pixels in zip(names, PIXELS, strict=False):
            archive.writestr(name, png(pixels))
    return file.read_bytes()


def test_an_archive_is_read_by_another_source_and_unpacked_again_when_it_changes(tmp_path: Path) -> None:
    project = projects.make(tmp_path)
    packed(tmp_path / "photos.zip", "top/rose/1.png", "top/aster/2.png")
    source = chosen("archive", path="photos.zip", read={"kind": "folder", "name": "flowers", "path": "top"})
    about = described(source, tmp_path)
    assert (about.name, about.classes, about.source) == ("flowers", ("aster", "rose"), "photos.zip")
    before = source.module.fingerprint(source.config, tmp_path)
    packed(tmp_path / "photos.zip", "top/rose/1.png", "top/aster/2.png", "top/rose/3.png")
    assert source.module.fingerprint(source.config, tmp_path) != before
    assert names(source, tmp_path) == [("aster/2.png", 0), ("rose/1.png", 1), ("rose/3.png", 1)]
    assert len(list((project.state / "unpacked" / "flowers").iterdir())) == 1


def remote_file(url: str, content: bytes) -> dict[str, str]:
    return {"url": url, "sha256": hashlib.sha256(content).hexdigest()}


def test_a_url_is_fetched_unpacked_and_read_by_another_source(tmp_path: Path) -> None:
    projects.make(tmp_path)
    content = packed(tmp_path / "made.zip", "top/rose/1.png", "top/aster/2.png")
    with serving({"/photos.zip": whole(content)}) as (url, asked):
        reader = {"kind": "folder", "name": "flowers", "path": "top"}
        given = {"files": [remote_file(f"{url}/photos.zip", content)], "read": reader}
        with pytest.raises(DataError, match=r"ingest\.source\.download\.allow_private"):
            described(chosen("url", **given), tmp_path)
        source = chosen("url", **given, download={"allow_private": True})
        source.module.fingerprint(source.config, tmp_path)
        assert asked == []  # neither was a private address asked, nor does a fingerprint fetch anything
        assert described(source, tmp_path).source == f"{url}/photos.zip"
        assert names(source, tmp_path) == [("aster/2.png", 0), ("rose/1.png", 1)]
        assert len(asked) == 1


def test_several_files_of_a_url_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    projects.make(tmp_path)
    monkeypatch.delenv(MIRROR, raising=False)
    contents = {"images.gz": gzip.compress(idx(PIXELS)), "labels": idx(np.arange(12, dtype=np.uint8))}
    with serving({f"/{name}": whole(content) for name, content in contents.items()}) as (url, _):
        files = [remote_file(f"{url}/{name}", content) for name, content in contents.items()]
        reader = {"kind": "idx", "name": "own", "files": [{"images": "images.gz", "labels": "labels"}]}
        source = chosen("url", files=files, read=reader, download={"allow_private": True})
        assert [row["label"] for row in rows(source, tmp_path)] == list(range(12))


def test_what_can_not_read_files_is_refused(tmp_path: Path) -> None:
    for kind in ("digits", {"kind": "catalogue", "name": "mnist"}):
        with pytest.raises(ConfigError, match=r"ingest\.source\.read\.kind is '\w+', which reads no files"):
            chosen("archive", path="a.zip", read=kind)
    with pytest.raises(ConfigError, match=r"ingest\.source\.path is 'a\.rar'; known endings: \.zip"):
        chosen("archive", path="a.rar", read={"kind": "folder", "name": "x", "path": "."})


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist", "cifar10"])
def test_each_published_set_says_where_it_lies_and_what_it_is(name: str) -> None:
    published = catalogue.PUBLISHED[name]
    assert published.about.name == name
    assert len(published.about.classes) == 10
    for file in published.files:
        assert len(file.urls) >= 2
        assert all(url.endswith(f"/{file.name}") for url in file.urls)
        for checksum in file.checksums:
            algorithm, _, digits = checksum.partition(":")
            assert len(bytes.fromhex(digits)) == hashlib.new(algorithm).digest_size


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_checksums_and_mirrors_are_those_of_torchvision(name: str) -> None:
    from torchvision import datasets

    theirs = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST, "kmnist": datasets.KMNIST}[name]
    ours = catalogue.PUBLISHED[name]
    assert [(file.name, file.checksums[0]) for file in ours.files] == [(n, f"md5:{md5}") for n, md5 in theirs.resources]
    assert set(theirs.mirrors) <= {url.removesuffix(ours.files[0].name) for url in ours.files[0].urls}


def test_cifar_lies_where_torchvision_has_it_and_has_the_same_parts() -> None:
    """Torchvision reads the version for Python, which is pickled, so that the checksum can't be held against it."""
    from torchvision.datasets import CIFAR10

    published = catalogue.PUBLISHED["cifar10"]
    (file,) = published.files
    assert file.urls[0] == CIFAR10.url.replace("-python", "-binary")
    assert file.name == CIFAR10.filename.replace("-python", "-binary")
    theirs = [
        (name, split)
        for split, names in (("train", CIFAR10.train_list), ("test", CIFAR10.test_list))
        for name, _ in names
    ]
    assert [(Path(part["path"]).stem, part["split"]) for part in published.reading["files"]] == theirs


def test_the_classes_of_fashion_mnist_are_those_of_torchvision() -> None:
    from torchvision.datasets import FashionMNIST

    assert list(catalogue.PUBLISHED["fashion-mnist"].about.classes) == FashionMNIST.classes


def test_the_catalogue_brings_a_set_from_a_mirror_with_its_published_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CIFAR-10's layout at its real size of an image, with few of them: the checksum is that of this small archive."""
    projects.make(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (6, 3073), np.uint8)
    noise[:, 0] = range(6)
    (tmp_path / "mirror" / "cifar10").mkdir(parents=True)
    file = tmp_path / "mirror" / "cifar10" / "cifar-10-binary.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        batches = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
        for name, record in zip(batches, noise, strict=True):
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(record)
            archive.addfile(entry, io.BytesIO(record.tobytes()))
    monkeypatch.setenv(MIRROR, str(tmp_path / "mirror"))
    source = chosen("catalogue", name="cifar10", download={"attempts": 1, "timeout_seconds": 0.1})
    published = catalogue.PUBLISHED["cifar10"]
    (there,) = published.files
    alone = dataclasses.replace(published, files=(dataclasses.replace(there, urls=()),))
    monkeypatch.setitem(catalogue.PUBLISHED, "cifar10", alone)
    with pytest.raises(DataError, match=r"mirror/cifar10/cifar-10-binary\.tar\.gz: not the file that is meant"):
        rows(source, tmp_path)
    checksum = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    small = dataclasses.replace(published, files=(dataclasses.replace(there, checksums=(checksum,)),))
    monkeypatch.setitem(catalogue.PUBLISHED, "cifar10", small)
    found = rows(source, tmp_path)
    assert [(row["label"], row["split"]) for row in found] == [(n, "train") for n in range(5)] + [(5, "test")]
    assert pixels_of(found[5]).tobytes() == noise[5, 1:].reshape(3, 32, 32).transpose(1, 2, 0).tobytes()
    assert described(source, tmp_path).classes[5] == "dog"


def test_the_name_of_a_published_set_alone_leads_to_the_catalogue() -> None:
    with pytest.raises(ConfigError, match=r"ingest\.source\.kind is 'fashion-mnist'.*\{kind: catalogue, name: mnist\}"):
        parse(ingest.Config, {"source": "fashion-mnist"}, "ingest")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "folder"}, "ingest.source.path is missing"),
        ({"kind": "folder", "name": "../x", "path": "p"}, "ingest.source.name is '../x'"),
        (
            {"kind": "folder", "name": "x", "path": "p", "columns": {"fil": 1}},
            "columns.fil is not a key; known keys",
        ),
        (
            {"kind": "folder", "name": "x", "path": "p", "classes": "a"},
            "source.classes is 'a'; it must be a list",
        ),
        ({"kind": "idx", "name": "x", "files": []}, r"ingest.source.files is \[\]; it must be a list of 1 or more"),
        (
            {"kind": "idx", "name": "x", "files": [{"image": "a"}]},
            "files.0.image is not a key; known keys: images",
        ),
        ({"kind": "catalogue", "name": "svhn"}, "ingest.source.name is 'svhn'; allowed: 'mnist', 'fashion-mnist'"),
        (
            {"kind": "url", "read": "x", "files": []},
            "source.read.kind is 'x'; known sources: archive, catalogue",
        ),
        (
            {
                "kind": "url",
                "read": {"kind": "folder", "name": "x", "path": "."},
                "files": [{"url": "http://[::1/x", "sha256": "0" * 64}],
            },
            "ingest.source.files names a URL that is none",
        ),
        ({"kind": "url", "files": []}, r"ingest.source.read.kind is missing; known sources"),
    ],
)
def test_faults_of_a_source_stand_at_their_place(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(ingest.Config, {"source": given}, "ingest")


def test_a_fault_within_a_list_is_told_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(ingest.Config, {"source": {"kind": "idx", "name": "x", "files": [{"images": ""}]}}, "ingest")
    assert len(caught.value.faults) == 1


def test_every_source_is_explained(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from genpipe.catalogue import show_config

    monkeypatch.setenv("COLUMNS", "250")
    show_config("ingest.source")
    said = capsys.readouterr().out
    for kind in plugins.names("genpipe.sources"):
        assert kind == "digits" or f"{kind}]" in said or f"{kind}, " in said
    assert "ingest.source.files.N.sha256" in said
    assert "tuple[str, ...]" in said
