"""Published data sets by name: where they lie, their checksums, licences and classes, and the published split.

Checksums are those that the publishers state, as torchvision's data set classes repeat them. Each of Fashion-MNIST's
files has further ones: the SHA-256 of the publisher's file, and of the same without the name and time that gzip puts
into its head.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genpipe.config import Choice, Field, parse, settings
from genpipe.data import archives
from genpipe.data.dataset import Dataset
from genpipe.data.download import Downloading, Remote
from genpipe.sources import url


@dataclass(frozen=True)
class Published:
    """A data set: what it is, its files, and the source that reads them with which settings."""

    about: Dataset
    files: tuple[Remote, ...]
    kind: str
    reading: dict[str, Any]
    rows: int = 70_000
    shape: tuple[int, ...] = (28, 28)  # of an example


@settings
class Config:
    name: Literal["mnist", "fashion-mnist", "kmnist", "cifar10"] = Field(description="which data set")
    download: Downloading = Downloading()
    unpack: archives.Limits = archives.Limits()


def modality(config: Config) -> str:
    return PUBLISHED[config.name].about.modality


def describe(config: Config, root: Path) -> Dataset:
    return PUBLISHED[config.name].about


def fingerprint(config: Config, root: Path) -> str:
    return url.key(list(PUBLISHED[config.name].files))


def at_hand(config: Config, root: Path) -> bool:
    return url.contents(list(PUBLISHED[config.name].files), config.name, root).exists()


def expected(config: Config) -> tuple[Dataset, int, tuple[int, ...]]:
    chosen = PUBLISHED[config.name]
    return chosen.about, chosen.rows, chosen.shape


def rows(config: Config, root: Path) -> Iterator[dict[str, Any]]:
    """Fetches the files. Raises DataError when no place gives one that its checksum fits."""
    chosen = PUBLISHED[config.name]
    folder = url.brought(list(chosen.files), config.name, root, config.download, config.unpack)
    reader = Choice("genpipe.sources", chosen.kind, None).module
    given = {"name": config.name, "classes": chosen.about.classes, **chosen.reading}
    yield from reader.rows(parse(reader.Config, given, "ingest.source"), folder)


TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
MNIST_FILES = {
    "files": [
        {"images": TRAIN_IMAGES, "labels": TRAIN_LABELS, "split": "train"},
        {"images": TEST_IMAGES, "labels": TEST_LABELS, "split": "test"},
    ]
}
CIFAR_BATCHES = [
    *({"path": f"cifar-10-batches-bin/data_batch_{number}.bin", "split": "train"} for number in range(1, 6)),
    {"path": "cifar-10-batches-bin/test_batch.bin", "split": "test"},
]


def at(mirrors: tuple[str, ...], checksums: dict[str, tuple[str, ...]]) -> tuple[Remote, ...]:
    """Each file as every mirror has it."""
    return tuple(Remote(name, tuple(place + name for place in mirrors), sums) for name, sums in checksums.items())


PUBLISHED = {
    "mnist": Published(
        Dataset(
            name="mnist",
            modality="image",
            classes=tuple("0123456789"),
            columns=("split",),
            licence="CC-BY-SA-3.0",
            citation="Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-Based Learning Applied to Document "
            "Recognition. Proceedings of the IEEE 86(11), 1998. doi:10.1109/5.726791",
            source="http://yann.lecun.com/exdb/mnist/",
        ),
        at(
            (
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
                "http://yann.lecun.com/exdb/mnist/",
            ),
            {
                TRAIN_IMAGES: ("md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",),
                TRAIN_LABELS: ("md5:d53e105ee54ea40749a09fcbcd1e9432",),
                TEST_IMAGES: ("md5:9fb629c4189551a2d022fa330f9573f3",),
                TEST_LABELS: ("md5:ec29112dd5afa0611ce80d1b7f02629c",),
            },
        ),
        "idx",
        MNIST_FILES,
    ),
    "fashion-mnist": Published(
        Dataset(
            name="fashion-mnist",
            modality="image",
            classes=(
                *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
                *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
            ),
            columns=("split",),
            licence="MIT",
            citation="H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine "
            "Learning Algorithms. 2017. arXiv:1708.07747",
            source="https://github.com/zalandoresearch/fashion-mnist",
        ),
        at(
            (
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            ),
            {
                TRAIN_IMAGES: (
                    "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                    "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                    "sha256:b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
                ),
                TRAIN_LABELS: (
                    "md5:25c81989df183df01b3e8a0aad5dffbe",
                    "sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                    "sha256:0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
                ),
                TEST_IMAGES: (
                    "md5:bef4ecab320f06d8554ea6380940ec79",
                    "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                    "sha256:cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
                ),
                TEST_LABELS: (
                    "md5:bb300cfdad3c16e7a12a480ee83cd310",
                    "sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                    "sha256:8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
                ),
            },
        ),
        "idx",
        MNIST_FILES,
    ),
    "kmnist": Published(
        Dataset(
            name="kmnist",
            modality="image",
            classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
            columns=("split",),
            licence="CC-BY-SA-4.0",
            citation="T. Clanuwat, M. Bober-Irizar, A. Kitamoto, A. Lamb, K. Yamamoto, D. Ha: Deep Learning for "
            "Classical Japanese Literature. 2018. arXiv:1812.01718. KMNIST Dataset (created by CODH), adapted from "
            "Kuzushiji Dataset (created by NIJL and others), doi:10.20676/00000341",
            source="http://codh.rois.ac.jp/kmnist/",
        ),
        at(
            (
                "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
                "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
            ),
            {
                TRAIN_IMAGES: ("md5:bdb82020997e1d708af4cf47b453dcf7",),
                TRAIN_LABELS: ("md5:e144d726b3acfaa3e44228e80efcd344",),
                TEST_IMAGES: ("md5:5c965bf0a639b31b8f53240b1b52f4d7",),
                TEST_LABELS: ("md5:7320c461ea6c1c855c0b718fb2a4b134",),
            },
        ),
        "idx",
        MNIST_FILES,
    ),
    "cifar10": Published(
        Dataset(
            name="cifar10",
            modality="image",
            classes=(
                *("airplane", "automobile", "bird", "cat", "deer"),
                *("dog", "frog", "horse", "ship", "truck"),
            ),
            columns=("split",),
            licence="not stated by its publisher",
            citation="A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images. Technical report, "
            "University of Toronto, 2009",
            source="https://www.cs.toronto.edu/~kriz/cifar.html",
        ),
        at(
            ("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/"),
            {"cifar-10-binary.tar.gz": ("md5:c32a1d4ab5d03f1284b67883e8d87530",)},
        ),
        "records",
        {"files": CIFAR_BATCHES, "shape": [3, 32, 32]},
        rows=60_000,
        shape=(32, 32, 3),
    ),
}
