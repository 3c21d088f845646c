"""Labels as an input of dense networks.

Shapes: B batch, D width, K classes (0 when nothing is conditional).
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from genpipe.data.arrays import DataSpec


def classes_of(data: DataSpec, conditional: bool) -> int:
    """K for a conditional model, else 0. Raises ValueError when a condition is asked of data without classes."""
    if conditional and not data.classes:
        raise ValueError("train.generator.conditional is true, but the data have no classes; set it to false")
    return len(data.classes) if conditional else 0


def with_labels(inputs: Tensor, batch: Mapping[str, Tensor], classes: int) -> Tensor:
    """Append batch["label"] (B,), one-hot: (B, D) → (B, D + K)."""
    if not classes:
        return inputs
    return torch.cat([inputs, F.one_hot(batch["label"], classes).to(inputs.dtype)], 1)
