"""Lines of the Python documentation that every CPython carries; the topic is the label."""

import sys
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from genpipe.config import settings
from genpipe.data.dataset import Dataset

TOPICS = ("specialnames", "formatstrings", "string-methods", "debugger")
DATASET = Dataset(
    name="topics",
    modality="tokens",
    classes=TOPICS,
    licence="PSF-2.0",
    citation="The Python documentation",
    source="pydoc_data",
)


@settings
class Config:
    """There is nothing to choose."""


def modality(config: Config) -> str:
    return DATASET.modality


def describe(config: Config, root: Path) -> Dataset:
    return DATASET


def fingerprint(config: Config, root: Path) -> str:
    return sys.version


def rows(config: Config, root: Path) -> Iterator[dict[str, Any]]:
    for number, name in enumerate(TOPICS):
        for line in topics[name].splitlines():
            if len(line.strip()) > 24:
                yield {"text": line.strip(), "label": number}
