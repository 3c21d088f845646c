"""What only a GPU can show, and the same on the CPU as far as it goes there.

`make gpu-check` runs what is marked `gpu`; on a machine without one, each test is listed with what it lacked.
"""

import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from genpipe import checkpoint, modalities, plugins, sampling, training
from genpipe.config import Choice, parse
from genpipe.curve import Curve
from genpipe.data.arrays import Arrays, DataSpec
from genpipe.data.batches import RESIDENT_BYTES, Batches
from genpipe.devices import PRECISIONS, Compute
from genpipe.errors import DeviceMemoryError
from genpipe.project import Project
from genpipe.stages import train
from genpipe.training import State
from tests.test_train_kill import STAGE, project_at

KINDS = plugins.names("genpipe.generators")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
BATCH, PIECES = 32, 2
PENALISED = {"gradient_penalty": 10, "loss": "wasserstein", "spectral_norm": False}
NEAR = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture(autouse=True)
def gpus(request: pytest.FixtureRequest) -> None:
    """Skip what needs more GPUs than there are, and say so."""
    if marker := request.node.get_closest_marker("gpu"):
        needed, here = (marker.args or (1,))[0], torch.cuda.device_count()
        if here < needed:
            pytest.skip(f"could not run: it needs {needed} GPU{'s' * (needed > 1)}, this machine has {here}")


def new(kind: str, digits: Path, compute: Compute, **options) -> State:
    config = parse(plugins.load("genpipe.generators", kind).Config, {"hidden_dim": 32, **options}, "train.generator")
    data = DataSpec.read(digits / "meta.json")
    return training.new_state(Choice("genpipe.generators", kind, config), data, settings(1), compute)


def settings(steps: int, **others) -> train.Config:
    return train.Config(steps=steps, batch_size=BATCH, micro_batches=PIECES, **others)


def batches(digits: Path, state: State, device: torch.device, resident_bytes: int = RESIDENT_BYTES) -> Batches:
    return Batches(
        Arrays(digits / "train"),
        "image",
        modalities.load("image").Augmentation(noise=0.1, rotation_degrees=5),
        size=BATCH // PIECES,
        micro_batches=PIECES,
        updates=len(state.model.updates()),
        seed=0,
        device=device,
        resident_bytes=resident_bytes,
    )


def fit(state: State, digits: Path, compute: Compute, steps: int, until: int | None = None) -> list[dict[str, float]]:
    """Train up to step `until` of a training of `steps`; what was logged."""
    running = training.fit(state, batches(digits, state, compute.device), settings(steps), compute)
    logged = islice(running, (until or steps) - state.step)
    return [{name: float(value) for name, value in values.items()} for values in logged]


def losses(state: State, digits: Path, compute: Compute) -> list[float]:
    """Of each update, on the same examples and noise whenever it is asked."""
    draw, found = batches(digits, state, compute.device), []
    for number, update in enumerate(state.model.updates()):
        compute.seed(0)
        with compute.autocast():
            found.append(float(update.loss(draw(0, number, 0), 0)[0].detach()))
    return found


def assert_near(one: State, other: State) -> None:
    """Names and values of all that a checkpoint holds."""
    first, second = checkpoint.packed(one)[0], checkpoint.packed(other)[0]
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], **NEAR, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("device", DEVICES)
def test_training_in_sixteen_bits_learns(kind: str, precision: str, device: str, digits: Path) -> None:
    compute = Compute(torch.device(device), PRECISIONS[precision])
    state = new(kind, digits, compute)
    before = losses(state, digits, compute)
    logged = fit(state, digits, compute, steps=60)
    assert any(now < then for now, then in zip(losses(state, digits, compute), before, strict=True))
    assert np.isfinite([list(values.values()) for values in logged]).all()
    assert all(weight.isfinite().all() for weight in state.model.state_dict().values())
    assert {weight.dtype for weight in state.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_step_that_overflows_is_skipped(kind: str, device: str, digits: Path) -> None:
    compute = Compute(torch.device(device), torch.float16)
    state = new(kind, digits, compute)
    for scaler in state.scalers.values():
        scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**126})
    before = [weight.clone() for weight in state.model.parameters()]
    (logged,) = fit(state, digits, compute, steps=1)
    assert all(map(torch.equal, before, state.model.parameters()))
    assert all(scaler.get_scale() < 2.0**126 for scaler in state.scalers.values())
    assert [value for name, value in logged.items() if name.endswith("gradient_norm")] == [0.0] * len(state.scalers)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler's own
@pytest.mark.parametrize(
    ("kind", "options"), [*((kind, {}) for kind in KINDS), ("gan", PENALISED)], ids=[*KINDS, "gan-penalised"]
)
@pytest.mark.parametrize("device", DEVICES)
def test_compiled_parts_train_as_eager_ones(kind: str, options: dict, device: str, digits: Path) -> None:
    compute = Compute(torch.device(device))
    eager, compiled = (new(kind, digits, compute, **options) for _ in range(2))
    prepare(compiled, digits, compute, compile=True)
    taken = compiled.model.compilable()
    assert {name for name, part in compiled.model.parts().items() if part._compiled_call_impl} == set(taken)
    expected, found = (fit(state, digits, compute, steps=3) for state in (eager, compiled))
    assert [values.keys() for values in found] == [values.keys() for values in expected]
    for one, other in zip(expected, found, strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-3)
    assert_near(eager, compiled)


def prepare(state: State, digits: Path, compute: Compute, **how: bool) -> None:
    """As the stage does it."""
    cfg, data = settings(3, **how), DataSpec.read(digits / "meta.json")
    train.prepare(train.Session(cfg, Project(digits), compute, data, {}, state, Curve(1)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_channels_last_changes_no_number(kind: str, device: str, digits: Path) -> None:
    compute = Compute(torch.device(device))
    plain, laid_out = (new(kind, digits, compute) for _ in range(2))
    prepare(laid_out, digits, compute, channels_last=True)
    for state in (plain, laid_out):
        fit(state, digits, compute, steps=3)
    assert_near(plain, laid_out)


@pytest.mark.parametrize("device", DEVICES)
def test_memory_that_is_full_is_told_with_its_remedy(device: str) -> None:
    told = r"train\.batch_size 32 in train\.micro_batches 2 puts 16 .* raise train\.micro_batches \(params\.yaml\)"
    with pytest.raises(DeviceMemoryError, match=told), train.remedies(settings(1)):
        fill(device)


def fill(device: str) -> None:
    """Ask a GPU for a pebibyte; a CPU's memory ends otherwise, so there the error is made."""
    if device == "cuda":
        torch.empty(2**50, dtype=torch.uint8, device=device)
    raise torch.OutOfMemoryError


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_resumed_run_goes_on_from_its_checkpoint(
    kind: str, precision: str, device: str, digits: Path, tmp_path: Path
) -> None:
    compute = Compute(torch.device(device), PRECISIONS[precision])
    whole, stopped, resumed = (new(kind, digits, compute) for _ in range(3))
    fit(whole, digits, compute, steps=8)
    fit(stopped, digits, compute, steps=8, until=5)
    checkpoint.save(tmp_path, stopped, {}, {}, keep=1)
    torch.rand(3, device=device)  # the world goes on between a kill and a resume
    checkpoint.load(tmp_path, resumed, {})
    assert resumed.step == 5
    fit(resumed, digits, compute, steps=8)
    assert_near(whole, resumed)


@pytest.mark.parametrize("device", DEVICES)
def test_mapped_columns_arrive_whole(device: str, digits: Path) -> None:
    place = torch.device(device)
    state = new("vae", digits, Compute())
    draws = [batches(digits, state, place, resident_bytes) for resident_bytes in (0, RESIDENT_BYTES)]
    for step in range(20):  # pinned memory is reused, and must not be before its copy is done
        (mapped, resident) = (seeded(draw, step, place) for draw in draws)
        assert all(torch.equal(mapped[name], resident[name]) for name in resident)


def seeded(draw: Batches, step: int, device: torch.device) -> dict[str, torch.Tensor]:
    Compute(device).seed(step)
    return draw(step, 0, 0)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_cpu_and_gpu_agree(kind: str, digits: Path) -> None:
    state = new(kind, digits, Compute())
    fit(state, digits, Compute(), steps=60)
    model, drawn = state.average, []
    for device in ("cpu", "cuda"):
        for part in model.parts().values():
            part.to(device)
        found = sampling.draw(model, 40, 3, sampling.chosen(model, {}), device=device)
        drawn.append(found["image"].astype(int))
    assert abs(drawn[0] - drawn[1]).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu(2))])
def test_two_processes_under_torchrun_end_as_one(device: str, digits: Path, tmp_path: Path) -> None:
    """The stage itself, with gloo on CPUs and nccl on GPUs."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    chosen = {"device": device, "precision": "fp32", "steps": 40, "micro_batches": 2, "log_every": 10}
    ends = []
    for name, launcher in (("one", []), ("two", torchrun)):
        (tmp_path / name).mkdir()
        project = project_at(tmp_path / name, digits, **chosen)
        call([*launcher, sys.executable, "-c", STAGE, str(project.root)])
        curve = np.genfromtxt(project.artifacts / "train" / "curves.csv", delimiter=",", skip_header=1)
        ends.append({**load_file(project.artifacts / "train" / "model.safetensors"), "curve": torch.from_numpy(curve)})
    torch.testing.assert_close(ends[0], ends[1], **NEAR)


def call(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
