"""A toy kind: one learned mean image a class, blurred by noise. It shows all that a new file has to offer."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from genpipe.config import Field, settings
from genpipe.data.arrays import DataSpec
from genpipe.generators import Batch, Logged, Update
from genpipe.randomness import Noise


@settings
class Config:
    start: float = Field(default=0.0, ge=-1, le=1, description="grey of the first blots")


@settings
class Sampling:
    spread: float = Field(default=0.1, ge=0, description="deviation of the noise on a blot")


class Model(nn.Module):
    modalities: ClassVar[frozenset[str]] = frozenset({"image"})
    likelihood: ClassVar[bool] = False

    def __init__(self, cfg: Config, data: DataSpec) -> None:
        super().__init__()
        self.data = data
        self.blots = nn.Embedding(len(data.classes), torch.Size(data.shape).numel())
        nn.init.constant_(self.blots.weight, cfg.start)

    def takes(self) -> tuple[str, ...]:
        return ("label",)

    def compilable(self) -> tuple[str, ...]:
        return ()

    def parts(self) -> dict[str, nn.Module]:
        return {"blots": self.blots}

    def updates(self) -> Sequence[Update]:
        return [Update("blots", self.loss)]

    def sampler(self) -> nn.Module:
        return self.blots

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, Logged]:
        loss = (self.blots(batch["label"]) - batch["image"].flatten(1)).square().mean()
        return loss, {"squared_error": loss.detach()}

    @torch.no_grad()
    def sample(self, conditions: Batch, sampling: Sampling, noise: Noise) -> Tensor:
        drawn = self.blots(conditions["label"]) + sampling.spread * noise.normal(self.blots.embedding_dim)
        return drawn.view(-1, *self.data.shape)
