"""A multilayer perceptron."""

from itertools import pairwise

from torch import nn


def dense(width_in: int, hidden: int, width_out: int, layers: int) -> nn.Sequential:
    """`layers` hidden layers with leaky rectifiers, then a linear one: (B, width_in) → (B, width_out)."""
    widths = [width_in, *[hidden] * layers]
    blocks: list[nn.Module] = []
    for narrow, wide in pairwise(widths):
        blocks += [nn.Linear(narrow, wide), nn.LeakyReLU(0.2)]
    return nn.Sequential(*blocks, nn.Linear(widths[-1], width_out))
