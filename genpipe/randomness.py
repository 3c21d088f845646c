"""Randomness that follows from whole numbers, so that nothing has to be stored to repeat it.

A training draw follows from (seed, step, update, micro-batch); a sample follows from (seed, its number).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def seed_from(*integers: int) -> int:
    """A 63-bit seed that differs for different tuples (NumPy's SeedSequence mixes them)."""
    return int(np.random.SeedSequence(integers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Noise:
    """Noise for the samples numbered `first` to `first + count - 1` of a draw, each from a CPU generator of its own.

    So a sample is the same whether it is drawn alone, in a chunk or on another device.
    """

    def __init__(self, seed: int, count: int, first: int = 0, device: torch.device | str = "cpu") -> None:
        self.count, self.device = count, torch.device(device)
        self._generators = [torch.Generator().manual_seed(seed_from(seed, first + n)) for n in range(count)]

    def normal(self, *shape: int) -> Tensor:
        """Unit normal values of shape (count, *shape); each call goes on where the last one ended."""
        return self._draw(torch.randn, shape)

    def uniform(self, *shape: int) -> Tensor:
        """Values in [0, 1) of shape (count, *shape)."""
        return self._draw(torch.rand, shape)

    def _draw(self, draw: Callable[..., Tensor], shape: Sequence[int]) -> Tensor:
        return torch.stack([draw(*shape, generator=generator) for generator in self._generators]).to(self.device)
