"""A small convolutional classifier: the metrics compare images in its features, and read labels from its logits.

Shapes: B images, C channels, S their height and width, K classes.
"""

from torch import Tensor, nn

FEATURES = 64


class ConvClassifier(nn.Module):
    """Convolutions that halve the image until it is at most 4 × 4, then two dense layers."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        if size < 8:
            raise ValueError(f"images of {size} pixels are too small to be told apart by convolutions; at least 8")
        layers: list[nn.Module] = [nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU()]
        width = 32
        while size > 4:
            layers += [nn.Conv2d(width, 64, 3, stride=2, padding=1), nn.GroupNorm(8, 64), nn.ReLU()]
            width, size = 64, (size + 1) // 2
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * size * size, FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, classes)

    def features(self, batch: Tensor) -> Tensor:
        """(B, C, S, S) in [-1, 1] → (B, 64), before the last layer."""
        found: Tensor = self.trunk(batch)
        return found

    def classify(self, features: Tensor) -> Tensor:
        """(B, 64) → (B, K) logits."""
        logits: Tensor = self.head(features)
        return logits

    def forward(self, batch: Tensor) -> Tensor:
        return self.classify(self.features(batch))
