"""Images: greyscale or RGB, stored in a shard as they came or as PNG, trained on as (B, C, H, W) in [-1, 1].

The functions that look at files do without torch, which costs the data stages seconds; those on tensors use only
methods of the tensors they get, or import what they need.
"""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from genpipe.config import Field, settings
from genpipe.data.rules import Rule

if TYPE_CHECKING:
    from torch import Tensor

    from genpipe.nn.classifier import ConvClassifier
    from genpipe.nn.inception import Inception

CONTENT = "image"
FIELDS = [pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())]))]
EXTENSION = "png"
BASELINE = "a Gaussian with mean and covariance of the training examples"
RESIZE = "Lanczos, antialiased, of the centre square, if a size is asked for"
ROUNDING = "to the nearest of 256 levels"
PRETEXT = "tells quarter turns of pictures apart (of oblong ones: mirrorings)"
PRETEXT_CLASSES = 4


@settings
class Preparing:
    """How an image becomes an array of one size."""

    size: int = Field(default=0, ge=0, le=1024, description="height and width in pixels; 0 keeps them")
    colour: Literal["as stored", "grey", "rgb"] = Field(default="as stored", description="channels of the arrays")


@settings
class Augmentation:
    """Random changes of each training batch, on its device; all off by default."""

    rotation_degrees: float = Field(default=0.0, ge=0, le=180, description="turn by up to this angle either way")
    crop: float = Field(default=0.0, ge=0, lt=1, description="largest share of height and width cut away")
    flip: bool = Field(default=False, description="mirror left to right, half of the time")
    noise: float = Field(default=0.0, ge=0, le=1, description="deviation of added noise; pixels are in [-1, 1]")


RULES = (
    Rule("expect_column_values_to_be_null", "error", "can't be decoded"),
    Rule("expect_column_values_to_be_between", "width", "width out of range", {"min_value": 2, "max_value": 4096}),
    Rule("expect_column_values_to_be_between", "height", "height out of range", {"min_value": 2, "max_value": 4096}),
    Rule("expect_column_values_to_be_in_set", "mode", "neither greyscale nor RGB", {"value_set": ["L", "RGB"]}),
    Rule("expect_column_values_to_be_between", "deviation", "every pixel is the same", {"min_value": 1e-9}),
)


def encode(example: np.ndarray) -> dict[str, Any]:
    """(H, W) or (H, W, 3) uint8 → the column `image` as Hugging Face `datasets` has it."""
    buffer = io.BytesIO()
    Image.fromarray(example).save(buffer, format="PNG")
    return {"image": {"bytes": buffer.getvalue(), "path": None}}


def decoded(example: np.ndarray) -> np.ndarray | None:
    """What `decode` gives of what `encode` makes of it, without either, since PNG loses nothing; None if not uint8."""
    if example.dtype != np.uint8:
        return None
    return example[..., None] if example.ndim == 2 else example


def decode(columns: Mapping[str, Any]) -> np.ndarray:
    """The pixels as (H, W, C) uint8. Raises ValueError when the bytes are no whole image."""
    return pixels(read(columns))


def read(columns: Mapping[str, Any]) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(columns["image"]["bytes"] or b""))
        picture.load()
    except UnidentifiedImageError as error:  # its own text holds an address in memory
        raise ValueError("of no known image format") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error
    return picture


def pixels(picture: Image.Image) -> np.ndarray:
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array


def describe(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Width, height, mode, mean and deviation (0 to 255) of the pixels; for a broken image only what is wrong."""
    try:
        picture = read(columns)
    except ValueError as error:
        return {"error": str(error)}
    array = np.asarray(picture)
    mean, deviation = float(array.mean()), float(array.std())
    size = {"width": picture.width, "height": picture.height}
    return {**size, "mode": picture.mode, "mean": mean, "deviation": deviation}


def prepare(example: np.ndarray, preparing: Preparing) -> np.ndarray:
    """(H, W, C) → (C, S, S) uint8: coloured as asked, the centre square cut out and resized (Lanczos, antialiased)."""
    picture = Image.fromarray(example[..., 0] if example.shape[-1] == 1 else example)
    if preparing.colour != "as stored":
        picture = picture.convert({"grey": "L", "rgb": "RGB"}[preparing.colour])
    if preparing.size:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        picture = square.resize((preparing.size, preparing.size), Image.Resampling.LANCZOS)
    return np.ascontiguousarray(pixels(picture).transpose(2, 0, 1))


def to_batch(stored: "Tensor") -> "Tensor":
    """uint8 (B, C, H, W) → float32 in [-1, 1]."""
    return stored.float().div_(127.5).sub_(1)


def to_stored(samples: "Tensor") -> "Tensor":
    """[-1, 1] → uint8, rounded to the nearest of 256 levels."""
    return samples.float().add(1).mul_(127.5).round_().clamp_(0, 255).byte()


def augment(batch: "Tensor", augmentation: Augmentation) -> "Tensor":
    """Rotate, crop and flip each image of (B, C, H, W) in one resampling step, then add noise.

    Draws from the default generator of the batch's device.
    """
    import torch
    import torch.nn.functional as F

    count, device = len(batch), batch.device
    if augmentation.rotation_degrees or augmentation.crop or augmentation.flip:
        angle = (torch.rand(count, device=device) * 2 - 1) * math.radians(augmentation.rotation_degrees)
        scale = 1 - torch.rand(count, device=device) * augmentation.crop
        shift = (torch.rand(count, 2, device=device) * 2 - 1) * (1 - scale)[:, None]
        mirror = 1 - 2 * (torch.rand(count, device=device) < 0.5 * augmentation.flip).float()
        turn = torch.stack([torch.cos(angle), -torch.sin(angle), torch.sin(angle), torch.cos(angle)], 1).view(-1, 2, 2)
        turn = turn * scale[:, None, None] * torch.stack([mirror, torch.ones_like(mirror)], 1)[:, None, :]
        grid = F.affine_grid(torch.cat([turn, shift[:, :, None]], 2), list(batch.shape), align_corners=False)
        batch = F.grid_sample(batch, grid, padding_mode="border", align_corners=False)
    if augmentation.noise:
        batch = (batch + augmentation.noise * torch.randn_like(batch)).clamp(-1, 1)
    return batch


def evaluator(shape: Sequence[int], classes: int) -> "ConvClassifier":
    """The network whose features the metrics use; `calibrate` fits it on real labels."""
    from genpipe.nn.classifier import ConvClassifier

    channels, height, width = shape
    return ConvClassifier(channels, height, width, classes)


def pretext(batch: "Tensor", targets: "Tensor") -> "Tensor":
    """Each image of (B, C, H, W) turned by `targets` (B,) times 90°: Gidaris et al. 2018, arXiv 1803.07728.

    An oblong one is mirrored: 0 not at all, 1 left to right, 2 both ways, 3 top to bottom.
    """
    import torch

    square = batch.shape[-1] == batch.shape[-2]
    mirrored = ((), (-1,), (-2, -1), (-2,))
    ways = [
        batch.rot90(number, (-2, -1)) if square else batch.flip(mirrored[number]) for number in range(PRETEXT_CLASSES)
    ]
    return torch.stack(ways, 1)[torch.arange(len(batch), device=batch.device), targets]


def pretrained(weights: "Mapping[str, Tensor]", classes: int) -> "Inception":
    """Inception v3 with `weights`, where `calibrate.extractor` asks for it in place of a fitted network."""
    from genpipe.nn.inception import Inception

    return Inception(weights, classes)


def baseline(training: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws from the Gaussian of the pixels of `training`, uint8 (N, C, H, W); what a model has to beat."""
    import torch

    from genpipe.nn.gaussian import gaussian

    return to_stored(gaussian(to_batch(torch.from_numpy(training)), count, rng)).numpy()


def picture(examples: np.ndarray, columns: int) -> Image.Image:
    """uint8 (N, C, H, W) as a grid with a gap of one pixel, enlarged by whole factors to about 48 pixels an image."""
    count, channels, height, width = examples.shape
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, channels), 32, np.uint8)
    for number, example in enumerate(examples):
        top, left = number // columns * (height + 1) + 1, number % columns * (width + 1) + 1
        sheet[top : top + height, left : left + width] = example.transpose(1, 2, 0)
    drawn = Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
    factor = max(1, round(48 / height))
    return drawn.resize((drawn.width * factor, drawn.height * factor), Image.Resampling.NEAREST)


def write(examples: np.ndarray, folder: Path) -> list[Path]:
    """uint8 (N, C, H, W) as 00000.png, 00001.png, …"""
    files = [folder / f"{number:05d}.{EXTENSION}" for number in range(len(examples))]
    for file, example in zip(files, examples, strict=True):
        Image.fromarray(example[0] if len(example) == 1 else example.transpose(1, 2, 0)).save(file)
    return files
