"""What every kind of generator keeps to, found by name: one set of tests for all."""

from copy import deepcopy
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from genpipe import checkpoint, generators, modalities, plugins, sampling, training
from genpipe.config import Choice, parse
from genpipe.data.arrays import DataSpec
from genpipe.data.batches import Batches
from genpipe.devices import Compute
from genpipe.training import State

KINDS = plugins.names("genpipe.generators")
SHAPES = {"grey": (1, 8, 8), "rgb": (3, 8, 8)}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
STEPS = 10


def choice(kind: str, conditional: bool = True) -> Choice:
    module = plugins.load("genpipe.generators", kind)
    given = {"hidden_dim": 32, "conditional": conditional}
    return Choice("genpipe.generators", kind, parse(module.Config, given, "train.generator"))


def data_of(shape: tuple[int, ...], conditional: bool = True) -> DataSpec:
    return DataSpec("image", shape, ("a", "b", "c") if conditional else ())


def new(kind: str, shape=(1, 8, 8), dtype=torch.float32, conditional=True) -> tuple[State, Batches, training.Config]:
    cfg = training.Config(steps=STEPS, batch_size=16, micro_batches=2)
    compute, data = Compute(dtype=dtype), data_of(shape, conditional)
    state = training.new_state(choice(kind, conditional), data, cfg, compute)
    rng = np.random.default_rng(0)
    columns = {"image": rng.integers(0, 256, (50, *shape), dtype=np.uint8), "label": rng.integers(0, 3, 50)}
    draw = Batches(
        columns if conditional else {"image": columns["image"]},
        "image",
        modalities.load("image").Augmentation(noise=0.1),
        size=8,
        micro_batches=2,
        updates=len(state.model.updates()),
        seed=0,
        device=compute.device,
    )
    return state, draw, cfg


def fitted(kind: str, steps: int, **how) -> State:
    state, draw, cfg = new(kind, **how)
    list(islice(training.fit(state, draw, cfg, Compute(dtype=how.get("dtype", torch.float32))), steps))
    return state


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == again and torch.equal(a, b) for (name, a), (again, b) in pairs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("conditional", [True, False])
def test_one_step_moves_every_parameter(kind: str, conditional: bool) -> None:
    state, draw, cfg = new(kind, conditional=conditional)
    before = deepcopy(state.model)
    next(training.fit(state, draw, cfg, Compute()))
    moved = dict(state.model.named_parameters())
    assert [name for name, value in before.named_parameters() if torch.equal(value, moved[name])] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_belongs_to_one_part(kind: str) -> None:
    model = new(kind)[0].model
    of_parts = [id(param) for part in model.parts().values() for param in part.parameters()]
    assert sorted(of_parts) == sorted(id(param) for param in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_a_resumed_run_ends_with_the_same_bits(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    whole = fitted(kind, STEPS, dtype=dtype)
    checkpoint.save(tmp_path, fitted(kind, 4, dtype=dtype), {}, {}, keep=1)
    torch.rand(3)  # the world goes on between a kill and a resume
    resumed, draw, cfg = new(kind, dtype=dtype)
    checkpoint.load(tmp_path, resumed, {})
    assert len(list(training.fit(resumed, draw, cfg, Compute(dtype=dtype)))) == STEPS - 4
    assert same(whole.model, resumed.model)
    assert same(whole.average.sampler(), resumed.average.sampler())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("conditional", [True, False])
def test_samples_are_examples_that_follow_from_the_seed(kind: str, shape: tuple[int, ...], conditional: bool) -> None:
    model = fitted(kind, 2, shape=shape, conditional=conditional).average
    chosen = sampling.chosen(model, {})
    drawn = sampling.draw(model, 20, 7, chosen)
    assert drawn["image"].shape == (20, *shape)
    assert drawn["image"].dtype == np.uint8
    assert drawn.get("label", np.arange(0)).tolist() == ([n % 3 for n in range(20)] if conditional else [])
    assert (sampling.draw(model, 20, 7, chosen)["image"] == drawn["image"]).all()
    assert (sampling.draw(model, 20, 8, chosen)["image"] != drawn["image"]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_the_same_in_any_chunk(kind: str) -> None:
    model = fitted(kind, 2).average
    chosen = sampling.chosen(model, {})
    whole = sampling.draw(model, 20, 7, chosen)["image"].astype(int)
    for chunk in (1, 6, 64):
        assert abs(sampling.draw(model, 20, 7, chosen, chunk=chunk)["image"] - whole).max() <= 1
    few, many = (sampling.draw(model, count, 7, chosen, chunk=6)["image"] for count in (13, 20))
    assert (few == many[:13]).all()  # to the bit: chunks are of one size


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_keeps_to_its_label(kind: str) -> None:
    model = fitted(kind, 2).average
    drawn = sampling.draw(model, 4, 0, sampling.chosen(model, {}), labels=[2, 0, 1, 1])
    assert drawn["label"].tolist() == [2, 0, 1, 1]
    with pytest.raises(ValueError, match="numbers from 0 to 2"):
        sampling.draw(model, 2, 0, sampling.chosen(model, {}), labels=[0, 3])


@pytest.mark.parametrize("kind", KINDS)
def test_a_condition_needs_classes(kind: str) -> None:
    with pytest.raises(ValueError, match=r"conditional is true, but the data have no classes; set it to false"):
        generators.build(kind, choice(kind).config, data_of((1, 8, 8), conditional=False))


@pytest.mark.parametrize("kind", KINDS)
def test_another_modality_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=f"generator '{kind}' makes image; the data are of modality 'text'"):
        generators.build(kind, choice(kind).config, DataSpec("text", (12,), ("a",)))
