"""Checkpoints: whole or not there, the right one or a refusal that says why."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from genpipe import checkpoint, training
from genpipe.config import Choice
from genpipe.data.arrays import DataSpec
from genpipe.devices import Compute
from genpipe.errors import CheckpointError, FormatError
from genpipe.generators import vae
from genpipe.training import Config, State

IDENTITY = {"config": {"steps": 5, "generator": {"kind": "vae", "latent_dim": 4}}, "data": "aa", "code": "bb"}


def new() -> State:
    chosen = Choice("genpipe.generators", "vae", vae.Config(hidden_dim=8, latent_dim=4))
    return training.new_state(chosen, DataSpec("image", (1, 8, 8), ("a", "b")), Config(), Compute())


def stepped(state: State, step: int) -> State:
    """One step on one batch, called number `step`."""
    batch = {"image": torch.full((4, 1, 8, 8), 0.5), "label": torch.tensor([0, 1, 0, 1])}
    state.step = step - 1
    next(training.fit(state, lambda step, update, micro: batch, Config(steps=step), Compute()))
    return state


def save(folder: Path, state: State, keep: int = 3) -> Path:
    return checkpoint.save(folder, state, IDENTITY, {"rows": [{"step": state.step, "nll": 0.1}]}, keep)


def equal(one: State, other: State) -> bool:
    first, second = checkpoint.packed(one), checkpoint.packed(other)
    return first[1] == second[1] and all(torch.equal(first[0][key], second[0][key]) for key in first[0] | second[0])


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    state, other = stepped(new(), 7), new()
    assert not equal(state, other)
    assert save(tmp_path, state).name == "step-00000007"
    resumed = checkpoint.load(tmp_path, other, IDENTITY)
    assert resumed == checkpoint.Resumed({"rows": [{"step": 7, "nll": 0.1}]})
    assert other.step == 7
    assert equal(state, other)


def test_without_a_checkpoint_nothing_changes(tmp_path: Path) -> None:
    state = new()
    assert checkpoint.load(tmp_path / "none", state, IDENTITY) == checkpoint.Resumed({})
    assert equal(state, new())


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_corrupt_one_falls_back_to_the_one_before_and_says_so(tmp_path: Path, name: str, harm: str) -> None:
    state = stepped(new(), 1)
    save(tmp_path, state)
    file = save(tmp_path, stepped(state, 2)) / name
    content = bytearray(file.read_bytes())
    if harm == "remove":
        file.unlink()
    else:
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content if harm == "flip" else content[: len(content) // 2])
    resumed = checkpoint.load(tmp_path, other := new(), IDENTITY)
    assert other.step == 1
    (note,) = resumed.notes
    assert "step-00000002 is corrupt" in note
    assert note.endswith("falling back to the one before")
    save(tmp_path, stepped(other, 2))  # goes in the place of the corrupt one
    assert checkpoint.load(tmp_path, new(), IDENTITY).notes == ()


def test_another_training_is_refused_with_every_changed_key(tmp_path: Path) -> None:
    save(tmp_path, stepped(new(), 1))
    generator = {"kind": "vae", "latent_dim": 8}
    with pytest.raises(CheckpointError) as refused:
        checkpoint.load(tmp_path, new(), {**IDENTITY, "config": {"steps": 9, "generator": generator}, "code": "cc"})
    assert str(refused.value).splitlines()[1:] == [
        "config.steps: 5 → 9",
        "config.generator.latent_dim: 4 → 8",
        "code: bb → cc",
    ]


def test_a_key_that_came_or_went_counts_as_changed() -> None:
    assert checkpoint.differences({"a": 1, "b": {"c": 2}}, {"b": {"d": None}}) == [
        "a: 1 → absent",
        "b.c: 2 → absent",
        "b.d: absent → None",
    ]


def test_another_format_is_passed_over(tmp_path: Path) -> None:
    file = save(tmp_path, stepped(new(), 1)) / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 0}))
    (note,) = checkpoint.load(tmp_path, new(), IDENTITY).notes
    assert "has format 0; this genpipe reads 1" in note


def test_a_checkpoint_of_a_newer_genpipe_is_refused_and_stays(tmp_path: Path) -> None:
    file = save(tmp_path, stepped(new(), 1)) / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 99}))
    with pytest.raises(FormatError, match=r"is of format 99, made by a newer genpipe; .* reads format 1: upgrade it"):
        checkpoint.load(tmp_path, new(), IDENTITY)
    assert file.exists()


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    state = new()
    for step in (1, 2, 3, 10):
        save(tmp_path, stepped(state, step), keep=2)
    assert [folder.name for folder in checkpoint.found(tmp_path)] == ["step-00000010", "step-00000003"]


def test_a_save_that_fails_leaves_the_others_and_no_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = stepped(new(), 1)
    save(tmp_path, state)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "write_json", full)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path, stepped(state, 2))
    monkeypatch.undo()
    assert [folder.name for folder in checkpoint.found(tmp_path)] == ["step-00000001"]
    save(tmp_path, stepped(state, 3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]


def test_what_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    state = stepped(new(), 1)
    save(tmp_path, state)
    next(state.model.parts()["autoencoder"].parameters()).data[0] = torch.nan
    state.step = 2
    with pytest.raises(FloatingPointError, match=r"model\.autoencoder\..* is not finite at step 2"):
        save(tmp_path, state)
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-00000001"]


def test_which_training_it_is_needs_no_tensors(tmp_path: Path) -> None:
    (save(tmp_path, stepped(new(), 3)) / "state.safetensors").unlink()
    (save(tmp_path, stepped(new(), 4)) / "state.json").write_text("{")
    assert checkpoint.reached(tmp_path) == (IDENTITY, 3)
    assert checkpoint.reached(tmp_path / "none") is None


def test_no_pickle(tmp_path: Path) -> None:
    folder = save(tmp_path, stepped(new(), 1))
    assert sorted(path.name for path in folder.iterdir()) == ["state.json", "state.safetensors"]


def test_memory_takes_the_layout_of_its_parameter() -> None:
    layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    layer(torch.rand(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    before = optimizer.state[layer.weight]["exp_avg"].clone()
    memory = {f"{n}.{key}": value.contiguous() for n, values in optimizer.state_dict()["state"].items()
              for key, value in values.items()}  # fmt: skip
    checkpoint.remember(optimizer, memory)
    assert optimizer.state[layer.weight]["exp_avg"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(optimizer.state[layer.weight]["exp_avg"], before)
