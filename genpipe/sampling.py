"""Drawing examples from a model, in the stored form."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from genpipe import generators, modalities
from genpipe.config import parse
from genpipe.data.arrays import DataSpec
from genpipe.errors import DataError
from genpipe.generators import Model
from genpipe.randomness import Noise

CHUNK = 128


def draw(
    model: Model,
    count: int,
    seed: int,
    sampling: Any,
    labels: Sequence[int] | np.ndarray | None = None,
    *,
    chunk: int = CHUNK,
    device: torch.device | str = "cpu",
) -> dict[str, np.ndarray]:
    """`count` examples as columns: the content as stored, and `label` for a conditional model.

    Labels are 0, 1, … repeating unless given. Sample n follows from (seed, n) alone: every chunk is made full, for the
    last bits of a matrix product depend on its number of rows.
    """
    modality, classes = modalities.load(model.data.modality), len(model.data.classes)
    conditional = "label" in model.takes()
    wanted = np.arange(count) % max(classes, 1) if labels is None else np.asarray(labels)
    if len(wanted) != count or not np.isin(wanted, np.arange(max(classes, 1))).all():
        raise ValueError(f"labels must be {count} numbers from 0 to {max(classes, 1) - 1}, one a sample")
    size, pieces = min(chunk, count), []
    for first in range(0, count, size):
        given = torch.from_numpy(np.resize(wanted[first : first + size], size).astype(np.int64)).to(device)
        noise = Noise(seed, size, first, device)
        with torch.inference_mode():
            samples = model.sample({"label": given} if conditional else {}, sampling, noise)
        pieces.append(modality.to_stored(samples).cpu().numpy())
    columns = {modality.CONTENT: np.concatenate(pieces)[:count]}
    return {**columns, "label": wanted.astype(np.int64)} if conditional else columns


def chosen(model: Model, given: Mapping[str, Any]) -> Any:
    """What a caller asks as the Sampling of the model's kind. Raises ConfigError for what it doesn't know."""
    return parse(sys.modules[type(model).__module__].Sampling, given, "sampling")


def load(folder: Path) -> Model:
    """The trained model in `folder`: config.json and model.safetensors. DataError when train has not written them."""
    file = folder / "config.json"
    if not file.exists():
        raise DataError(f"{file} is absent; `genpipe run` or `dvc repro train` writes it")
    config = json.loads(file.read_text(encoding="utf-8"))
    chosen = dict(config["train"]["generator"])
    kind = chosen.pop("kind")
    settings = parse(generators.load(kind).Config, chosen, "train.generator")
    model = generators.build(kind, settings, DataSpec.of(config["data"]))
    model.sampler().load_state_dict(load_file(folder / "model.safetensors"))
    for part in model.parts().values():
        part.requires_grad_(False).eval()
    return model
