"""Handwritten digits: the 1,797 real 8×8 greyscale images that scikit-learn carries; needs no network."""

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from genpipe.config import settings
from genpipe.data.dataset import Dataset
from genpipe.modalities import image

DATASET = Dataset(
    name="digits",
    modality="image",
    classes=tuple("0123456789"),
    licence="CC-BY-4.0",
    citation="E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. "
    "UCI Machine Learning Repository, 1998. doi:10.24432/C50P49",
    source="scikit-learn: sklearn.datasets.load_digits (the test set of the UCI data)",
)


@settings
class Config:
    """There is nothing to choose."""


def modality(config: Config) -> str:
    return DATASET.modality


def describe(config: Config, root: Path) -> Dataset:
    return DATASET


def fingerprint(config: Config, root: Path) -> str:
    return f"scikit-learn {metadata.version('scikit-learn')}"


def rows(config: Config, root: Path) -> Iterator[dict[str, Any]]:
    """The digits in scikit-learn's order; its 17 grey levels are spread over 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for picture, label in zip(digits.images, digits.target, strict=True):
        yield {image.CONTENT: np.rint(picture * (255 / 16)).astype(np.uint8), "label": int(label)}
