"""The evaluator: a network in whose features the metrics compare; it is made once and kept.

It is a small one fitted to the real labels, or without labels to a pretext task of the modality, or Inception v3.
`genpipe.stages.calibrate` writes it as evaluator.safetensors and evaluator.json. Its digest stands beside every score:
scores of different evaluators are numbers of different scales.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from genpipe import modalities
from genpipe.data.arrays import DataSpec
from genpipe.errors import DataError
from genpipe.nn.inception import INPUT

WEIGHTS, CARD = "evaluator.safetensors", "evaluator.json"
REFIT = "raise calibrate.seed (params.yaml) to fit a new one, and expect all scores to change scale"


Extractor = Literal["fitted", "inception"]
CHUNK: dict[Extractor, int] = {"fitted": 512, "inception": 32}  # examples at a time


@dataclass(frozen=True)
class Evaluator:
    data: DataSpec
    network: nn.Module
    digest: str
    extractor: Extractor = "fitted"

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "Evaluator":
        """From artifacts/calibrate. Raises DataError when it is absent, another network or not what its digest says."""
        if not (folder / CARD).exists():
            raise DataError(f"{folder / CARD} is absent; `genpipe run` or `dvc repro calibrate` writes it")
        card = json.loads((folder / CARD).read_text())
        data, extractor, weights = DataSpec.of(card), card["settings"]["extractor"], load_file(folder / WEIGHTS)
        network = build(data) if extractor == "fitted" else pretrained(data, within(weights, "inception."))
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise DataError(f"{folder / WEIGHTS} is of another network than this version builds; {REFIT}") from error
        if digest_of(network, data) != card["digest"]:
            raise DataError(
                f"{folder / WEIGHTS} is not the evaluator that {CARD} names; `dvc checkout` restores both, or {REFIT}"
            )
        return cls(data, network.eval().to(device), card["digest"], extractor)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def classifies(self) -> bool:
        """Whether it tells the data's classes apart, so that label agreement can be asked of it."""
        return tells_classes(self.data)

    @property
    def about(self) -> str:
        """What it is, for cards and the report."""
        if self.extractor == "inception":
            return f"features of Inception v3 of 2015, by torch-fidelity {version('torch-fidelity')}, of {INPUT}"
        if self.classifies:
            return f"features of a network that was fitted to tell the {len(self.data.classes)} classes apart"
        why = "the data have a single class" if self.data.classes else "the data have no labels"
        return f"features of a network that {modalities.load(self.data.modality).PRETEXT}, since {why}"

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
        to_batch, size = modalities.load(self.data.modality).to_batch, CHUNK[self.extractor]
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # or equal examples lie apart on a GPU
        with torch.inference_mode(), exact:
            found = [
                function(to_batch(torch.from_numpy(np.array(stored[start : start + size])).to(self.device)))
                for start in range(0, len(stored), size)
            ]
        return torch.cat(found).cpu().double().numpy()


def tells_classes(data: DataSpec) -> bool:
    """Whether there is something to tell: of a single class nothing is learnt."""
    return len(data.classes) > 1


def build(data: DataSpec) -> nn.Module:
    """A new network for examples like `data`, with weights from the default generator.

    It tells the classes apart, or the targets of a pretext task. Raises DataError when there is neither.
    """
    modality = modalities.load(data.modality)
    if not tells_classes(data) and not hasattr(modality, "pretext"):
        raise DataError(
            f"the data have no labels to tell apart, and the modality {data.modality!r} has no pretext task: the "
            "evaluator has nothing to be fitted to; ingest data with a column `label`, and its names under `classes` "
            "in dataset.yaml"
        )
    outputs = len(data.classes) if tells_classes(data) else modality.PRETEXT_CLASSES
    network: nn.Module = modality.evaluator(data.shape, outputs)
    return network


def pretrained(data: DataSpec, weights: Mapping[str, Tensor]) -> nn.Module:
    """Inception v3 with `weights`, and a new last layer if there are classes. Raises DataError when it can't be had."""
    modality = modalities.load(data.modality)
    if not hasattr(modality, "pretrained"):
        raise DataError(
            f"calibrate.extractor is 'inception', which sees pictures, and the data are {data.modality}; "
            "leave it at its default, fitted (params.yaml)"
        )
    network: nn.Module = modality.pretrained(weights, len(data.classes) if tells_classes(data) else 0)
    return network


def within(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those of the part with this prefix, by their names in it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def digest_of(network: nn.Module, data: DataSpec) -> str:
    """sha256 over what the network was built for, and each weight's name, shape and bytes."""
    found = hashlib.sha256(json.dumps(data.plain(), sort_keys=True).encode())
    for name, value in sorted(network.state_dict().items()):
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
