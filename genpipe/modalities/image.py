"""Images: greyscale or RGB, stored in a shard as they came or as PNG, trained on as (B, C, H, W) in [-1, 1].

The functions that look at files do without torch, which costs the data stages seconds; those on tensors use only
methods of the tensors they get, or import what they need.
"""

import io
import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps, UnidentifiedImageError

from genpipe.config import Field, settings

if TYPE_CHECKING:
    from torch import Tensor

    from genpipe.nn.classifier import ConvClassifier
    from genpipe.nn.inception import Inception

CONTENT = "image"
FIELDS = [pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())]))]
EXTENSION = "png"
NAMES = pa.dictionary(pa.int8(), pa.string())
MEASUREMENTS = [
    pa.field("path", pa.string()),
    pa.field("bytes", pa.int64()),
    pa.field("format", NAMES),  # of the content, whatever the name says
    pa.field("mode", NAMES),  # as stored, in Pillow's words
    pa.field("frames", pa.int32()),
    pa.field("width", pa.int64()),  # upright; a broken header may say anything
    pa.field("height", pa.int64()),
    pa.field("mean", pa.float32()),  # of the decoded pixels, 0 to 255
    pa.field("deviation", pa.float32()),
    pa.field("constant", pa.bool_()),  # whether every pixel is the same
    pa.field("misnamed", pa.bool_()),  # whether its name says another format
]
BASELINE = "a Gaussian with mean and covariance of the training examples"
RESIZE = "Lanczos, antialiased, of the centre square, if a size is asked for"
ROUNDING, ROUNDING_LEVELS = "to the nearest of 256 levels", 1
PRETEXT = "tells quarter turns of pictures apart (of oblong ones: mirrorings)"
PRETEXT_CLASSES = 4


THUMBNAIL = 9
# What is read, by the endings of names. Of others, Pillow would hand some to outside programs, or go by their names.
FORMATS = {".png": "PNG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP", ".avif": "AVIF"}
FORMATS |= dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG") | dict.fromkeys((".tif", ".tiff"), "TIFF")
FORMATS |= dict.fromkeys((".pbm", ".pgm", ".ppm", ".pnm"), "PPM") | dict.fromkeys((".jp2", ".j2k"), "JPEG2000")
READ = sorted(set(FORMATS.values()))
MOST_PIXELS = 50_000_000  # 150 MB in memory as RGB
Image.MAX_IMAGE_PIXELS = None  # `plain` refuses by the same header, but for an image that would only be warned of
DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N")
# What Pillow's decoders raise over broken bytes, none of which is promised.
BROKEN: tuple[type[Exception], ...] = (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError)
BROKEN += (AttributeError, ArithmeticError, RuntimeError, AssertionError, struct.error, zlib.error)
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what is wrong with a picture stands in the manifest


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


def encode(example: np.ndarray) -> dict[str, Any]:
    """(H, W) or (H, W, 3) uint8 → the column `image` as Hugging Face `datasets` has it."""
    buffer = io.BytesIO()
    Image.fromarray(example).save(buffer, format="PNG")
    return {"image": {"bytes": buffer.getvalue(), "path": None}}


def decoded(example: np.ndarray) -> np.ndarray | None:
    """What `decode` gives of what `encode` makes of it, without either, since PNG loses nothing.

    None for what is neither grey nor RGB of 8 bits.
    """
    if example.dtype != np.uint8 or not (example.ndim == 2 or (example.ndim == 3 and example.shape[2] == 3)):
        return None
    return example[..., None] if example.ndim == 2 else example


def decode(columns: Mapping[str, Any]) -> np.ndarray:
    """The picture as (H, W, 1) or (H, W, 3) uint8, see `plain`. Raises ValueError when the bytes are no whole image."""
    return pixels(plain(opened(columns)))


def describe(columns: Mapping[str, Any]) -> dict[str, Any]:
    """MEASUREMENTS of an example and its `thumbnail`; for a broken image what its header says, and what is wrong."""
    content, path = columns["image"]["bytes"], columns["image"]["path"]
    measured = {"path": path, "bytes": None if content is None else len(content)}
    try:
        picture = opened(columns)
        measured |= header(picture, path)
        picture = plain(picture)
    except ValueError as error:
        return {**measured, "error": str(error)}
    array, (width, height) = np.asarray(picture), picture.size
    grey = picture if picture.mode == "L" else picture.convert("L")
    return {
        **measured,
        "width": width,
        "height": height,
        **spread(array),
        "thumbnail": np.asarray(grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)),
    }


def spread(array: np.ndarray) -> dict[str, Any]:
    """Mean and deviation of the levels, and whether every pixel is the same; a third of the time of NumPy's own."""
    levels = array.ravel().astype(np.float64)
    count, total, squares = levels.size, int(levels.sum()), int(levels @ levels)  # whole numbers, and exact
    deviation = math.sqrt(count * squares - total**2) / count
    constant = bool((array == array[0, 0]).all()) if array.ndim == 3 else not deviation
    return {"mean": total / count, "deviation": deviation, "constant": constant}


def header(picture: Image.Image, path: str | None) -> dict[str, Any]:
    """What is known of a picture before its pixels are. Raises ValueError when its frames can't be counted."""
    camera = picture.format == "MPO"  # a JPEG; its further pictures are previews and views of the same
    kind = "JPEG" if camera else picture.format
    named = FORMATS.get(Path(path).suffix.lower()) if path else None
    with broken_is_a_value_error():
        frames = 1 if camera else getattr(picture, "n_frames", 1)
    return {
        "format": kind,
        "width": picture.width,
        "height": picture.height,
        "mode": picture.mode,
        "frames": frames,
        "misnamed": None if named is None else named != kind,
    }


def opened(columns: Mapping[str, Any]) -> Image.Image:
    """The picture with its header read, by its content and not by its name. Raises ValueError when there is none."""
    content = columns["image"]["bytes"]
    if content is None:
        raise ValueError("not read: the file is absent, or larger than ingest.source.max_file_bytes allows")
    if not content:
        raise ValueError("empty: not one byte")
    with broken_is_a_value_error():
        return Image.open(io.BytesIO(content), formats=READ)


def plain(picture: Image.Image) -> Image.Image:
    """The first frame with 8 bits a pixel and channel, greyscale (mode L) or RGB, as a viewer would show it.

    It is turned upright as its EXIF says, transparency is laid over white, 16 bits are scaled to 8, palettes and other
    colour spaces become RGB, one bit a pixel greyscale. What is L or RGB already stays as it is. Raises ValueError for
    a broken picture, and for one with too many pixels before any of them is decoded.
    """
    if picture.width * picture.height > MOST_PIXELS:
        raise ValueError(f"too large: {picture.width} × {picture.height} pixels; at most {MOST_PIXELS:,} are decoded")
    with broken_is_a_value_error():
        picture.load()
        picture = upright(picture)
        if picture.mode in DEEP:
            return scaled_to_bytes(picture)
        if picture.has_transparency_data:
            return over_white(picture)
        if picture.mode == "F":
            raise ValueError("levels of floating point, whose range nothing tells")
        if picture.mode in ("L", "1"):
            return picture if picture.mode == "L" else picture.convert("L")
        return picture if picture.mode == "RGB" else picture.convert("RGB")


def upright(picture: Image.Image) -> Image.Image:
    if picture.format != "TIFF" and not any(name in picture.info for name in ("exif", "xmp", "XML:com.adobe.xmp")):
        return picture
    try:
        return ImageOps.exif_transpose(picture)
    except BROKEN:  # a damaged note about the picture makes no bad picture; it only says nothing of where up is
        return picture


def over_white(picture: Image.Image) -> Image.Image:
    colour = "L" if picture.mode in ("L", "LA", "1") else "RGB"
    layered, sheet = picture.convert("RGBA"), Image.new(colour, picture.size, "white")
    sheet.paste(layered.convert(colour), mask=layered.getchannel("A"))
    return sheet


def scaled_to_bytes(picture: Image.Image) -> Image.Image:
    """0 to 65535 → 0 to 255, rounded; the level that the picture calls transparent is white."""
    levels = np.asarray(picture).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError("levels of 32 bits, whose range nothing tells")
    scaled = ((levels + 128) // 257).astype(np.uint8)
    if (level := picture.info.get("transparency")) is not None:
        scaled[levels == level] = 255
    return Image.fromarray(scaled)


@contextmanager
def broken_is_a_value_error() -> Iterator[None]:
    """Whatever Pillow raises over bytes that are no whole picture, as a ValueError; what it warns of is left unsaid."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnidentifiedImageError as error:  # its own text holds an address in memory
        raise ValueError("of no known image format") from error
    except BROKEN as error:
        raise ValueError(str(error)[:200] or type(error).__name__) from error


def pixels(picture: Image.Image) -> np.ndarray:
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array


def prepare(example: np.ndarray, preparing: Preparing) -> np.ndarray:
    """(H, W, C) → (C, S, S) uint8: coloured as asked, the centre square cut out and resized (Lanczos, antialiased)."""
    if not preparing.size and preparing.colour == "as stored":
        return np.ascontiguousarray(example.transpose(2, 0, 1))
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
