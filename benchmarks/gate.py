"""How often the gate is wrong: challengers that are better, equal and worse, held against a champion again and again.

On scikit-learn's digits. The evaluator and a GAN are fitted to 60 % of them; the rest, which neither has seen, is
parted anew in each repeat into held-out data and a pool of real images. Two families of contestants:

- `noise`: real images of the pool with noise, more of it for the worse ones;
- `gan`: the same training, stopped earlier for the worse ones.

The equal challenger is the champion once more, drawn with another seed. A verdict is wrong when a better one is kept, a
worse one promoted, or an equal one promoted by `better` or kept by `not_worse`.

    python benchmarks/gate.py [--repeats 20] [--steps 6000]
"""

import argparse
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import yaml

from genpipe import PACKAGE, modalities, sampling, training
from genpipe.champion import gate
from genpipe.champion.gate import Draws, Opponent
from genpipe.config import parse
from genpipe.data.arrays import Arrays, DataSpec, write_arrays
from genpipe.data.batches import Batches
from genpipe.devices import Compute
from genpipe.evaluation.bench import Bench, Plan, Seen
from genpipe.generators import Model
from genpipe.metrics.repeated import summaries
from genpipe.project import Gate
from genpipe.stages import calibrate, train

DRAWS, COUNT, HELD_OUT = 10, 180, 360
DEVIATION = {"better": 16.0, "champion": 40.0, "worse": 56.0}  # of the noise, in levels
STOPPED = {"worse": 0.25, "champion": 0.5, "better": 1.0}  # share of the training
SHOULD = {
    "better": {"better": "promoted", "equal": "kept", "worse": "kept"},
    "not_worse": {"better": "promoted", "equal": "promoted", "worse": "kept"},
}
Source = Callable[[Plan, int], np.ndarray]  # (plan, seed) → its samples
Column = dict[str, np.ndarray]


@dataclass(frozen=True)
class Digits:
    """What evaluator and GAN know, what they have never seen, and the evaluator."""

    bench: Bench  # its held-out data are all that is unseen
    known: Column


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--repeats", type=int, default=20)
    words.add_argument("--steps", type=int, default=6000, help="of the longest training of the GAN")
    given = words.parse_args()
    torch.set_num_threads(1)
    digits = prepared()
    stopped = trained(digits.known, given.steps)
    repeats = list(scored(digits, stopped, given.repeats))
    print(verdicts(repeats, Gate()))
    print(
        f"\nThe same with the kernel distance:\n\n{verdicts(repeats, Gate(score='kernel_distance'), rules=['better'])}"
    )
    print(f"\nShare of the held-out data in the spread of a difference:\n\n{shares(digits, stopped, given.repeats)}")


def prepared() -> Digits:
    from sklearn.datasets import load_digits

    found = load_digits()
    image = np.rint(found.images * 255 / 16).astype(np.uint8)[:, None]
    order = np.random.default_rng(0).permutation(len(image))
    known, unseen = np.split(order, [int(0.6 * len(order))])
    data = DataSpec("image", image.shape[1:], tuple("0123456789"))
    columns = {"image": image[known], "label": found.target[known].astype(np.int64)}
    with TemporaryDirectory() as folder:
        write_arrays(Path(folder), columns)
        evaluator = calibrate.fit(calibrate.Config(), data, Arrays(Path(folder)))

    def see(rows: np.ndarray) -> Seen:
        return Seen(image[rows], evaluator.features(image[rows]), found.target[rows].astype(np.int64))

    return Digits(Bench(evaluator, see(known), see(unseen), neighbours=5), columns)


def trained(columns: Column, steps: int) -> dict[str, Model]:
    """The GAN of the recipe digits-gan (its moving average) where it stopped."""
    recipe = yaml.safe_load((PACKAGE / "recipes" / "digits-gan.yaml").read_text(encoding="utf-8"))
    cfg = parse(train.Config, {**recipe["train"], "steps": steps}, "train")
    data = DataSpec("image", columns["image"].shape[1:], tuple("0123456789"))
    state, found = training.new_state(cfg.generator, data, cfg, Compute()), dict[str, Model]()
    draw = Batches(
        columns, "image", modalities.load("image").Augmentation(), size=cfg.batch_size, micro_batches=1,
        updates=len(state.model.updates()), seed=cfg.seed, device=Compute().device,
    )  # fmt: skip
    ends = {int(share * steps): name for name, share in STOPPED.items()}
    for _ in training.fit(state, draw, cfg, Compute()):
        if state.step in ends:
            found[ends[state.step]] = copy.deepcopy(state.average)
    return found


def noisy(pool: Seen, deviation: float) -> Source:
    """Images of the pool, of the labels asked for, each with noise of its own; an image may come again."""

    def samples(plan: Plan, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        rows = np.array([rng.choice(np.flatnonzero(pool.label == label)) for label in plan.labels])
        changed = pool.content[rows] + rng.normal(0, deviation, pool.content[rows].shape)
        return changed.clip(0, 255).round().astype(np.uint8)

    return samples


def painted(model: Model) -> Source:
    options = sampling.chosen(model, {})

    def samples(plan: Plan, seed: int) -> np.ndarray:
        return sampling.draw(model, plan.count, seed, options, labels=plan.labels)["image"]

    return samples


def parted(digits: Digits, repeat: int, stopped: Mapping[str, Model]) -> tuple[Bench, dict[str, dict[str, Source]]]:
    """The bench of a repeat, and the contestants of each family."""
    unseen = digits.bench.held_out
    order = np.random.default_rng(repeat).permutation(len(unseen))
    bench, pool = replace(digits.bench, held_out=unseen[order[:HELD_OUT]]), unseen[order[HELD_OUT:]]
    families = {"noise": {name: noisy(pool, deviation) for name, deviation in DEVIATION.items()}}
    return bench, families | ({"gan": {name: painted(model) for name, model in stopped.items()}} if stopped else {})


def scored(
    digits: Digits, stopped: Mapping[str, Model], repeats: int
) -> Iterator[dict[str, dict[str, list[dict[str, float]]]]]:
    """Family → contestant → scores by draw, for each repeat."""
    for repeat in range(repeats):
        bench, families = parted(digits, repeat, stopped)
        plan = bench.plan(DRAWS, COUNT, repeat)
        found = {}
        for family, sources in families.items():
            sources = {**sources, "equal": sources["champion"]}
            seeds = {name: 10 * repeat + number for number, name in enumerate(sources)}
            found[family] = {
                name: [draw.scores for draw in bench.score(plan, source(plan, seeds[name]))]
                for name, source in sources.items()
            }
        yield found


def verdicts(
    repeats: Sequence[Mapping[str, Mapping[str, Draws]]],
    settings: Gate,
    rules: Sequence[gate.Rule] = ("better", "not_worse"),
) -> str:
    """How often each challenger was promoted, by family and rule."""
    lines = ["| contestants | rule | challenger | promoted | wrong |", "|---|---|---|---|---|"]
    for family in repeats[0]:
        for rule in rules:
            for challenger, right in SHOULD[rule].items():
                outcomes = [outcome(settings, rule, found[family], challenger) for found in repeats]
                wrong = sum(one != right for one in outcomes)
                promoted = f"{outcomes.count('promoted')} of {len(outcomes)}"
                lines.append(f"| {family} | {rule} | {challenger} | {promoted} | {wrong} |")
    return "\n".join(lines)


def outcome(settings: Gate, rule: gate.Rule, draws: Mapping[str, Draws], challenger: str) -> str:
    own = {name: found._asdict() for name, found in summaries(draws[challenger]).items()}
    champion = Opponent("the champion", draws["champion"])
    return gate.decide(settings, rule, own, draws[challenger], champion).outcome


def shares(digits: Digits, stopped: Mapping[str, Model], repeats: int) -> str:
    """Of s², the variance of paired differences over draws: the part that is the halves' and not the samples'.

    On fixed halves, `repeats` sets of samples tell what the samples do; what is left of the variance of their means is
    the halves'.
    """
    bench, families = parted(digits, 0, stopped)
    plan = bench.plan(DRAWS, COUNT, 0)
    sources = {f"gan, {name}": source for name, source in families["gan"].items()}
    sources["noise, champion"] = families["noise"]["champion"]
    scores = {
        name: [
            [draw.scores for draw in bench.score(plan, source(plan, 100 * number + seed))] for seed in range(repeats)
        ]
        for number, (name, source) in enumerate(sources.items())
    }
    asked = (*Gate().guards, "frechet_distance", "kernel_distance")
    lines = [
        f"| contestants | {' | '.join(name.replace('_', ' ') for name in asked)} |",
        "|---" * (len(asked) + 1) + "|",
    ]
    for one, other in combinations(scores, 2):
        found = [f"{share(scores[one], scores[other], name):.2f}" for name in asked]
        lines.append(f"| {one}; {other} | {' | '.join(found)} |")
    return "\n".join(lines)


def share(one: Sequence[Draws], other: Sequence[Draws], name: str) -> float:
    apart = np.array(
        [
            [mine[name] - theirs[name] for mine, theirs in zip(*pair, strict=True)]
            for pair in zip(one, other, strict=True)
        ]
    )
    samples = apart.var(0, ddof=1).mean()  # on a given half
    halves = max(0.0, apart.mean(0).var(ddof=1) - samples / len(apart))
    return float(halves / (halves + samples)) if halves + samples else 0.0


if __name__ == "__main__":
    main()
