"""Fully connected variational autoencoder: Kingma & Welling 2013 (arXiv 1312.6114).

The likelihood is Bernoulli (appendix C.1). The KL's weight is that of Higgins et al. 2017 (beta-VAE), raised
from 0 as in Bowman et al. 2015 (arXiv 1511.06349).

Shapes: B batch, D values of an example (C · H · W), Z latent size. Images are in [-1, 1] outside, in [0, 1] within the
likelihood, where a grey level is the probability of white.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genpipe.config import Field, settings
from genpipe.data.arrays import DataSpec
from genpipe.generators import Batch, Logged, Update
from genpipe.nn.dense import dense
from genpipe.nn.labels import classes_of, with_labels
from genpipe.randomness import Noise

ACTIVE_NATS = 0.01  # a latent dimension that tells the decoder less than this is unused


@settings
class Config:
    latent_dim: int = Field(default=16, ge=1, description="size of the code of an example")
    hidden_dim: int = Field(default=256, ge=1, description="width of the hidden layers of both networks")
    layers: int = Field(default=2, ge=1, le=16, description="hidden layers of each network")
    conditional: bool = Field(default=True, description="decode the class that is asked for; needs labelled data")
    kl_weight: float = Field(default=1.0, ge=0, description="1 is the bound itself; less gives sharper examples")
    kl_warmup_steps: int = Field(default=0, ge=0, description="steps in which the weight rises from 0, evenly")


@settings
class Sampling:
    temperature: float = Field(default=1.0, gt=0, le=2, description="deviation of the code; less is safer, more varied")
    output: Literal["mean", "draw"] = Field(default="mean", description="grey levels, or black and white drawn by them")


class Model(nn.Module):
    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    likelihood: ClassVar[bool] = True

    def __init__(self, cfg: Config, data: DataSpec) -> None:
        super().__init__()
        self.cfg, self.data = cfg, data
        self.classes = classes_of(data, cfg.conditional)
        width = math.prod(data.shape)
        self.networks = nn.ModuleDict(
            {
                "encoder": dense(width + self.classes, cfg.hidden_dim, 2 * cfg.latent_dim, cfg.layers),
                "decoder": dense(cfg.latent_dim + self.classes, cfg.hidden_dim, width, cfg.layers),
            }
        )

    def takes(self) -> tuple[str, ...]:
        return ("label",) if self.classes else ()

    def compilable(self) -> tuple[str, ...]:
        return ()  # the part is two networks and is never called as one

    def parts(self) -> dict[str, nn.Module]:
        return {"autoencoder": self.networks}

    def updates(self) -> Sequence[Update]:
        return [Update("autoencoder", self.loss)]

    def sampler(self) -> nn.Module:
        return self.networks  # with the encoder, for the bound of unseen examples

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, Logged]:
        """Minus the evidence lower bound in nats an example, equation 10 with one draw, its KL weighted."""
        nll, kl = self.bound(batch)  # (B,), (B, Z)
        logged = {
            "nll": nll.detach().mean(),
            "kl": kl.detach().sum(1).mean(),
            "active_units": (kl.detach().mean(0) > ACTIVE_NATS).float().mean(),
        }
        return nll.mean() + kl_weight(self.cfg, step) * kl.sum(1).mean(), logged

    def bound(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """−log p(x|z) (B,) for one z ~ q(z|x), and KL(q(z|x) ‖ p(z)) of each latent dimension (B, Z), in nats."""
        image = batch["image"].flatten(1)  # (B, D)
        code = self.networks["encoder"](with_labels(image, batch, self.classes)).float()
        mean, log_var = code.chunk(2, dim=1)  # (B, Z) each
        logits = self.decode(mean + torch.randn_like(mean) * (log_var / 2).exp(), batch)
        nll = F.binary_cross_entropy_with_logits(logits, (image + 1) / 2, reduction="none").sum(1)
        return nll, kl_to_unit_normal(mean, log_var)

    def decode(self, code: Tensor, batch: Batch) -> Tensor:
        """(B, Z) → logits (B, D)."""
        logits: Tensor = self.networks["decoder"](with_labels(code, batch, self.classes)).float()
        return logits

    @torch.no_grad()
    def sample(self, conditions: Batch, sampling: Sampling, noise: Noise) -> Tensor:
        code = sampling.temperature * noise.normal(self.cfg.latent_dim)
        white = self.decode(code, conditions).sigmoid()  # (B, D) in [0, 1]
        if sampling.output == "draw":
            white = (noise.uniform(white.shape[1]) < white).float()
        return (2 * white - 1).view(-1, *self.data.shape)


def kl_weight(cfg: Config, step: int) -> float:
    """Rises evenly from 0 at step 0 to `cfg.kl_weight` at step `cfg.kl_warmup_steps`."""
    return cfg.kl_weight * min(1.0, step / cfg.kl_warmup_steps) if cfg.kl_warmup_steps else cfg.kl_weight


def kl_to_unit_normal(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) ‖ N(0, 1)) in nats, each dimension by itself, appendix B: ½ (μ² + σ² − 1 − log σ²)."""
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var)
