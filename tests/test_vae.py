"""The VAE's formulas, against numbers worked out by hand."""

import math

import pytest
import torch

from genpipe.data.arrays import DataSpec
from genpipe.generators import vae
from genpipe.randomness import Noise


def model_of(**options) -> vae.Model:
    torch.manual_seed(0)
    return vae.Model(vae.Config(hidden_dim=16, latent_dim=4, **options), DataSpec("image", (1, 8, 8), ("a", "b")))


def batch() -> dict[str, torch.Tensor]:
    return {"image": torch.rand(6, 1, 8, 8) * 2 - 1, "label": torch.arange(6) % 2}


def test_kl_of_a_shift_by_two_is_two_nats() -> None:
    kl = vae.kl_to_unit_normal(torch.tensor([[2.0, 0.0]]), torch.zeros(1, 2))
    torch.testing.assert_close(kl, torch.tensor([[2.0, 0.0]]))  # 2² / 2


def test_kl_of_a_narrow_code() -> None:
    kl = vae.kl_to_unit_normal(torch.zeros(1, 1), torch.tensor([[math.log(0.25)]]))
    torch.testing.assert_close(kl, torch.tensor([[0.5 * (0.25 - 1 + math.log(4))]]))


def test_the_bound_of_a_network_that_knows_nothing() -> None:
    model = model_of()
    for weight in model.parameters():
        torch.nn.init.zeros_(weight)
    loss, logged = model.loss(batch(), 0)
    nats = 64 * math.log(2)  # each pixel is a fair coin, and q(z|x) is the prior
    assert loss.item() == pytest.approx(nats, rel=1e-5)
    assert {name: value.item() for name, value in logged.items()} == pytest.approx(
        {"nll": nats, "kl": 0.0, "active_units": 0.0}, rel=1e-5
    )


def test_the_weight_of_the_kl_rises_evenly() -> None:
    cfg = vae.Config(kl_weight=0.5, kl_warmup_steps=100)
    assert [vae.kl_weight(cfg, step) for step in (0, 50, 100, 200)] == [0.0, 0.25, 0.5, 0.5]
    assert vae.kl_weight(vae.Config(kl_weight=0.5), 0) == 0.5


def test_the_loss_is_nll_plus_weighted_kl() -> None:
    model = model_of(kl_weight=0.5)
    loss, logged = model.loss(batch(), 0)
    torch.testing.assert_close(loss.detach(), logged["nll"] + 0.5 * logged["kl"])


def test_active_units_are_the_dimensions_that_carry_something() -> None:
    model = model_of()
    last = model.networks["encoder"][-1]
    torch.nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor([1.0, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])  # KL 0.5, 0.005, 0, 0 nats
    assert model.loss(batch(), 0)[1]["active_units"].item() == 0.25


def test_a_draw_is_black_or_white_and_a_mean_is_grey() -> None:
    model, given = model_of(), {"label": torch.zeros(50, dtype=torch.long)}
    drawn = model.sample(given, vae.Sampling(output="draw"), Noise(0, 50))
    mean = model.sample(given, vae.Sampling(), Noise(0, 50))
    assert drawn.unique().tolist() == [-1, 1]
    assert mean.abs().max() < 1
