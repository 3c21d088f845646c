"""A toy modality: lines of ASCII text of one length, a byte a token."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from genpipe.config import Field, settings

CONTENT, EXTENSION, TOKENS = "text", "txt", 128
FIELDS = [pa.field("text", pa.string())]
BASELINE = "letters drawn by their frequency in the training examples"
RESIZE, ROUNDING, ROUNDING_LEVELS = "cut off or repeated to one length", "none: tokens are whole numbers", 0
MEASUREMENTS = [pa.field("length", pa.int32())]


@settings
class Preparing:
    length: int = Field(default=24, ge=1, description="characters of an example")


@settings
class Augmentation:
    dropped: float = Field(default=0.0, ge=0, lt=1, description="share of characters made blank")


def decode(columns: Mapping[str, Any]) -> np.ndarray:
    """Raises ValueError for text that is not ASCII (a UnicodeEncodeError is one)."""
    return np.frombuffer(columns["text"].encode("ascii"), np.uint8)


def describe(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {"length": len(columns["text"])} if columns["text"].isascii() else {"error": "not ASCII"}


def prepare(example: np.ndarray, preparing: Preparing) -> np.ndarray:
    return np.resize(example[: preparing.length], preparing.length)


def to_batch(stored: Tensor) -> Tensor:
    return stored.long()


def to_stored(samples: Tensor) -> Tensor:
    return samples.byte()


def augment(batch: Tensor, augmentation: Augmentation) -> Tensor:
    return torch.where(torch.rand(batch.shape, device=batch.device) < augmentation.dropped, ord(" "), batch)


class Letters(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.seen = nn.EmbeddingBag(TOKENS, 16)
        self.chosen = nn.Linear(16, classes)

    def features(self, batch: Tensor) -> Tensor:
        return self.seen(batch)

    def classify(self, features: Tensor) -> Tensor:
        return self.chosen(features)

    def forward(self, batch: Tensor) -> Tensor:
        return self.classify(self.features(batch))


def evaluator(shape: Sequence[int], classes: int) -> Letters:
    return Letters(classes)


def baseline(training: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(training.ravel(), (count, *training.shape[1:]))


def lines(examples: np.ndarray) -> list[str]:
    return [bytes(example).decode("ascii", "replace") for example in examples]


def picture(examples: np.ndarray, columns: int) -> Image.Image:
    sheet = Image.new("L", (8 * examples.shape[1], 14 * len(examples)), 255)
    for number, line in enumerate(lines(examples)):
        ImageDraw.Draw(sheet).text((2, 14 * number), line.replace("\n", " "), fill=0)
    return sheet


def write(examples: np.ndarray, folder: Path) -> list[Path]:
    files = [folder / f"{number:05d}.{EXTENSION}" for number in range(len(examples))]
    for file, line in zip(files, lines(examples), strict=True):
        file.write_text(line, encoding="utf-8")
    return files
