"""Fully connected GAN: Goodfellow et al. 2014 (arXiv 1406.2661); labels as in Mirza & Osindero 2014 (arXiv 1411.1784).

Losses: non-saturating (Goodfellow et al., section 3), hinge (Lim & Ye 2017, arXiv 1705.02894), least squares (Mao et
al. 2017, arXiv 1611.04076, equation 9), Wasserstein with gradient penalty (Gulrajani et al. 2017, arXiv 1704.00028).

Shapes: B batch, D values of an example (C · H · W), Z latent size. Images are in [-1, 1].
"""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genpipe.config import Field, settings
from genpipe.data.arrays import DataSpec
from genpipe.generators import Batch, Logged, Update
from genpipe.nn.dense import dense
from genpipe.nn.labels import classes_of, with_labels
from genpipe.nn.spectral import spectrally_normalised
from genpipe.randomness import Noise


@settings
class Config:
    latent_dim: int = Field(default=64, ge=1, description="size of the noise that a picture is painted from")
    hidden_dim: int = Field(default=256, ge=1, description="width of the hidden layers of both networks")
    layers: int = Field(default=2, ge=1, le=16, description="hidden layers of each network")
    conditional: bool = Field(default=True, description="paint the class that is asked for; needs labelled data")
    loss: Literal["non-saturating", "hinge", "least-squares", "wasserstein"] = Field(
        default="non-saturating", description="what critic and painter minimise"
    )
    gradient_penalty: float = Field(default=0.0, ge=0, description="weight of the critic's slope; 10 with wasserstein")
    spectral_norm: bool = Field(default=True, description="keep the critic's slope at most about 1 by its weights")
    critic_updates: int = Field(default=1, ge=1, le=100, description="updates of the critic for one of the painter")


@settings
class Sampling:
    truncation: float = Field(default=1.0, gt=0, le=2, description="deviation of the noise; less is safer, more varied")


class Objective(NamedTuple):
    """What each network minimises, from the critic's scores (B, 1) of real and of painted examples."""

    critic: Callable[[Tensor, Tensor], Tensor]
    painter: Callable[[Tensor], Tensor]


OBJECTIVES = {
    "non-saturating": Objective(
        lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        lambda fake: F.softplus(-fake).mean(),
    ),
    "hinge": Objective(
        lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
        lambda fake: -fake.mean(),
    ),
    "least-squares": Objective(
        lambda real, fake: 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean(),
        lambda fake: 0.5 * (fake - 1).square().mean(),
    ),
    "wasserstein": Objective(
        lambda real, fake: fake.mean() - real.mean(),
        lambda fake: -fake.mean(),
    ),
}


class Model(nn.Module):
    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    likelihood: ClassVar[bool] = False

    def __init__(self, cfg: Config, data: DataSpec) -> None:
        super().__init__()
        self.cfg, self.data = cfg, data
        self.classes = classes_of(data, cfg.conditional)
        width = math.prod(data.shape)
        self.painter = nn.Sequential(dense(cfg.latent_dim + self.classes, cfg.hidden_dim, width, cfg.layers), nn.Tanh())
        critic = dense(width + self.classes, cfg.hidden_dim, 1, cfg.layers)
        self.critic = spectrally_normalised(critic) if cfg.spectral_norm else critic

    def takes(self) -> tuple[str, ...]:
        return ("label",) if self.classes else ()

    def compilable(self) -> tuple[str, ...]:
        return ("painter",) if self.cfg.gradient_penalty else ("critic", "painter")

    def parts(self) -> dict[str, nn.Module]:
        return {"critic": self.critic, "painter": self.painter}

    def updates(self) -> Sequence[Update]:
        return [Update("critic", self.critic_loss)] * self.cfg.critic_updates + [Update("painter", self.painter_loss)]

    def sampler(self) -> nn.Module:
        return self.painter

    def critic_loss(self, batch: Batch, step: int) -> tuple[Tensor, Logged]:
        """Tell real from painted; accuracy is how often the real one of a pair scores higher."""
        real = batch["image"].flatten(1)  # (B, D)
        with torch.no_grad():
            fake = self.paint(self.latent(real), batch)  # (B, D)
        both = torch.cat([with_labels(real, batch, self.classes), with_labels(fake, batch, self.classes)])
        on_real, on_fake = self.critic(both).float().chunk(2)  # (B, 1) each
        loss = OBJECTIVES[self.cfg.loss].critic(on_real, on_fake)
        accuracy = (on_real > on_fake).float().mean()
        logged = {"critic_loss": loss.detach(), "critic_accuracy": accuracy}
        if self.cfg.gradient_penalty:
            penalty = self.penalty(real, fake.float(), batch)
            loss = loss + self.cfg.gradient_penalty * penalty
            logged["gradient_penalty"] = penalty.detach()
        return loss, logged

    def painter_loss(self, batch: Batch, step: int) -> tuple[Tensor, Logged]:
        fake = self.paint(self.latent(batch["image"]), batch)
        score = self.critic(with_labels(fake, batch, self.classes)).float()  # (B, 1)
        loss = OBJECTIVES[self.cfg.loss].painter(score)
        return loss, {"painter_loss": loss.detach()}

    def penalty(self, real: Tensor, fake: Tensor, batch: Batch) -> Tensor:
        """Mean of (‖∇D(x̂)‖₂ − 1)² on lines between real and fake, Gulrajani et al. equation 3, in fp32."""
        with torch.autocast(real.device.type, enabled=False):
            between = torch.lerp(fake, real, torch.rand(len(real), 1, device=real.device)).requires_grad_()
            score = self.critic(with_labels(between, batch, self.classes)).sum()
            (slope,) = torch.autograd.grad(score, between, create_graph=True)  # (B, D)
            penalty: Tensor = (torch.linalg.vector_norm(slope, dim=1) - 1).square().mean()
        return penalty

    def latent(self, like: Tensor) -> Tensor:
        return torch.randn(len(like), self.cfg.latent_dim, device=like.device)  # (B, Z)

    def paint(self, latent: Tensor, batch: Batch) -> Tensor:
        """(B, Z) → (B, D) in [-1, 1]."""
        painted: Tensor = self.painter(with_labels(latent, batch, self.classes))
        return painted

    @torch.no_grad()
    def sample(self, conditions: Batch, sampling: Sampling, noise: Noise) -> Tensor:
        latent = sampling.truncation * noise.normal(self.cfg.latent_dim)
        return self.paint(latent, conditions).view(-1, *self.data.shape)
