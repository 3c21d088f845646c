"""Spectral normalisation: Miyato et al. 2018 (arXiv 1802.05957).

PyTorch's own advances its power iteration at every forward pass, so that gradients depend on how often a batch is cut.
Here the iteration advances once an optimizer step, when the loop calls `after_step`: every micro-batch, and every
process, meets the same weight.

Shapes: R rows (outputs) and C columns (all the rest) of a weight seen as a matrix.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

FIRST_ITERATIONS = 20  # from random vectors; afterwards the weight moves little and one a step is enough


class SpectralNorm(nn.Module):
    """W → W / σ(W), equation 8, with σ = uᵀWv and u, v followed as in algorithm 1."""

    left: Tensor  # u (R,)
    right: Tensor  # v (C,)

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self._weight = (weight,)  # in a tuple, for it is the layer's and no parameter of this module
        rows, columns = weight.flatten(1).shape
        self.register_buffer("left", F.normalize(torch.randn(rows), dim=0))
        self.register_buffer("right", F.normalize(torch.randn(columns), dim=0))
        for _ in range(FIRST_ITERATIONS):
            self.after_step()

    def forward(self, weight: Tensor) -> Tensor:
        # Element by element, since autocast would round matrix products to 16 bits.
        return weight / (self.left[:, None] * weight.flatten(1) * self.right).sum()

    @torch.no_grad()
    def after_step(self) -> None:
        """One power iteration: v ← Wᵀu / ‖Wᵀu‖, u ← Wv / ‖Wv‖."""
        matrix = self._weight[0].flatten(1)
        self.right.copy_(F.normalize(torch.mv(matrix.T, self.left), dim=0))
        self.left.copy_(F.normalize(torch.mv(matrix, self.right), dim=0))


def spectrally_normalised(network: nn.Module) -> nn.Module:
    """`network` with the weight of each dense and convolutional layer divided by its largest singular value."""
    for layer in list(network.modules()):
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))
    return network
