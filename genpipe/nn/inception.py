"""Inception v3 as the figures of papers use it (FID: Heusel et al. 2017, arXiv 1706.08500), by torch-fidelity.

Its weights are no part of genpipe: they come as a safetensors file, made once of the one that torch-fidelity publishes.
Shapes: B images, K classes, D = 2048 features.
"""

import io
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from genpipe.errors import DataError

FEATURES = 2048
PACKAGE = "torch-fidelity>=0.4,<0.5"
PUBLISHED = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INPUT = "pictures in three channels, resized to 299 × 299, bilinear as in TensorFlow 1, not antialiased"
REMEDY = f"""To have it:
  pip install "{PACKAGE}"
  curl -LO {PUBLISHED}
  python -c "import sys, torch, safetensors.torch as s; s.save_file(torch.load(sys.argv[1], weights_only=True), sys.argv[2])" {PUBLISHED.rpartition("/")[2]} inception.safetensors
and set calibrate.weights: inception.safetensors (params.yaml); or leave calibrate.extractor at its default, fitted"""  # noqa: E501


class Inception(nn.Module):
    """Features before the last layer, and a linear layer on them that `calibrate` fits if there are classes."""

    def __init__(self, weights: Mapping[str, Tensor], classes: int) -> None:
        """Raises DataError when torch-fidelity is absent or the weights are those of another network."""
        super().__init__()
        self.inception = network(weights)
        self.head = nn.Linear(FEATURES, classes) if classes else None

    def features(self, batch: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) in [-1, 1] → (B, D), of its pixels as the nearest of 256 levels."""
        levels = batch.add(1).mul(127.5).round().clamp(0, 255).byte()
        found: Tensor = self.inception(levels.expand(-1, 3, -1, -1))[0]
        return found

    def classify(self, features: Tensor) -> Tensor:
        """(B, D) → (B, K) logits."""
        if self.head is None:
            raise ValueError("fitted without classes: it has features only")
        logits: Tensor = self.head(features)
        return logits

    def forward(self, batch: Tensor) -> Tensor:
        return self.classify(self.features(batch))


def network(weights: Mapping[str, Tensor]) -> nn.Module:
    """torch-fidelity's network. It unpickles the file that it is given: here bytes made a moment ago of `weights`."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise DataError(f"calibrate.extractor is 'inception', and torch-fidelity is not installed. {REMEDY}") from error
    own = io.BytesIO()
    torch.save(dict(weights), own)
    own.seek(0)
    try:
        found: nn.Module = FeatureExtractorInceptionV3("inception", [str(FEATURES)], own)
    except RuntimeError as error:
        raise DataError(f"calibrate.weights are not those of torch-fidelity's Inception v3. {REMEDY}") from error
    return found
