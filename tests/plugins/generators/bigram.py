"""A toy kind for tokens: each follows from the one before it and the class, by counted frequencies that are learned."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genpipe.config import Field, settings
from genpipe.data.arrays import DataSpec
from genpipe.generators import Batch, Logged, Update
from genpipe.randomness import Noise

TOKENS = 128


@settings
class Config:
    """There is nothing to choose."""


@settings
class Sampling:
    temperature: float = Field(default=1.0, gt=0, description="below 1 the likely tokens come more often")


class Model(nn.Module):
    modalities: ClassVar[frozenset[str]] = frozenset({"tokens"})
    likelihood: ClassVar[bool] = True

    def __init__(self, cfg: Config, data: DataSpec) -> None:
        super().__init__()
        self.data = data
        self.table = nn.Embedding(len(data.classes) * TOKENS, TOKENS)
        nn.init.zeros_(self.table.weight)

    def takes(self) -> tuple[str, ...]:
        return ("label",)

    def compilable(self) -> tuple[str, ...]:
        return ()

    def parts(self) -> dict[str, nn.Module]:
        return {"table": self.table}

    def updates(self) -> Sequence[Update]:
        return [Update("table", self.loss)]

    def sampler(self) -> nn.Module:
        return self.table

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, Logged]:
        tokens = F.pad(batch["text"], (1, 0))  # (B, L + 1), a 0 in front
        logits = self.table(batch["label"][:, None] * TOKENS + tokens[:, :-1])  # (B, L, TOKENS)
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        return loss, {"nats_per_token": loss.detach()}

    @torch.no_grad()
    def sample(self, conditions: Batch, sampling: Sampling, noise: Noise) -> Tensor:
        (length,) = self.data.shape
        chance, drawn = noise.uniform(length), [torch.zeros_like(conditions["label"])]
        for place in range(length):
            logits = self.table(conditions["label"] * TOKENS + drawn[-1]) / sampling.temperature
            reached = logits.softmax(1).cumsum(1) < chance[:, place, None]
            drawn.append(reached.sum(1).clamp(max=TOKENS - 1))
        return torch.stack(drawn[1:], 1)
