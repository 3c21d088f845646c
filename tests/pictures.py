"""Pictures in files, and a source by its settings: what tests of sources share."""

import io
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from genpipe.config import Choice, parse
from genpipe.data import dataset
from genpipe.data.rows import Later
from genpipe.stages import ingest

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 5), np.uint8)
COLOURED = np.random.default_rng(1).integers(0, 256, (4, 6, 5, 3), np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def put(folder: Path, *names: str) -> Path:
    """Pictures of these names, the first of PIXELS and so on."""
    for name, pixels in zip(names, PIXELS, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(pixels))
    return folder


@cache
def both() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    found: list[np.ndarray] = load_sample_images().images
    return found


def photographs(folder: Path, count: int, first: int = 0) -> Path:
    """Real pictures, as somebody has them: crops of scikit-learn's two photographs as JPEGs, from number `first` on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        photograph = both()[number % 2]
        rng = np.random.default_rng(number)
        size = int(rng.integers(48, 120))
        top, left = (int(rng.integers(0, side - size)) for side in photograph.shape[:2])
        Image.fromarray(photograph[top : top + size, left : left + size]).save(folder / f"{number:04d}.jpg", quality=90)
    return folder


def chosen(kind: str, **given: Any) -> Choice:
    if kind not in ("url", "archive", "catalogue"):
        given = {"name": "own", **given}
    found: Choice = parse(ingest.Config, {"source": {"kind": kind, **given}}, "ingest").source
    return found


def described(source: Choice, root: Path) -> dataset.Dataset:
    found: dataset.Dataset = source.module.describe(source.config, root)
    return found


def rows(source: Choice, root: Path) -> list[dict[str, Any]]:
    """All rows, with contents that come later read now."""
    found = list(source.module.rows(source.config, root))
    return [{**row, "image": row["image"].read()} if isinstance(row["image"], Later) else row for row in found]


def names(source: Choice, root: Path) -> list[tuple[str, Any]]:
    return [(row["image"]["path"], row.get("label")) for row in rows(source, root)]


def pixels_of(row: dict[str, Any]) -> np.ndarray:
    content = row["image"]
    return content if isinstance(content, np.ndarray) else np.asarray(Image.open(io.BytesIO(content["bytes"])))


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">HBB{array.ndim}I", 0, {"uint8": 8, "int32": 12}[array.dtype.name], array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()
