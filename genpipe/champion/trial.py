"""The trial of a registered version: does it give the samples that were scored, and does the gate let it pass?

The version, the champion and, where quality might creep down, former champions are sampled in fresh processes, each by
its own code, with the same labels, seed and counts, and scored on one bench by the present evaluator.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from genpipe import modalities
from genpipe.champion import contestants, gate, ledger
from genpipe.champion.contestants import Contestant
from genpipe.champion.gate import Opponent
from genpipe.champion.verdict import Rule, Verdict
from genpipe.data.arrays import Arrays
from genpipe.errors import DataError, GenpipeError, StageError
from genpipe.evaluation import cards
from genpipe.evaluation.bench import Bench, Plan
from genpipe.evaluation.scores import scored
from genpipe.project import Gate, Project
from genpipe.records import registry, tracking
from genpipe.records.registry import EVALUATOR, ModelVersion

SCORES = "genpipe.scores"  # tag of a version: the values that its evaluator gave it
FORMER = 3  # former champions that are sampled anew, at most: each takes as long as the champion
ROUNDED = 0.001  # share of the values that may lie further apart than rounding: where it tips a pixel over an edge


def hold(project: Project, version: ModelVersion, champion: ModelVersion | None, metrics: Mapping[str, Any]) -> Verdict:
    """The gate's verdict on `version`, whose evaluation is `metrics`, beside the champion.

    Raises StageError when the version does not give the samples that evaluate scored. A champion that can't be scored
    is no failure: it stays, and the verdict says why.
    """
    measure = champion or last_champion(project)
    rule = rule_for(project, version, measure)
    challenger = replace(contestants.of_version(project, version), options=metrics["card"]["sampling"])
    bench, plan = contestants.prepared(project, challenger)
    refuse_other_protocol(project, bench, plan, metrics["card"])
    with ThreadPoolExecutor(1) as pool:  # beside the others: half of the time goes into starting processes
        answer = pool.submit(challenger.samples, plan)
        others, faults = measured(project, rivals(project, version, measure, rule), challenger, bench, plan)
        samples = answer.result()
    refuse_other_samples(project, challenger, samples, metrics["card"])
    if measure and (fault := faults.get(contestants.name_of(measure))):
        return Verdict("kept", rule, (), (untried(version, measure, fault),))
    mine = contestants.scores(bench, plan, samples) if others else []
    verdict = gate.decide(project.mlflow.gate, rule, scored(metrics), mine, *chosen(project.mlflow.gate, others))
    remarks = (f"{name} was left out: {told(fault)}" for name, fault in faults.items())
    return replace(verdict, reasons=(*verdict.reasons, *remarks))


def measured(
    project: Project, those: Sequence[ModelVersion], challenger: Contestant, bench: Bench, plan: Plan
) -> tuple[list[Opponent], dict[str, GenpipeError]]:
    """The rivals with their scores, and what was wrong with those that can't be held against the challenger."""
    share, found, faults = plan.held_out.shape[1] / len(bench.held_out), list[Opponent](), dict[str, GenpipeError]()
    for rival in those:
        name = contestants.name_of(rival)
        try:
            other = contestants.of_version(project, rival)
            contestants.refuse_unlike(challenger, other)
            contestants.refuse_seen(project, rival)
            part = gate.held_out_part(share, alike=other.kind == challenger.kind)
            found.append(Opponent(name, contestants.scores(bench, plan, other.samples(plan)), part))
        except GenpipeError as error:
            faults[name] = error
    return found, faults


def chosen(asked: Gate, others: Sequence[Opponent]) -> Sequence[Opponent]:
    """The champion, who stands first, and the best of the others where that is better."""
    means = {
        one.name: {score: float(np.mean([draw[score] for draw in one.draws])) for score in one.draws[0]}
        for one in others
    }
    best = gate.best_of(asked, means)
    return [*others[:1], *(one for one in others[1:] if one.name == best)]


def tags_of(metrics: Mapping[str, Any]) -> dict[str, str]:
    """What later trials want to know of a version's evaluation."""
    values = {name: score["value"] for name, score in scored(metrics).items()}
    card = metrics["card"]
    return {
        EVALUATOR: card["evaluator_digest"],
        SCORES: json.dumps(values),
        contestants.SAMPLING: json.dumps(card["sampling"]),
    }


def rule_for(project: Project, version: ModelVersion, champion: ModelVersion | None) -> Rule:
    """The gate's rule; `auto` asks for a better model on the champion's data, and for one not worse on new data.

    Where it is not known whose data are new, `auto` asks for more.
    """
    if champion is None:
        return "first"
    asked = project.mlflow.gate.rule
    if asked != "auto":
        return asked
    here, there = (registry.origin(project, one).get(tracking.ROWS) for one in (version, champion))
    return "not_worse" if here and there and here != there else "better"


def rivals(project: Project, version: ModelVersion, measure: ModelVersion | None, rule: Rule) -> list[ModelVersion]:
    """The champion, and for `not_worse` the last of those whom it replaced, one by one."""
    if measure is None:
        return []
    former = [one for one in champions(project) if one.version not in (version.version, measure.version)]
    return [measure, *(former[:FORMER] if rule == "not_worse" else ())]


def last_champion(project: Project) -> ModelVersion | None:
    """Against whom a version is held when there is no champion any more, since alias or version were deleted."""
    return next(iter(champions(project)), None)


def champions(project: Project) -> list[ModelVersion]:
    """The champion and those in whose places it stands, the last first, as far as they still exist."""
    left = {int(one.version): one for one in registry.versions(project)}
    line = dict.fromkeys(reversed(ledger.line(ledger.events(project))))
    return [left[number] for number in line if number in left]


def untried(version: ModelVersion, rival: ModelVersion, error: GenpipeError) -> str:
    return (
        f"Version {rival.version} can't be scored beside version {version.version}, so it is not replaced: "
        f"{told(error)}. To make the new one champion all the same: `genpipe promote {version.version}`."
    )


def told(error: GenpipeError) -> str:
    return " ".join(str(error).split())


def refuse_other_protocol(project: Project, bench: Bench, plan: Plan, card: Mapping[str, Any]) -> None:
    """Raises DataError when evaluate would measure otherwise by now than it did: by other settings, data or code."""
    if unlike := cards.differences(card, contestants.protocol(project, bench, plan)):
        raise DataError(
            f"metrics.json was not made as evaluate would make it now ({'; '.join(unlike)}); `genpipe run` or "
            "`dvc repro` brings it up to date"
        )


def refuse_other_samples(
    project: Project, challenger: Contestant, samples: np.ndarray, card: Mapping[str, Any]
) -> None:
    """Raises StageError unless these are the samples that evaluate scored.

    On another machine or device roundings differ; then those that evaluate keeps, of the first draw, must lie as near
    as the modality allows, but for a share of ROUNDED.
    """
    if cards.digest(samples) == card["samples_digest"]:
        return
    modality = modalities.load(challenger.data.modality)
    kept = np.asarray(Arrays(project.artifacts / "evaluate" / "samples")[modality.CONTENT])
    drawn = samples[: len(kept)]
    if (drawn.shape, drawn.dtype) != (kept.shape, kept.dtype):
        found = f"they are of shape {drawn.shape} and type {drawn.dtype}, not {kept.shape} and {kept.dtype}"
    else:
        apart = np.abs(drawn.astype(np.int64) - kept.astype(np.int64))
        if (beyond := float((apart > modality.ROUNDING_LEVELS).mean())) <= ROUNDED:
            return
        found = (
            f"{beyond:.2%} of the values differ by more than {modality.ROUNDING_LEVELS}, which is rounding, by up to "
            f"{apart.max()}; at most {ROUNDED:.1%} may"
        )
    raise StageError(
        f"{challenger.name} as it was registered does not give the samples that evaluate scored: {found}. It gets no "
        "alias; `dvc repro --force evaluate` and `genpipe stage register` try again"
    )
