"""Two processes on one machine: the numbers of one, and a checkpoint that one alone resumes."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import multiprocessing

from genpipe import checkpoint, devices, modalities, training
from genpipe.config import Choice
from genpipe.data.arrays import Arrays, DataSpec
from genpipe.data.batches import Batches
from genpipe.devices import Compute
from genpipe.generators import gan, vae
from genpipe.training import Config, State

CHOICES = {
    "gan": gan.Config(hidden_dim=32, spectral_norm=True, critic_updates=2),
    "gan-penalty": gan.Config(hidden_dim=32, spectral_norm=False, gradient_penalty=10, loss="wasserstein"),
    "vae": vae.Config(hidden_dim=32),
}
STEPS, HALF = 8, 5
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def new(name: str, digits: Path, compute: Compute) -> tuple[State, Batches, Config]:
    cfg = Config(steps=STEPS, batch_size=32, micro_batches=2)
    data = DataSpec.read(digits / "meta.json")
    state = training.new_state(Choice("genpipe.generators", name.partition("-")[0], CHOICES[name]), data, cfg, compute)
    draw = Batches(
        Arrays(digits / "train"),
        "image",
        modalities.load("image").Augmentation(noise=0.1),
        size=16,
        micro_batches=2,
        updates=len(state.model.updates()),
        seed=0,
        device=compute.device,
    )
    return state, draw, cfg


def fit(name: str, digits: Path, compute: Compute, until: int, folder: Path | None = None) -> State:
    """Train up to a step, from the checkpoint in `folder` if one is given."""
    state, draw, cfg = new(name, digits, compute)
    if folder:
        checkpoint.load(folder, state, {})
    for logged in training.fit(state, draw, cfg, compute):
        if state.step == until:
            state.last = {key: float(value) for key, value in logged.items()}
            break
    return state


def work(rank: int, port: int, name: str, digits: Path, folder: Path) -> None:
    """What each process does: train half of the steps together; the first one writes the checkpoint."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with devices.joined("cpu", "fp32") as compute:
        state = fit(name, digits, compute, HALF)
        asked = [compute.any(False), compute.any(rank == 1)]
        if compute.leads:
            checkpoint.save(folder, state, {}, {"asked": asked, "last": state.last}, keep=1)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOICES)
def test_two_processes_compute_what_one_does(name: str, digits: Path, tmp_path: Path) -> None:
    multiprocessing.spawn(work, (free_port(), name, digits, tmp_path), nprocs=2)
    alone = fit(name, digits, Compute(), HALF)
    together, *_ = new(name, digits, Compute())
    noted = checkpoint.load(tmp_path, together, {}).curve
    assert noted["asked"] == [False, True]
    assert noted["last"] == pytest.approx(alone.last, rel=1e-4, abs=1e-5)
    compare(alone, together)
    compare(fit(name, digits, Compute(), STEPS), fit(name, digits, Compute(), STEPS, tmp_path))


def compare(one: State, other: State) -> None:
    """Weights, their averages and the optimizers' memory, the gradients' trace."""
    first, second = checkpoint.packed(one)[0], checkpoint.packed(other)[0]
    assert one.step == other.step
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], **CLOSE, msg=lambda text, key=key: f"{key}: {text}")


def test_alone_there_is_nothing_to_join() -> None:
    with devices.joined("cpu", "fp32") as compute:
        assert (compute.rank, compute.world, compute.leads) == (0, 1, True)
        kept = torch.from_numpy(np.arange(3.0))
        compute.add_up([kept])
        assert kept.tolist() == [0, 1, 2]
