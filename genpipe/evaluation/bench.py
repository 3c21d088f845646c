"""The measuring bench: real data and evaluator, set up once, on which the samples of any contestant are scored.

A plan is made first: how many samples, of which labels, and against which held-out data each draw of them is held. All
contestants on one plan meet the same held-out data, draw by draw, so their scores are paired. Samples and held-out data
of a draw have the same count, since the Fréchet distance and all that counts neighbours depend on it.

Shapes: N examples, D features of the evaluator; R draws of M samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from genpipe import modalities
from genpipe.data.arrays import Arrays
from genpipe.errors import DataError
from genpipe.evaluation import baseline
from genpipe.evaluation.cards import digest
from genpipe.evaluation.evaluator import Evaluator
from genpipe.metrics.agreement import label_agreement
from genpipe.metrics.frechet import frechet_distance
from genpipe.metrics.kernel import kernel_distance, kernel_distance_by_label
from genpipe.metrics.memorisation import Nearest, memorisation
from genpipe.metrics.neighbours import overlap
from genpipe.metrics.repeated import matching, subsample, summaries
from genpipe.project import Project
from genpipe.randomness import seed_from

MOST_REAL = 100_000  # examples of a split that are looked at: their features are held in memory


@dataclass(frozen=True)
class Seen:
    """Examples, and what the evaluator sees in them."""

    content: np.ndarray  # (N, *shape) as stored
    features: np.ndarray  # (N, D)
    label: np.ndarray | None = None  # (N,) real, or asked for

    def __len__(self) -> int:
        return len(self.content)

    def __getitem__(self, rows: np.ndarray | slice) -> "Seen":
        label = None if self.label is None else self.label[rows]
        return Seen(self.content[rows], self.features[rows], label)

    def digest(self) -> str:
        """Of the examples and their labels."""
        return digest(self.content) if self.label is None else digest(self.content, self.label)


@dataclass(frozen=True)
class Plan:
    """What every contestant is asked for, and what it is held against.

    Its samples are one long draw, R · M of them: sample n follows from (seed, n), so a single request to a fresh
    process, with this seed and these labels, gives all of them again. Draw r is the samples from r · M on.
    """

    seed: int
    labels: np.ndarray | None  # (R · M,) asked for; None for contestants that take none
    held_out: np.ndarray  # (R, M) rows of the held-out data
    training: np.ndarray  # (R, M) rows of the training examples that take the samples' place for the floor

    @property
    def count(self) -> int:
        """Samples to draw, all in all."""
        return self.held_out.size

    def slices(self) -> list[slice]:
        """Where each draw lies among the samples."""
        size = self.held_out.shape[1]
        return [slice(first, first + size) for first in range(0, self.count, size)]


class Draw(NamedTuple):
    """One repeat: its samples and their scores."""

    samples: Seen
    scores: dict[str, float]


@dataclass(frozen=True)
class Bench:
    """What every contestant is measured with: the real data, the evaluator, k."""

    evaluator: Evaluator
    training: Seen
    held_out: Seen
    neighbours: int

    @classmethod
    def prepare(
        cls,
        project: Project,
        conditional: bool,
        neighbours: int,
        device: torch.device | str = "cpu",
        most: int = MOST_REAL,
    ) -> "Bench":
        """Of a split with more than `most` examples every second, third, … is taken.

        Labels are kept only if samples have them too: otherwise no score may use them.
        """
        evaluator = Evaluator.load(project.artifacts / "calibrate", device)
        column = modalities.load(evaluator.data.modality).CONTENT

        def see(split: str) -> Seen:
            found = Arrays(project.artifacts / "augment" / split)
            taken = slice(None, None, -(-found.rows // most))
            label = np.array(found["label"][taken]) if conditional else None
            return Seen(found[column][taken], evaluator.features(found[column][taken]), label)

        return cls(evaluator, see("train"), see("test"), neighbours)

    @cached_property
    def nearest(self) -> Nearest:
        return Nearest(self.training.features)

    @cached_property
    def held_out_distances(self) -> np.ndarray:
        return self.nearest(self.held_out.features)[0]

    def plan(self, draws: int, count: int, seed: int) -> Plan:
        """`draws` times `count` samples. Raises DataError when the training data can't match the held-out labels."""
        held_out, training = np.empty((2, draws, count), np.int64)
        for number in range(draws):
            rng = np.random.default_rng(seed_from(seed, number))
            held_out[number] = subsample(len(self.held_out), count, rng)
            training[number] = rows_like(self.training, self.held_out[held_out[number]], rng)
        labels = None if self.held_out.label is None else self.held_out.label[held_out.ravel()]
        return Plan(seed, labels, held_out, training)

    def score(self, plan: Plan, samples: np.ndarray) -> list[Draw]:
        """The draws of a contestant whose `samples` (R · M, *shape), as stored, answer the plan."""
        if len(samples) != plan.count:
            raise ValueError(f"{len(samples)} samples for a plan of {plan.count}")
        seen = Seen(samples, self.evaluator.features(samples), plan.labels)
        draws = zip((seen[part] for part in plan.slices()), plan.held_out, strict=True)
        return [Draw(part, self.likeness(part, self.held_out[rows]) | self.alone(part)) for part, rows in draws]

    def floor(self, plan: Plan) -> list[dict[str, float]]:
        """The scores of each draw with training examples in the samples' place; of one set, those of held-out data."""
        real = [self.held_out[rows] for rows in plan.held_out]
        training = (self.training[rows] for rows in plan.training)
        return [self.likeness(part, held) | self.alone(held) for part, held in zip(training, real, strict=True)]

    def baseline(self, plan: Plan) -> np.ndarray:
        """The samples of the simplest contestant, (R · M, *shape) as stored."""
        modality, training = modalities.load(self.evaluator.data.modality), self.training
        pieces = []
        for number, part in enumerate(plan.slices()):  # one at a time: it computes in real numbers
            rng = np.random.default_rng(seed_from(plan.seed, number, 1))
            if training.label is None or plan.labels is None:
                pieces.append(baseline.draw(training.content, part.stop - part.start, modality, rng))
            else:
                asked = plan.labels[part]
                pieces.append(baseline.draw_by_class(training.content, training.label, asked, modality, rng))
        return np.concatenate(pieces)

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
        """The scores of one set: label agreement if it was asked for by label and the evaluator tells labels apart, and
        those of memorisation.

        Their floor is held-out data: the evaluator was fitted to training examples, which are their own nearest.
        """
        found: dict[str, float] = {}
        if samples.label is not None and self.evaluator.classifies:
            found["label_agreement"] = label_agreement(samples.label, self.evaluator.classify(samples.features))
        return found | memorisation(self.nearest(samples.features)[0], self.held_out_distances)._asdict()


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


def table(
    model: Sequence[Mapping[str, float]], floor: Sequence[Mapping[str, float]], simple: Sequence[Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Score → value and interval of the model, mean of floor and of baseline; each is given as scores by draw."""
    floors, baselines = summaries(floor), summaries(simple)
    return {
        name: rounded({**found._asdict(), "floor": floors[name].value, "baseline": baselines[name].value})
        for name, found in summaries(model).items()
    }


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """To six significant digits: more would differ between processors."""
    return {name: float(f"{value:.6g}") for name, value in values.items()}
