"""The GAN's formulas, against numbers worked out by hand."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from genpipe.data.arrays import DataSpec
from genpipe.generators import gan
from genpipe.nn.spectral import SpectralNorm, spectrally_normalised

DATA = DataSpec("image", (1, 8, 8), ("a", "b"))
REAL, FAKE = torch.tensor([[2.0], [0.0]]), torch.tensor([[-1.0], [3.0]])
close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("name", "critic", "painter"),
    [
        (
            "non-saturating",
            (softplus(-2) + softplus(0)) / 2 + (softplus(-1) + softplus(3)) / 2,
            (softplus(1) + softplus(-3)) / 2,
        ),
        ("hinge", (0 + 1) / 2 + (0 + 4) / 2, -1.0),
        ("least-squares", 0.5 * (1 + 1) / 2 + 0.5 * (1 + 9) / 2, 0.5 * (4 + 4) / 2),
        ("wasserstein", 1.0 - 1.0, -1.0),
    ],
)
def test_the_losses_by_hand(name: str, critic: float, painter: float) -> None:
    objective = gan.OBJECTIVES[name]
    close(objective.critic(REAL, FAKE), torch.tensor(critic))
    close(objective.painter(FAKE), torch.tensor(painter))


def model_of(**options) -> gan.Model:
    torch.manual_seed(0)
    return gan.Model(gan.Config(hidden_dim=16, **options), DATA)


def batch() -> dict[str, torch.Tensor]:
    return {"image": torch.rand(6, 1, 8, 8) * 2 - 1, "label": torch.arange(6) % 2}


def test_the_penalty_of_a_linear_critic() -> None:
    model = model_of(conditional=False)
    model.critic = nn.Linear(64, 1)
    nn.init.constant_(model.critic.weight, 0.5)  # slope of length 0.5 · √64 = 4 everywhere
    given = batch()
    close(model.penalty(given["image"].flatten(1), torch.zeros(6, 64), given), torch.tensor((4.0 - 1) ** 2))


def test_the_penalty_is_added_to_the_loss_and_stays_in_fp32_under_autocast() -> None:
    model, given = model_of(gradient_penalty=10.0, loss="wasserstein"), batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss, logged = model.critic_loss(given, 0)
    close(loss.detach(), logged["critic_loss"] + 10 * logged["gradient_penalty"])
    assert logged["gradient_penalty"].dtype == torch.float32
    loss.backward()
    assert model.critic[0].parametrizations.weight.original.grad.abs().sum() > 0


def test_the_painters_examples_are_in_range_and_truncation_narrows_them() -> None:
    model, label = model_of(), torch.zeros(500, dtype=torch.long)
    latent = torch.randn(500, model.cfg.latent_dim)
    wide, narrow = (model.paint(scale * latent, {"label": label}) for scale in (1.0, 0.1))
    assert wide.abs().max() <= 1
    assert narrow.std(0).mean() < wide.std(0).mean() / 5


def test_the_critics_part_is_not_compiled_under_a_penalty() -> None:
    assert model_of(gradient_penalty=1.0).compilable() == ("painter",)
    assert model_of().compilable() == ("critic", "painter")


@pytest.mark.parametrize("layer", [nn.Linear(12, 7), nn.Conv2d(3, 5, 3)])
def test_spectral_norm_divides_by_the_largest_singular_value(layer: nn.Module) -> None:
    torch.manual_seed(0)
    weight = layer.weight.detach().clone()
    spectrally_normalised(layer)
    (norm,) = layer.parametrizations.weight
    for _ in range(200):
        norm.after_step()
    close(layer.weight, weight / torch.linalg.svdvals(weight.flatten(1))[0], rtol=1e-4)


def test_spectral_norm_starts_near_and_follows_a_moving_weight() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(20, 30))
    norm = SpectralNorm(weight)
    assert torch.linalg.svdvals(norm(weight))[0].item() == pytest.approx(1, abs=0.05)
    for _ in range(50):
        weight.data += 0.01 * torch.randn(20, 30)
        norm.after_step()
    assert torch.linalg.svdvals(norm(weight))[0].item() == pytest.approx(1, abs=0.05)


def test_spectral_norm_advances_with_steps_and_not_with_forwards() -> None:
    torch.manual_seed(0)
    layer = spectrally_normalised(nn.Linear(30, 20))
    before = layer.weight.detach().clone()
    assert torch.equal(layer.weight, before)
    (norm,) = layer.parametrizations.weight
    norm.after_step()
    assert not torch.equal(layer.weight, before)
