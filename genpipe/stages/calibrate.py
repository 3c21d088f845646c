"""Makes the evaluator, in whose features samples and data are compared; then keeps it.

Reads artifacts/augment/{meta.json,train,validation}; writes artifacts/calibrate/{evaluator.safetensors,evaluator.json}.

It is a small network fitted to the real labels; without labels, to the modality's pretext task (for images: which
quarter turn was it?). `extractor: inception` takes Inception v3 instead, whose features papers report, and fits no more
than a linear layer on them, from which labels are read.

Frozen: figures of different weeks compare only in the same features, so an evaluator that was made with these settings,
for this shape and these classes, stays as it is, even if the data have grown. A changed setting refits it: raise
`calibrate.seed` to ask for a new one, and expect all scores to change scale.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from genpipe import modalities
from genpipe.config import Field, parse, plain, settings
from genpipe.data.arrays import Arrays, DataSpec
from genpipe.devices import CPU, Compute, choose_device
from genpipe.errors import DataError
from genpipe.evaluation.evaluator import (
    CARD,
    WEIGHTS,
    Evaluator,
    Extractor,
    build,
    digest_of,
    pretrained,
    tells_classes,
)
from genpipe.files import write_json, written_aside
from genpipe.nn.inception import REMEDY
from genpipe.project import Project
from genpipe.randomness import seed_from


@settings
class Config:
    seed: int = Field(default=0, ge=0, description="raise it to fit a new evaluator; scores before and after differ")
    steps: int = Field(default=400, ge=1, description="optimizer steps")
    batch_size: int = Field(default=64, ge=1, description="examples of a step")
    lr: float = Field(
        default=3e-3, gt=0, description="highest learning rate of AdamW, reached after a tenth of the steps"
    )
    augmentation: dict[str, Any] = Field(
        default_factory=dict, description="random changes of each batch, as for augment.augmentation"
    )
    extractor: Extractor = Field(
        default="fitted", description="a small network, fitted here, or Inception v3, of which `weights` names the file"
    )
    weights: str = Field(default="", description="safetensors file of Inception's weights, from the project's root")


def run(cfg: Config, project: Project) -> dict[str, float]:
    """Keeps or makes the evaluator; gives its accuracy on the validation split, if it was fitted to anything.

    Raises DataError when the data have no labels and the modality no pretext task, or Inception can't be had.
    """
    source, folder = project.artifacts / "augment", project.artifacts / "calibrate"
    data = DataSpec.read(source / "meta.json")
    wanted: dict[str, Any] = data.plain() | {"settings": plain(cfg)}
    card = kept(folder, wanted)
    if card is None:
        given = weights_of(cfg, project) if cfg.extractor == "inception" else None
        evaluator = fit(cfg, data, Arrays(source / "train"), given, choose_device("auto"))
        found = measured(evaluator, Arrays(source / "validation"))
        card = wanted | {"about": evaluator.about} | found | {"digest": evaluator.digest}
        with written_aside(folder / WEIGHTS) as aside:
            save_file(evaluator.network.state_dict(), aside)
        write_json(folder / CARD, card)
    accuracy = {"accuracy": float(card["accuracy"])} if "accuracy" in card else {}
    right = [f"right on {100 * share:.1f} % of {card['accuracy_count']}" for share in accuracy.values()]
    print("; ".join([card["about"], *right]))
    return accuracy


def weights_of(cfg: Config, project: Project) -> dict[str, torch.Tensor]:
    """Inception's. Raises DataError, which tells how to get them, when there is no such file."""
    file = project.root / cfg.weights
    if not file.is_file():
        named = (
            f"calibrate.weights is {cfg.weights!r}, and there is no such file" if cfg.weights else "it needs weights"
        )
        raise DataError(f"calibrate.extractor is 'inception'; {named} (params.yaml). {REMEDY}")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise DataError(f"calibrate.weights is {cfg.weights!r}, and it is no safetensors file. {REMEDY}") from error


def kept(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The card of the evaluator that is there, if it has these settings and such data; DataError if it is broken."""
    if not (folder / CARD).exists():
        return None
    card: dict[str, Any] = json.loads((folder / CARD).read_text())
    if any(card.get(key) != value for key, value in wanted.items()):
        return None
    Evaluator.load(folder)
    return card


def fit(
    cfg: Config,
    data: DataSpec,
    train: Arrays,
    given: Mapping[str, torch.Tensor] | None = None,
    device: torch.device = CPU,
) -> Evaluator:
    """A new network, or Inception with the weights `given`; what of it can learn is fitted.

    Randomness follows from the seed and the device.
    """
    with torch.random.fork_rng(devices=[]):
        Compute(device).seed(seed_from(cfg.seed))
        network = (build(data) if given is None else pretrained(data, given)).to(device)
        if any(weight.requires_grad for weight in network.parameters()):
            learn(cfg, data, network, train)
    return Evaluator(data, network.eval(), digest_of(network, data), cfg.extractor)


def learn(cfg: Config, data: DataSpec, network: nn.Module, train: Arrays) -> None:
    """Cross-entropy, AdamW, one cycle of the learning rate."""
    modality = modalities.load(data.modality)
    changes = parse(modality.Augmentation, cfg.augmentation, "calibrate.augmentation")
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    device = weights[0].device
    optimizer = torch.optim.AdamW(weights, cfg.lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, cfg.lr, total_steps=cfg.steps + 1, pct_start=0.1)
    for _ in range(cfg.steps):
        rows = torch.randint(train.rows, (cfg.batch_size,)).numpy()
        batch = modality.to_batch(torch.from_numpy(train[modality.CONTENT][rows]).to(device))
        if tells_classes(data):
            targets = torch.from_numpy(train["label"][rows]).long().to(device)
        else:
            targets = torch.randint(modality.PRETEXT_CLASSES, (cfg.batch_size,)).to(device)
            batch = modality.pretext(batch, targets)
        loss = F.cross_entropy(network(modality.augment(batch, changes)), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def measured(evaluator: Evaluator, validation: Arrays) -> dict[str, Any]:
    """How often the evaluator is right in what it was fitted to, and on how many examples that was counted."""
    modality = modalities.load(evaluator.data.modality)
    content = validation[modality.CONTENT]
    if evaluator.classifies:
        found, targets = evaluator.predict(content), validation["label"]
    elif evaluator.extractor == "inception":
        return {}
    else:
        targets = np.arange(len(content)) % modality.PRETEXT_CLASSES
        changed = modality.pretext(torch.from_numpy(np.array(content)), torch.from_numpy(targets))
        found = evaluator.predict(changed.numpy())
    return {"accuracy": float((found == targets).mean()), "accuracy_count": validation.rows}
