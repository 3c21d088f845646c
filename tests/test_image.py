"""Images: what is stored comes back, augmentation turns as torchvision does, pictures and files are what they show."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
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
