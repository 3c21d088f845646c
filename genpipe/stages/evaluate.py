"""evaluate: score the model on held-out data, beside what real data (the floor) and a simple baseline reach.

Reads artifacts/train/{model.safetensors,config.json,curves.csv}, artifacts/augment/{meta.json,train,test} and
artifacts/calibrate; writes artifacts/evaluate/{metrics.json,samples/,samples.png,neighbours.png,report.html}, which
hold no time and no path: equal inputs give equal bytes.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genpipe import generators, modalities, sampling
from genpipe.config import Field, parse, plain, settings
from genpipe.data.arrays import ORIGIN, Arrays, write_arrays
from genpipe.devices import choose_device
from genpipe.errors import DataError
from genpipe.evaluation import cards, report
from genpipe.evaluation.bench import MOST_REAL, Bench, Draw, Plan, Seen, rounded, table
from genpipe.evaluation.evaluator import CARD, Evaluator
from genpipe.evaluation.scores import FORMAT
from genpipe.files import write_json, written_aside
from genpipe.metrics.agreement import label_agreement
from genpipe.metrics.frechet import fewest
from genpipe.metrics.kernel import kernel_distance
from genpipe.metrics.repeated import INTERVAL, summary
from genpipe.nn.classifier import FEATURES
from genpipe.project import Project


@settings
class Config:
    """A draw of the share f of N held-out examples, none twice, has a mean of variance (1 - f) / f · σ² / N; for one
    half it is that of the mean over all N, so draws spread as whole test splits of this size would.
    """

    seed: int = Field(default=0, ge=0, description="of samples and subsamples")
    draws: int = Field(default=10, ge=2, description="repeats, from which the intervals come")
    held_out_share: float = Field(
        default=0.5, gt=0, lt=1, description="share of the test split in each draw; above 0.5 intervals are too narrow"
    )
    most: int = Field(default=5000, ge=2, description="samples of a draw, at most")
    most_real: int = Field(
        default=MOST_REAL,
        ge=2,
        description="examples of the training and of the test split, each, at most; of more, every second, third, …",
    )
    neighbours: int = Field(default=5, ge=1, description="k of precision, recall, density and coverage")
    sampling: dict[str, Any] = Field(default_factory=dict, description="how samples are drawn: the kind's settings")
    columns: int = Field(default=10, ge=1, description="samples of a class, and neighbours, in the report's pictures")


def run(cfg: Config, project: Project) -> dict[str, float]:
    """The mean of each score. Raises DataError when the held-out data are too few for them."""
    trained, folder = project.artifacts / "train", project.artifacts / "evaluate"
    model, config = sampling.load(trained), json.loads((trained / "config.json").read_text())
    kind = generators.load(config["train"]["generator"]["kind"])
    chosen = parse(kind.Sampling, cfg.sampling, "evaluate.sampling")
    device = choose_device("auto")
    for part in model.parts().values():
        part.to(device)
    bench, plan = prepared(cfg, project, "label" in model.takes(), device)
    column = modalities.load(bench.evaluator.data.modality).CONTENT
    samples = sampling.draw(model, plan.count, plan.seed, chosen, labels=plan.labels, device=device)[column]
    draws, scores = scored(bench, plan, samples)
    card = contestant(project, config, plain(chosen), samples, device) | protocol(cfg, project, bench, plan)
    card |= origin(project)
    shutil.rmtree(folder / "samples", ignore_errors=True)  # an earlier model may have left labels
    write_arrays(folder / "samples", columns_of(draws[0].samples, column))
    draw_pictures(folder, bench, draws[0].samples, cfg.columns)
    metrics = {"format": FORMAT, **scores, **by_class(draws, bench), "card": card}
    write_json(folder / "metrics.json", metrics)
    report.write(folder, trained / "curves.csv")
    return {name: row["value"] for name, row in scores.items()}


def prepared(
    cfg: Config, project: Project, conditional: bool, device: torch.device | str = "cpu"
) -> tuple[Bench, Plan]:
    """What contestants are measured with, by label only if all of them take labels, and what they are asked for."""
    bench = Bench.prepare(project, conditional, cfg.neighbours, device, cfg.most_real)
    return bench, bench.plan(cfg.draws, count_of(cfg, bench), cfg.seed)


def scored(bench: Bench, plan: Plan, samples: np.ndarray) -> tuple[list[Draw], dict[str, dict[str, float]]]:
    """A contestant's draws, and its scores with interval, floor and baseline."""
    draws, simple = bench.score(plan, samples), bench.score(plan, bench.baseline(plan))
    return draws, table([draw.scores for draw in draws], bench.floor(plan), [draw.scores for draw in simple])


def count_of(cfg: Config, bench: Bench) -> int:
    """Examples of each draw. Raises DataError when they are too few, or may be of as many classes."""
    classes = 0 if bench.held_out.label is None else len(np.unique(bench.held_out.label))
    features = bench.held_out.features.shape[1]
    return enough(cfg, len(bench.held_out), len(bench.training), classes, features)


def enough(cfg: Config, held_out: int, training: int, classes: int, features: int) -> int:
    """Examples of each draw from so many of the test and the training split. Raises DataError when they are too few."""
    count = min(int(cfg.held_out_share * held_out), training, cfg.most)
    needed = max(fewest(features), cfg.neighbours + 1, classes + 1)  # two of one class, surely
    if count < needed:
        raise DataError(
            f"a draw has {count:,} examples and the scores need {needed:,} (the Fréchet distance one more than the "
            f"evaluator's {features:,} features), of a test split of {held_out:,}; bring more data, or raise "
            "augment.test, evaluate.held_out_share or evaluate.most (params.yaml)"
            + ("; calibrate.extractor: fitted has fewer features" if features > FEATURES else "")
        )
    return count


def by_class(draws: Sequence[Draw], bench: Bench) -> dict[str, dict[str, dict[str, float]]]:
    """Per class what a good mean can hide: label agreement, and kernel distance to all held-out examples of the class.

    Each with its interval, from the draws in which the class has more than one sample.
    """
    classes, real = bench.evaluator.data.classes, bench.held_out
    agreement: dict[str, list[float]] = {name: [] for name in classes}
    distance: dict[str, list[float]] = {name: [] for name in classes}
    for label, features in ((draw.samples.label, draw.samples.features) for draw in draws):
        if label is None or real.label is None or not bench.evaluator.classifies:
            return {}
        seen = bench.evaluator.classify(features)
        for number, name in enumerate(classes):
            own, held = label == number, real.label == number
            if min(own.sum(), held.sum()) > 1:
                agreement[name].append(label_agreement(label[own], seen[own]))
                distance[name].append(kernel_distance(features[own], real.features[held]))
    found = {"label_agreement_by_class": agreement, "kernel_distance_by_class": distance}
    return {
        score: {name: rounded(summary(values)._asdict()) for name, values in each.items() if values}
        for score, each in found.items()
    }


def contestant(
    project: Project, config: Mapping[str, Any], chosen: Mapping[str, Any], samples: np.ndarray, device: torch.device
) -> dict[str, Any]:
    """The half of the card that says what was measured: another model may differ in it (`cards.CONTESTANT`)."""
    decay = config["train"]["ema_decay"]
    return {
        "generator": config["train"]["generator"]["kind"],
        "weights": f"moving average (EMA), decay {decay}" if decay else "raw, of the last step",
        "sampling": dict(chosen),
        "device": device.type,
        "training_digest": config["digest"],
        "model_digest": hashlib.sha256((project.artifacts / "train" / "model.safetensors").read_bytes()).hexdigest(),
        "samples_digest": cards.digest(samples),
    }


def protocol(cfg: Config, project: Project, bench: Bench, plan: Plan) -> dict[str, Any]:
    """The half that says how, without which no figure is worth anything; figures of unlike protocols don't compare."""
    evaluator = json.loads((project.artifacts / "calibrate" / CARD).read_text())
    meta = json.loads((project.artifacts / "augment" / "meta.json").read_text())
    modality, labelled = modalities.load(bench.evaluator.data.modality), plan.labels is not None
    count = plan.held_out.shape[1]
    low, high = INTERVAL
    return {
        "dataset": meta.get("dataset", "unnamed"),
        "modality": bench.evaluator.data.modality,
        "condition": "label" if labelled else "none",
        "prepare": meta.get("prepare", {}),
        "resize": modality.RESIZE,
        "rounding": modality.ROUNDING,
        "split": "test",
        "held_out_count": len(bench.held_out),
        "held_out_of": Arrays(project.artifacts / "augment" / "test").rows,
        "held_out_digest": bench.held_out.digest(),
        "training_count": len(bench.training),
        "training_of": Arrays(project.artifacts / "augment" / "train").rows,
        "training_examples_digest": bench.training.digest(),
        "draws": cfg.draws,
        "count_of_a_draw": count,
        "seed": plan.seed,
        "neighbours": cfg.neighbours,
        "interval": f"percentiles {low} to {high} of the draws",
        "held_out_spread": f"{np.sqrt(len(bench.held_out) / count - 1):.2f} times that of a mean over the whole split "
        "(1.00 where a draw takes half of it)",
        "floor": "training examples (for memorisation and label agreement held-out ones) in the samples' place, equal "
        "count",
        "floor_caveat": floor_caveat(bench.evaluator),
        "baseline": modality.BASELINE + (" of each class" if labelled else ""),
        "evaluator": bench.evaluator.about,
        **{f"evaluator_{name}": evaluator[name] for name in ("accuracy", "accuracy_count") if name in evaluator},
        "evaluator_digest": bench.evaluator.digest,
        "estimators": cards.estimators(labelled, bench.evaluator.classifies),
    }


def floor_caveat(evaluator: Evaluator) -> str:
    if evaluator.extractor == "inception":
        return "none: the evaluator's features were not fitted to these data"
    return (
        "the evaluator's features were fitted to these training examples, so the floors of Fréchet and kernel distance "
        "are not quite those of fresh real data"
    )


def origin(project: Project) -> dict[str, str]:
    """Whose data these are, which no comparison asks (`cards.TOLD`)."""
    said = json.loads((project.artifacts / "augment" / ORIGIN).read_text(encoding="utf-8"))
    return {f"dataset_{name}": said[name] for name in ("licence", "citation", "source")}


def columns_of(samples: Seen, column: str) -> dict[str, np.ndarray]:
    return {column: samples.content} | ({} if samples.label is None else {"label": samples.label})


def draw_pictures(folder: Path, bench: Bench, samples: Seen, columns: int) -> None:
    """samples.png, a row a class if there are labels; neighbours.png, samples above their nearest training examples.

    The first samples of the first draw: none is chosen for its looks.
    """
    picture = modalities.load(bench.evaluator.data.modality).picture
    shown = grid(samples, columns)  # (rows, columns)
    above = shown.ravel()[np.linspace(0, shown.size - 1, min(columns, shown.size)).astype(int)]
    _, below = bench.nearest(samples.features[above])
    pairs = np.concatenate([samples.content[above], bench.training.content[below]])
    with written_aside(folder / "samples.png") as aside:
        picture(samples.content[shown.ravel()], shown.shape[1]).save(aside)
    with written_aside(folder / "neighbours.png") as aside:
        picture(pairs, len(above)).save(aside)


def grid(samples: Seen, columns: int) -> np.ndarray:
    """Rows of `samples` to show, as many in each line: a line a class, or as many lines as columns."""
    if samples.label is None:
        width = min(columns, len(samples))
        return np.arange(min(len(samples) // width, columns) * width).reshape(-1, width)
    found = [np.flatnonzero(samples.label == label) for label in np.unique(samples.label)]
    width = min(columns, *(len(rows) for rows in found))
    return np.stack([rows[:width] for rows in found])
