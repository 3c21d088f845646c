"""Steps per second of the training loop, against the same networks, losses and optimizers in a bare loop.

The bare loop draws rows of a tensor in memory and steps: no epochs, no seeds, no schedule, no moving average, no limit
on the gradient, no look at the loss, no curve. Both take turns in one process; each turn gives one ratio.

    python benchmarks/training.py [--steps 300] [--turns 9]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
import yaml

from genpipe import PACKAGE, modalities, training
from genpipe.config import parse
from genpipe.curve import Curve
from genpipe.data.arrays import DataSpec
from genpipe.data.batches import Batches
from genpipe.devices import Compute
from genpipe.generators import Model
from genpipe.stages import train

RECIPES = ("digits-gan", "digits-vae")
CLASSES = tuple("0123456789")
Columns = dict[str, np.ndarray]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--steps", type=int, default=300, help="steps of a turn")
    words.add_argument("--turns", type=int, default=9)
    given = words.parse_args()
    columns = digits()
    print("| recipe | loop, steps/s | bare, steps/s | loop / bare | lowest to highest |\n|---|---|---|---|---|")
    for name in RECIPES:
        print(row(name, turns(settings(name), columns, given.steps, given.turns)), flush=True)


def row(name: str, measured: list[tuple[float, float]]) -> str:
    """Medians over the turns."""
    ratios = [loop / bare for loop, bare in measured]
    loop, bare = (statistics.median(rates) for rates in zip(*measured, strict=True))
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return f"| {name} | {loop:.0f} | {bare:.0f} | {statistics.median(ratios):.2f} | {spread} |"


def digits() -> Columns:
    """scikit-learn's 1,797 handwritten digits, as the augment stage stores them."""
    from sklearn.datasets import load_digits

    found = load_digits()
    image = np.rint(found.images * 255 / 16).astype(np.uint8)[:, None]
    return {"image": image, "label": found.target.astype(np.int64)}


def settings(recipe: str) -> train.Config:
    content: dict[str, Any] = yaml.safe_load((PACKAGE / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8"))
    return parse(train.Config, {**content["train"], "steps": 10**6}, "train")


def turns(cfg: train.Config, columns: Columns, steps: int, count: int) -> list[tuple[float, float]]:
    """Steps per second of loop and bare loop, turn by turn; a first turn that warms up does not count."""
    torch.set_num_threads(cfg.threads or torch.get_num_threads())
    data = DataSpec("image", columns["image"].shape[1:], CLASSES)
    both = looped(cfg, data, columns), bare(training.new_model(cfg.generator, data, cfg), columns, cfg)
    measured = [tuple(rate(one, steps) for one in both) for _ in range(count + 1)]
    return [(loop, bare) for loop, bare in measured[1:]]


def rate(stepping: Iterator[None], steps: int) -> float:
    began = time.perf_counter()
    for _ in islice(stepping, steps):
        pass
    return steps / (time.perf_counter() - began)


def looped(cfg: train.Config, data: DataSpec, columns: Columns) -> Iterator[None]:
    """The loop as the train stage runs it."""
    compute, curve = Compute(), Curve(cfg.log_every)
    state = training.new_state(cfg.generator, data, cfg, compute)
    draw = Batches(
        columns,
        "image",
        modalities.load("image").Augmentation(),
        size=cfg.batch_size,
        micro_batches=1,
        updates=len(state.model.updates()),
        seed=cfg.seed,
        device=compute.device,
    )
    for logged in training.fit(state, draw, cfg, compute):
        curve.add(state.step, logged)
        yield


def bare(model: Model, columns: Columns, cfg: train.Config) -> Iterator[None]:
    """The model's own updates and nothing else; what a layer does after a step (spectral norm) is the model's, too."""
    images = torch.from_numpy(columns["image"]).float() / 127.5 - 1
    labels = torch.from_numpy(columns["label"])
    optimizers = {name: training.new_optimizer(part, cfg.optimizer) for name, part in model.parts().items()}
    weights = {name: list(part.parameters()) for name, part in model.parts().items()}
    advances = {name: advances_of(part) for name, part in model.parts().items()}
    step = 0
    while True:
        for update in model.updates():
            rows = torch.randint(len(images), (cfg.batch_size,))
            optimizers[update.part].zero_grad()
            loss, _ = update.loss({"image": images[rows], "label": labels[rows]}, step)
            torch.autograd.backward(loss, inputs=weights[update.part])
            optimizers[update.part].step()
            for advance in advances[update.part]:
                advance()
        step += 1
        yield


def advances_of(part: torch.nn.Module) -> list[Callable[[], object]]:
    offered = [getattr(module, "after_step", None) for module in part.modules()]
    return [advance for advance in offered if callable(advance)]


if __name__ == "__main__":
    main()
