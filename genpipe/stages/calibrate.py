"""Fits the evaluator, in whose features samples and data are compared, to the real labels; then keeps it.

Reads artifacts/augment/{meta.json,train,validation}; writes artifacts/calibrate/{evaluator.safetensors,evaluator.json}.

Frozen: figures of different weeks compare only in the same features, so an evaluator that was fitted with these
settings, for this shape and these classes, stays as it is, even if the data have grown. A changed setting refits it:
raise `calibrate.seed` to ask for a new one, and expect all scores to change scale.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from genpipe import modalities
from genpipe.config import Field, parse, plain, settings
from genpipe.data.arrays import Arrays, DataSpec
from genpipe.devices import CPU, Compute, choose_device
from genpipe.errors import DataError
from genpipe.evaluator import CARD, WEIGHTS, Evaluator, build, digest_of
from genpipe.files import write_json, written_aside
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


def run(cfg: Config, project: Project) -> dict[str, float]:
    """Keeps or fits the evaluator; gives its accuracy on the validation split. Raises DataError without labels."""
    source, folder = project.artifacts / "augment", project.artifacts / "calibrate"
    data = DataSpec.read(source / "meta.json")
    wanted: dict[str, Any] = data.plain() | {"settings": plain(cfg)}
    card = kept(folder, wanted)
    if card is None:
        evaluator = fit(cfg, data, Arrays(source / "train"), choose_device("auto"))
        card = wanted | measured(evaluator, Arrays(source / "validation")) | {"digest": evaluator.digest}
        with written_aside(folder / WEIGHTS) as aside:
            save_file(evaluator.network.state_dict(), aside)
        write_json(folder / CARD, card)
    return {"accuracy": float(card["accuracy"])}


def kept(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The card of the evaluator that is there, if it has these settings and such data; DataError if it is broken."""
    if not (folder / CARD).exists():
        return None
    card: dict[str, Any] = json.loads((folder / CARD).read_text())
    if any(card[key] != value for key, value in wanted.items()):
        return None
    Evaluator.load(folder)
    return card


def fit(cfg: Config, data: DataSpec, train: Arrays, device: torch.device = CPU) -> Evaluator:
    """Cross-entropy, AdamW, one cycle of the learning rate; randomness follows from the seed and the device."""
    if not data.classes or "label" not in train:
        raise DataError(
            "the data have no labels, and the evaluator is fitted to labels; ingest them with a column `label`, "
            "and its names under `classes` in dataset.yaml"
        )
    modality = modalities.load(data.modality)
    changes = parse(modality.Augmentation, cfg.augmentation, "calibrate.augmentation")
    content, label = torch.from_numpy(np.array(train[modality.CONTENT])), torch.from_numpy(np.array(train["label"]))
    with torch.random.fork_rng(devices=[]):
        Compute(device).seed(seed_from(cfg.seed))
        network = build(data).to(device)
        optimizer = torch.optim.AdamW(network.parameters(), cfg.lr, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, cfg.lr, total_steps=cfg.steps + 1, pct_start=0.1)
        for _ in range(cfg.steps):
            rows = torch.randint(len(label), (cfg.batch_size,))
            batch = modality.augment(modality.to_batch(content[rows].to(device)), changes)
            loss = F.cross_entropy(network(batch), label[rows].long().to(device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return Evaluator(data, network.eval(), digest_of(network, data))


def measured(evaluator: Evaluator, validation: Arrays) -> dict[str, Any]:
    """How often the evaluator is right, and on how many examples that was counted."""
    found = evaluator.predict(validation[modalities.load(evaluator.data.modality).CONTENT])
    return {"accuracy": float((found == validation["label"]).mean()), "accuracy_count": validation.rows}
