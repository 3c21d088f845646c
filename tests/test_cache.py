"""Results of shards are computed once, and again when they are damaged or what they depend on has changed."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from genpipe import code
from genpipe.data import cache
from genpipe.data.cache import Part


def work(log: Path, part: Part, file: Path) -> None:
    """Upper-case letters of the shard's chosen bytes; each call is written to the log."""
    with log.open("a") as handle:
        handle.write(f"{part.shard.stem} ")
    letters = np.frombuffer(part.shard.read_bytes(), np.uint8)
    file.write_bytes((letters if part.chosen is None else letters[part.chosen]).tobytes().upper())


@pytest.fixture
def shards(tmp_path: Path) -> list[Part]:
    for name in ("one", "two", "three"):
        (tmp_path / name).write_text(name)
    return [Part(tmp_path / "one", 0), Part(tmp_path / "two", 3), Part(tmp_path / "three", 6)]


def computed(tmp_path: Path, parts: list[Part], depends: str = "code 1") -> tuple[str, str]:
    """The results joined, and the shards on which there was work."""
    log = tmp_path / "log"
    log.write_text("")
    files = list(cache.of_parts(tmp_path / "kept", parts, partial(work, log), depends))
    return " ".join(file.read_text() for file in files), log.read_text().strip()


def test_only_new_shards_are_worked_on(tmp_path: Path, shards: list[Part]) -> None:
    assert computed(tmp_path, shards[:2]) == ("ONE TWO", "one two")
    assert computed(tmp_path, shards) == ("ONE TWO THREE", "three")
    assert computed(tmp_path, shards) == ("ONE TWO THREE", "")


def test_whatever_a_result_depends_on_makes_it_new(tmp_path: Path, shards: list[Part]) -> None:
    computed(tmp_path, shards)
    assert computed(tmp_path, shards, "code 2") == ("ONE TWO THREE", "one two three")
    shards[1].shard.write_text("owt")
    assert computed(tmp_path, shards, "code 2") == ("ONE OWT THREE", "two")
    few = [shards[0]._replace(chosen=np.array([True, False, True])), *shards[1:]]
    assert computed(tmp_path, few, "code 2") == ("OE OWT THREE", "one")
    assert computed(tmp_path, [few[0]._replace(first=12), *few[1:]], "code 2") == ("OE OWT THREE", "")


def test_a_damaged_entry_is_computed_again(tmp_path: Path, shards: list[Part]) -> None:
    computed(tmp_path, shards)
    (damaged,) = (file for file in (tmp_path / "kept").iterdir() if file.read_text() == "TWO")
    damaged.write_text("TOO")
    assert computed(tmp_path, shards) == ("ONE TWO THREE", "two")
    assert computed(tmp_path, shards) == ("ONE TWO THREE", "")


def test_what_no_shard_needs_any_more_is_deleted(tmp_path: Path, shards: list[Part]) -> None:
    computed(tmp_path, shards)
    (tmp_path / "kept" / ".half-written").write_text("by a process that was killed")
    computed(tmp_path, shards[1:])
    assert sorted(file.read_text() for file in (tmp_path / "kept").iterdir()) == ["THREE", "TWO"]


def test_an_edit_of_code_changes_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = code.digest("genpipe.modalities.image")
    assert before == code.digest("genpipe.modalities.image")
    assert before != code.digest("genpipe.modalities.image", "genpipe.data.arrays")
    monkeypatch.setattr("numpy.__version__", "0.1")  # the libraries that it imports count too
    assert before != code.digest("genpipe.modalities.image")
