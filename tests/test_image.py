"""Images: what is stored comes back, augmentation turns as torchvision does, pictures and files are what they show."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from torchvision.transforms.v2 import functional as reference

from genpipe.modalities import image
from genpipe.modalities.image import Augmentation, Preparing


@pytest.fixture
def batch() -> torch.Tensor:
    return torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_every_grey_level_survives_the_way_to_a_batch_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(image.to_stored(image.to_batch(levels)), levels)
    assert image.to_batch(levels).aminmax() == (-1, 1)


def test_samples_outside_the_range_are_cut_off() -> None:
    assert image.to_stored(torch.tensor([-1.2, 0.0, 1.2])).tolist() == [0, 128, 255]  # 127.5 is rounded to even


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
def test_an_encoded_example_decodes_to_itself(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.array_equal(image.decode(image.encode(pixels)).reshape(shape), pixels)


def test_preparing_crops_the_centre_resizes_and_colours() -> None:
    wide = np.zeros((4, 8, 1), np.uint8)
    wide[:, 2:6] = 200  # the centre square
    prepared = image.prepare(wide, Preparing(size=2, colour="rgb"))
    assert prepared.shape == (3, 2, 2)
    assert np.all(prepared == 200)


def test_nothing_changes_unless_it_is_asked_for(batch: torch.Tensor) -> None:
    assert torch.equal(image.augment(batch, Augmentation()), batch)


def test_a_rotation_is_torchvision_s_the_other_way_round(batch: torch.Tensor) -> None:
    torch.manual_seed(3)
    turned = image.augment(batch, Augmentation(rotation_degrees=40))
    torch.manual_seed(3)
    degrees = (torch.rand(4) * 2 - 1) * 40
    for number in range(4):
        wanted = reference.affine(
            batch[number], -float(degrees[number]), [0, 0], 1.0, [0.0, 0.0], reference.InterpolationMode.BILINEAR
        )
        inner = (slice(None), slice(4, 12), slice(4, 12))  # outside, torchvision fills and we repeat the border
        torch.testing.assert_close(turned[number][inner], wanted[inner], atol=2e-3, rtol=0)


def test_half_of_the_pictures_are_mirrored_and_none_is_changed_otherwise() -> None:
    torch.manual_seed(0)
    many = torch.rand(1, 1, 8, 8).expand(400, 1, 8, 8)
    flipped = image.augment(many, Augmentation(flip=True))
    mirrored = torch.isclose(flipped, many.flip(3), atol=1e-5).all(3).all(2).all(1)
    kept = torch.isclose(flipped, many, atol=1e-5).all(3).all(2).all(1)
    assert torch.all(mirrored ^ kept)
    assert 160 < mirrored.sum() < 240


def test_a_crop_shows_a_part_and_noise_has_its_deviation() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(-1, 1, 32).expand(200, 1, 32, 32)
    cropped = image.augment(ramp, Augmentation(crop=0.5))
    spans = cropped[:, 0, 0, -1] - cropped[:, 0, 0, 0]
    assert 0.9 < spans.min() < 1.3  # at least half of the width of 2 stays
    assert spans.max() > 1.8
    noisy = image.augment(torch.zeros(50, 1, 32, 32), Augmentation(noise=0.1))
    assert noisy.std() == pytest.approx(0.1, rel=0.03)


def test_a_broken_picture_is_a_value_error_without_an_address_in_it() -> None:
    with pytest.raises(ValueError, match=r"^of no known image format$"):
        image.decode({"image": {"bytes": b"nonsense", "path": None}})


def test_a_sheet_shows_each_example_in_its_place() -> None:
    examples = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(24, 2).repeat(24, 3) * 40
    sheet = np.asarray(image.picture(examples, columns=3))
    assert sheet.shape == (2 * 51, 2 * 76)  # two rows, three columns, gaps of 1, enlarged twice
    assert [sheet[50 * (n // 3) + 20, 50 * (n % 3) + 20] for n in range(5)] == [0, 40, 80, 120, 160]


def test_written_files_hold_the_pixels(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (2, 1, 6, 6), np.uint8)
    colour = np.random.default_rng(0).integers(0, 256, (1, 3, 6, 6), np.uint8)
    first, second = image.write(grey, tmp_path)
    assert first.name == "00000.png"
    assert np.array_equal(np.asarray(Image.open(second)), grey[1, 0])
    (only,) = image.write(colour, tmp_path)
    assert np.array_equal(np.asarray(Image.open(only)), colour[0].transpose(1, 2, 0))


def decoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> np.ndarray:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return image.decode({"image": {"bytes": buffer.getvalue(), "path": None}})


COLOUR = np.random.default_rng(3).integers(0, 256, (6, 5, 3), np.uint8)


def test_sixteen_bits_are_scaled_not_cut_off() -> None:
    levels = np.array([[0, 128, 129, 256, 257, 32_768, 65_406, 65_407, 65_535]], np.uint16)
    assert decoded(Image.fromarray(levels))[..., 0].tolist() == [[0, 0, 1, 1, 1, 128, 254, 255, 255]]
    assert decoded(Image.fromarray(levels), "TIFF")[..., 0].tolist() == [[0, 0, 1, 1, 1, 128, 254, 255, 255]]
    with pytest.raises(ValueError, match="levels of 32 bits, whose range nothing tells"):
        decoded(Image.fromarray(np.array([[70_000, 1]], np.int32)), "TIFF")


def test_the_transparent_level_of_sixteen_bits_is_white_and_others_are_scaled() -> None:
    picture = Image.fromarray(np.array([[0, 1000, 2570, 65535]], np.uint16))
    assert decoded(picture, transparency=1000)[..., 0].tolist() == [[0, 255, 10, 255]]


def test_palettes_bits_and_other_colour_spaces_become_grey_or_rgb() -> None:
    picture = Image.fromarray(COLOUR)
    exact = picture.quantize(30)
    assert np.array_equal(decoded(exact), np.asarray(exact.convert("RGB")))
    assert decoded(picture.convert("1")).shape == (6, 5, 1)
    assert set(decoded(picture.convert("1")).ravel()) == {0, 255}
    flat = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # red
    assert np.abs(decoded(flat, "JPEG", quality=100).astype(int) - [255, 0, 0]).max() < 8


def test_transparency_is_laid_over_white() -> None:
    for mode, half in (("RGBA", (0, 100, 200, 51)), ("LA", (100, 51))):  # a fifth of the colour, four fifths of white
        assert decoded(Image.new(mode, (2, 2), half))[0, 0].tolist() == [204, 224, 244] if mode == "RGBA" else [224]
    clear = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    clear.putpalette([255, 0, 0, 0, 0, 255])
    assert decoded(clear, transparency=0)[0].tolist() == [[255, 255, 255], [0, 0, 255]]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_a_picture_is_turned_upright_as_its_exif_says(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera's right is up: shown after a quarter turn clockwise
    lossless = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decoded(Image.fromarray(COLOUR), kind, exif=exif, **lossless), np.rot90(COLOUR, -1))


def test_a_damaged_exif_block_loses_no_picture() -> None:
    assert np.array_equal(decoded(Image.fromarray(COLOUR), exif=b"Exif\0\0nonsense"), COLOUR)


def test_of_an_animation_the_first_frame_is_decoded() -> None:
    first, second = Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)
    found = decoded(first, "WEBP", save_all=True, append_images=[second], lossless=True)
    assert np.array_equal(found, COLOUR)


def test_too_many_pixels_are_refused_by_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    row = image.encode(COLOUR)
    monkeypatch.setattr(image, "MOST_PIXELS", 29)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("pixels were decoded"))
    monkeypatch.setattr(PngImageFile, "load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises(ValueError, match="too large: 5 × 6 pixels; at most 29 are decoded"):
        image.decode(row)
    assert image.describe(row)["width"] == 5


def test_nothing_that_bytes_can_hold_ends_in_another_error() -> None:
    """Files of every format with random bytes changed, cut or repeated: an array of 8 bits, or a ValueError."""
    draw = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF"):
        buffer = io.BytesIO()
        Image.fromarray(COLOUR).save(buffer, kind)
        whole = np.frombuffer(buffer.getvalue(), np.uint8)
        for _ in range(60):
            broken = whole.copy()[: draw.integers(len(whole) // 2, len(whole) + 1)]
            broken[draw.integers(0, len(broken), 3)] = draw.integers(0, 256, 3)
            described = image.describe({"image": {"bytes": broken.tobytes(), "path": "a.png"}})
            assert "error" in described or described["thumbnail"].shape == (9, 9)


def test_a_name_that_says_another_format_is_noted() -> None:
    content = image.encode(COLOUR)["image"]["bytes"]
    for name, misnamed in (("a.png", False), ("a.PNG", False), ("a.jpg", True), ("a", None), (None, None)):
        assert image.describe({"image": {"bytes": content, "path": name}})["misnamed"] is misnamed


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3)])
def test_the_spread_of_levels_is_numpys(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    mean, deviation = pytest.approx(array.mean(), rel=1e-12), pytest.approx(array.std(), rel=1e-12)
    assert image.spread(array) == {"mean": mean, "deviation": deviation, "constant": False}
    assert image.spread(np.full(shape, 201, np.uint8)) == {"mean": 201, "deviation": 0, "constant": True}


def test_one_colour_is_constant_though_its_channels_differ() -> None:
    found = image.spread(np.full((4, 2, 3), (0, 30, 60), np.uint8))
    assert found == {"mean": 30, "deviation": pytest.approx(600**0.5), "constant": True}
