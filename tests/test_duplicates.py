"""Duplicates: which of equal rows is kept, what looks nearly the same, and that neither depends on luck."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

from genpipe.data import duplicates
from genpipe.data.duplicates import NONE
from genpipe.modalities import image


def pair(*bits: int) -> list[int]:
    """128 bits of which these are set, as two numbers."""
    return [sum(1 << (bit - 64 * half) for bit in bits if bit // 64 == half) for half in (0, 1)]


def hashes(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint64)


def every(count: int) -> np.ndarray:
    return np.ones(count, bool)


STRUCTURE = range(0, 128, 5)  # 26 bits, enough to be compared


def test_an_id_is_read_as_two_numbers() -> None:
    assert duplicates.of_hexadecimal(["00" * 7 + "01" + "ff" * 8, "0" * 32]).tolist() == [[1, 2**64 - 1], [0, 0]]


def test_the_first_of_equal_rows_is_kept() -> None:
    content = hashes([7, 1], [7, 2], [7, 1], [8, 1], [7, 1])
    assert duplicates.same(content, every(5)).tolist() == [NONE, NONE, 0, NONE, 0]


def test_a_row_that_another_rule_sets_aside_takes_no_good_one_along() -> None:
    content = hashes([7, 1], [7, 1], [7, 1], [9, 9], [9, 9])
    usable = np.array([False, True, True, False, False])
    assert duplicates.same(content, usable).tolist() == [1, NONE, 1, NONE, 3]


def test_no_rows_have_no_duplicates() -> None:
    none = np.zeros((0, 2), np.uint64)
    assert duplicates.same(none, every(0)).tolist() == duplicates.near(none, every(0)).tolist() == []


@pytest.mark.parametrize("flipped", [(1, 2, 3), (1, 33, 66), (60, 61, 127), (0, 5)])
def test_up_to_three_bits_may_differ_wherever_they_are(flipped: tuple[int, ...]) -> None:
    other = pair(*(set(STRUCTURE) ^ set(flipped)))
    assert duplicates.near(hashes(pair(*STRUCTURE), other), every(2)).tolist() == [NONE, 0]


def test_four_bits_are_too_many() -> None:
    other = pair(*(set(STRUCTURE) ^ {1, 2, 3, 4}))
    assert duplicates.near(hashes(pair(*STRUCTURE), other), every(2)).tolist() == [NONE, NONE]


def test_what_is_not_usable_or_has_hardly_an_edge_is_left_alone() -> None:
    same = pair(*STRUCTURE)
    assert duplicates.near(hashes(same, same, same), np.array([False, True, True])).tolist() == [NONE, NONE, 1]
    flat = pair(3, 50)
    assert duplicates.near(hashes(flat, flat), every(2)).tolist() == [NONE, NONE]


def test_all_pairs_are_found_as_by_comparing_each_with_each() -> None:
    draw = np.random.default_rng(0)
    seeds = draw.integers(0, 2**63, (60, 2), np.uint64)
    many = seeds[draw.integers(0, 60, 400)]
    for _ in range(2):  # two bits turned in each, so that four or fewer are between two
        bit = draw.integers(0, 128, 400)
        many[np.arange(400), bit // 64] ^= np.uint64(1) << (bit % 64).astype(np.uint64)
    apart = np.bitwise_count(many[:, None] ^ many[None]).sum(-1)
    close = (apart <= 3) & (np.arange(400)[None] < np.arange(400)[:, None])
    wanted = np.where(close.any(1), close.argmax(1), NONE)
    assert (wanted != NONE).sum() > 40
    assert np.array_equal(duplicates.near(many, every(400)), wanted)


def test_thousands_that_share_a_band_are_found_in_bounded_time() -> None:
    alike = np.tile(hashes(pair(*STRUCTURE)), (20_000, 1))
    alike[:, 1] ^= np.arange(20_000, dtype=np.uint64) % 2  # two kinds, one bit apart
    found = duplicates.near(alike, every(20_000))
    assert found[0] == NONE
    assert (found == NONE).sum() <= 2  # the first of each kind: what is far apart in so large a group is not compared


def test_the_hash_by_hand() -> None:
    """Grey levels that grow to the right: every step to the right is brighter, none down."""
    ramp = np.tile(np.arange(0, 90, 10, dtype=np.uint8), (1, 9, 1))
    (right,) = duplicates.difference_hash(ramp)
    (down,) = duplicates.difference_hash(ramp.transpose(0, 2, 1))
    assert np.bitwise_count(right).tolist() == np.bitwise_count(down).tolist() == [32, 32]
    assert right[0] ^ down[0] == 2**64 - 1
    faint = np.tile(np.arange(9, dtype=np.uint8) * duplicates.MARGIN, (1, 9, 1))
    assert duplicates.difference_hash(faint).tolist() == [[0, 0]]


def pieces() -> list[Image.Image]:
    """Parts of two photographs that overlap little."""
    photographs = [Image.fromarray(photograph) for photograph in load_sample_images().images]
    return [
        photograph.crop((left, top, left + 200, top + 200))
        for photograph in photographs
        for left in (20, 220, 420)
        for top in (20, 220)
    ]


def hashed(pictures: list[Image.Image]) -> np.ndarray:
    thumbnails = [image.describe(stored(picture))["thumbnail"] for picture in pictures]
    return duplicates.difference_hash(np.stack(thumbnails))


def stored(picture: Image.Image, kind: str = "PNG", **options: int) -> dict[str, dict[str, object]]:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return {"image": {"bytes": buffer.getvalue(), "path": None}}


def test_a_photograph_is_known_again_re_encoded_resized_and_brightened_and_others_are_not() -> None:
    first = pieces()
    encoded = [Image.open(io.BytesIO(stored(one, "JPEG", quality=75)["image"]["bytes"])) for one in first]  # type: ignore[arg-type]
    smaller = [one.resize((160, 160), Image.Resampling.LANCZOS) for one in first]
    brighter = [ImageEnhance.Brightness(one).enhance(1.1) for one in first]
    assert np.all(duplicates.near(hashed(first), every(12)) == NONE)
    for changed in (encoded, smaller, brighter):
        found = duplicates.near(np.concatenate([hashed(first), hashed(changed)]), every(24))[12:]
        right = found == np.arange(12)
        assert np.all(right | (found == NONE))
        assert right.sum() >= 9  # one is a piece of sky without an edge
