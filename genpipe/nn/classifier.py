"""A small convolutional classifier: the metrics compare images in its features, and read labels from its logits.

Shapes: B images, C channels, H height, W width, K classes.
"""

from torch import Tensor, nn

FEATURES = 64


class ConvClassifier(nn.Module):
    """Convolutions that halve the image until neither side is above 4, then two dense layers."""

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU()]
        maps = 32
        while max(height, width) > 4:
            layers += [nn.Conv2d(maps, 64, 3, stride=2, padding=1), nn.GroupNorm(8, 64), nn.ReLU()]
            maps, height, width = 64, (height + 1) // 2, (width + 1) // 2
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(maps * height * width, FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, classes)

    def features(self, batch: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] → (B, 64), before the last layer."""
        found: Tensor = self.trunk(batch)
        return found

    def classify(self, features: Tensor) -> Tensor:
        """(B, 64) → (B, K) logits."""
        logits: Tensor = self.head(features)
        return logits

    def forward(self, batch: Tensor) -> Tensor:
        return self.classify(self.features(batch))
