"""The measuring bench: real data and evaluator, set up once, on which any source of samples is scored.

Every draw takes fresh samples and a fresh subsample of the held-out data, both of the same count, since the Fréchet
distance and all that counts neighbours depend on it. Shapes: N examples, D features of the evaluator.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from genpipe import baseline, modalities
from genpipe.data.arrays import Arrays
from genpipe.errors import DataError
from genpipe.evaluator import Evaluator
from genpipe.metrics.agreement import label_agreement
from genpipe.metrics.frechet import frechet_distance
from genpipe.metrics.kernel import kernel_distance, kernel_distance_by_label
from genpipe.metrics.memorisation import Nearest, memorisation
from genpipe.metrics.neighbours import overlap
from genpipe.metrics.repeated import matching, subsample, summaries
from genpipe.project import Project


@dataclass(frozen=True)
class Seen:
    """Examples, and what the evaluator sees in them."""

    content: np.ndarray  # (N, *shape) as stored
    features: np.ndarray  # (N, D)
    label: np.ndarray | None = None  # (N,) real, or asked for

    def __len__(self) -> int:
        return len(self.content)

    def __getitem__(self, rows: np.ndarray) -> "Seen":
        label = None if self.label is None else self.label[rows]
        return Seen(self.content[rows], self.features[rows], label)


Source = Callable[[Seen, int], np.ndarray]  # (held-out subsample, seed) → as many examples, labelled like it


@dataclass(frozen=True)
class Bench:
    """What every contestant is measured with: the real data, the evaluator, k."""

    evaluator: Evaluator
    training: Seen
    held_out: Seen
    neighbours: int

    @classmethod
    def prepare(
        cls, project: Project, conditional: bool, neighbours: int, device: torch.device | str = "cpu"
    ) -> "Bench":
        """Labels are kept only if samples have them too: otherwise no score may use them."""
        evaluator = Evaluator.load(project.artifacts / "calibrate", device)
        column = modalities.load(evaluator.data.modality).CONTENT

        def see(split: str) -> Seen:
            found = Arrays(project.artifacts / "augment" / split)
            label = np.array(found["label"]) if conditional else None
            return Seen(found[column], evaluator.features(found[column]), label)

        return cls(evaluator, see("train"), see("test"), neighbours)

    @cached_property
    def nearest(self) -> Nearest:
        return Nearest(self.training.features)

    @cached_property
    def held_out_distances(self) -> np.ndarray:
        return self.nearest(self.held_out.features)[0]

    def see(self, content: np.ndarray, like: Seen) -> Seen:
        return Seen(content, self.evaluator.features(content), like.label)

    def likeness(self, samples: Seen, real: Seen) -> dict[str, float]:
        """The scores that compare two sets."""
        found = {
            "frechet_distance": frechet_distance(samples.features, real.features),
            "kernel_distance": kernel_distance(samples.features, real.features),
            **overlap(real.features, samples.features, self.neighbours)._asdict(),
        }
        if samples.label is not None:  # those of `real`, too
            found["kernel_distance"] = kernel_distance_by_label(samples.features, real.features, samples.label)
        return found

    def alone(self, samples: Seen) -> dict[str, float]:
        """The scores of one set: label agreement if it was asked for by label, and those of memorisation.

        Their floor is held-out data: the evaluator was fitted to training examples, which are their own nearest.
        """
        found: dict[str, float] = {}
        if samples.label is not None:
            found["label_agreement"] = label_agreement(samples.label, self.evaluator.classify(samples.features))
        return found | memorisation(self.nearest(samples.features)[0], self.held_out_distances)._asdict()


@dataclass(frozen=True)
class Draw:
    """One repeat: the model's samples, and the scores of model, floor and baseline."""

    samples: Seen
    model: dict[str, float]
    floor: dict[str, float]
    baseline: dict[str, float]


def one_draw(bench: Bench, from_model: Source, seed: int, count: int) -> Draw:
    """Model, training data and baseline against the same subsample of held-out data."""
    rng = np.random.default_rng(seed)
    real = bench.held_out[subsample(len(bench.held_out), count, rng)]
    samples = bench.see(from_model(real, seed), like=real)
    training = bench.training[rows_like(bench.training, real, rng)]
    simple = bench.see(from_baseline(bench, real, rng), like=real)
    return Draw(
        samples,
        model=bench.likeness(samples, real) | bench.alone(samples),
        floor=bench.likeness(training, real) | bench.alone(real),
        baseline=bench.likeness(simple, real) | bench.alone(simple),
    )


def rows_like(pool: Seen, real: Seen, rng: np.random.Generator) -> np.ndarray:
    """As many rows of `pool` as `real` has, of the same classes if there are labels: the model is told them too."""
    if pool.label is None or real.label is None:
        return subsample(len(pool), len(real), rng)
    try:
        return matching(pool.label, real.label, rng)
    except ValueError as error:
        raise DataError(
            "a class has fewer training examples than a draw has held-out ones; lower evaluate.held_out_share or "
            "augment.test (params.yaml), or bring more examples of it"
        ) from error


def from_baseline(bench: Bench, real: Seen, rng: np.random.Generator) -> np.ndarray:
    modality, training = modalities.load(bench.evaluator.data.modality), bench.training
    if training.label is None or real.label is None:
        return baseline.draw(training.content, len(real), modality, rng)
    return baseline.draw_by_class(training.content, training.label, real.label, modality, rng)


def table(draws: Sequence[Draw]) -> dict[str, dict[str, float]]:
    """Score → value and interval of the model, mean of floor and of baseline."""
    model = summaries([draw.model for draw in draws])
    floor, simple = summaries([draw.floor for draw in draws]), summaries([draw.baseline for draw in draws])
    return {
        name: rounded({**found._asdict(), "floor": floor[name].value, "baseline": simple[name].value})
        for name, found in model.items()
    }


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """To six significant digits: more would differ between processors."""
    return {name: float(f"{value:.6g}") for name, value in values.items()}
