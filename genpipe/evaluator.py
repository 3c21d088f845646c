"""The evaluator: a small network fitted to the real labels once, in whose features the metrics compare.

`genpipe.stages.calibrate` writes it as evaluator.safetensors and evaluator.json. Its digest stands beside every score:
scores of different evaluators are numbers of different scales.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from genpipe import modalities
from genpipe.data.arrays import DataSpec
from genpipe.errors import DataError

WEIGHTS, CARD = "evaluator.safetensors", "evaluator.json"
CHUNK = 512  # examples at a time
REFIT = "raise calibrate.seed (params.yaml) to fit a new one, and expect all scores to change scale"


@dataclass(frozen=True)
class Evaluator:
    data: DataSpec
    network: nn.Module
    digest: str

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "Evaluator":
        """From artifacts/calibrate. Raises DataError when it is absent, another network or not what its digest says."""
        if not (folder / CARD).exists():
            raise DataError(f"{folder / CARD} is absent; `genpipe run` or `dvc repro calibrate` writes it")
        card = json.loads((folder / CARD).read_text())
        data = DataSpec.of(card)
        network = build(data)
        try:
            network.load_state_dict(load_file(folder / WEIGHTS))
        except RuntimeError as error:
            raise DataError(f"{folder / WEIGHTS} is of another network than this version builds; {REFIT}") from error
        if digest_of(network, data) != card["digest"]:
            raise DataError(
                f"{folder / WEIGHTS} is not the evaluator that {CARD} names; `dvc checkout` restores both, or {REFIT}"
            )
        return cls(data, network.eval().to(device), card["digest"])

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def features(self, stored: np.ndarray) -> np.ndarray:
        """Examples as stored, (N, *shape) → (N, D) float64."""
        return self._in_chunks(stored, self.network.features)  # type: ignore[arg-type]  # a method of the network

    def predict(self, stored: np.ndarray) -> np.ndarray:
        """Examples as stored → (N,) numbers of the classes that they seem to be."""
        return self.classify(self.features(stored))

    def classify(self, features: np.ndarray) -> np.ndarray:
        """The same from (N, D) features that are there already."""
        with torch.inference_mode():
            logits: Tensor = self.network.classify(  # type: ignore[operator]
                torch.from_numpy(features).float().to(self.device)
            )
        return logits.argmax(1).cpu().numpy()

    def _in_chunks(self, stored: np.ndarray, function: Callable[[Tensor], Tensor]) -> np.ndarray:
        to_batch = modalities.load(self.data.modality).to_batch
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # or equal examples lie apart on a GPU
        with torch.inference_mode(), exact:
            found = [
                function(to_batch(torch.from_numpy(np.array(stored[start : start + CHUNK])).to(self.device)))
                for start in range(0, len(stored), CHUNK)
            ]
        return torch.cat(found).cpu().double().numpy()


def build(data: DataSpec) -> nn.Module:
    """A new network for examples like `data`, with weights from the default generator."""
    network: nn.Module = modalities.load(data.modality).evaluator(data.shape, len(data.classes))
    return network


def digest_of(network: nn.Module, data: DataSpec) -> str:
    """sha256 over what the network was built for, and each weight's name, shape and bytes."""
    found = hashlib.sha256(json.dumps(data.plain(), sort_keys=True).encode())
    for name, value in sorted(network.state_dict().items()):
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
