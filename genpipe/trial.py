"""The trial of a registered version: does it give the samples that were scored, and does the gate let it pass?

The version, the champion and, where quality might creep down, the best version so far are sampled in fresh processes,
each by its own code, with the same labels, seed and counts, and scored on one bench by the present evaluator.
"""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from genpipe import contestants, gate, modalities, registry, tracking
from genpipe.bench import Plan
from genpipe.cards import digest
from genpipe.contestants import Contestant
from genpipe.data.arrays import Arrays
from genpipe.data.keys import packed
from genpipe.errors import DataError, GenpipeError, StageError
from genpipe.gate import Opponent
from genpipe.project import Project
from genpipe.registry import EVALUATOR, ModelVersion
from genpipe.scores import scored
from genpipe.verdict import Rule, Verdict

SCORES = "genpipe.scores"  # tag of a version: the values that its evaluator gave it


def hold(project: Project, version: ModelVersion, champion: ModelVersion | None, metrics: Mapping[str, Any]) -> Verdict:
    """The gate's verdict on `version`, whose evaluation is `metrics`, beside the champion.

    Raises StageError when the version does not give the samples that evaluate scored. A champion that can't be scored
    is no failure: it stays, and the verdict says why.
    """
    rule = rule_for(project, version, champion)
    challenger = replace(contestants.of_version(project, version), options=metrics["card"]["sampling"])
    bench, plan = contestants.prepared(project, challenger)
    theirs, faults = dict[str, np.ndarray](), list[str]()
    with ThreadPoolExecutor(1) as pool:  # beside the others: half of the time goes into starting processes
        answer = pool.submit(challenger.samples, plan)
        for rival in rivals(project, version, champion, rule, metrics):
            try:
                theirs[contestants.name_of(rival)] = answer_of(project, rival, challenger, plan)
            except GenpipeError as error:
                faults.append(untried(version, rival, error))
        samples = answer.result()
    refuse_other_samples(project, challenger, samples, metrics["card"])
    if faults:
        return Verdict("kept", rule, (), tuple(faults))
    mine = contestants.scores(bench, plan, samples) if theirs else []
    found = [Opponent(name, contestants.scores(bench, plan, drawn)) for name, drawn in theirs.items()]
    return gate.decide(project.mlflow.gate, rule, scored(metrics), mine, *found)


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
    """The gate's rule; `auto` asks for a better model on the champion's data, and for one not worse on new data."""
    if champion is None:
        return "first"
    asked = project.mlflow.gate.rule
    if asked != "auto":
        return asked
    here, there = (registry.origin(project, one).get(tracking.ROWS) for one in (version, champion))
    return "better" if here == there else "not_worse"


def rivals(
    project: Project, version: ModelVersion, champion: ModelVersion | None, rule: Rule, metrics: Mapping[str, Any]
) -> list[ModelVersion]:
    """The champion, and for `not_worse` the best version that this evaluator has scored, if that is another one."""
    if champion is None:
        return []
    evaluator = metrics["card"]["evaluator_digest"]
    known = [one for one in registry.versions(project) if one.tags.get(EVALUATOR) == evaluator]
    values = {str(one.version): json.loads(one.tags[SCORES]) for one in known if one.version != version.version}
    best = gate.best_of(project.mlflow.gate, values) if rule == "not_worse" else None
    return [champion, *(one for one in known if str(one.version) == best and one.version != champion.version)]


def answer_of(project: Project, rival: ModelVersion, challenger: Contestant, plan: Plan) -> np.ndarray:
    """The samples of a rival. Raises GenpipeError when it is not to be held against the challenger, or fails."""
    found = contestants.of_version(project, rival)
    contestants.refuse_unlike(challenger, found)
    refuse_seen(project, rival)
    return found.samples(plan)


def refuse_seen(project: Project, rival: ModelVersion) -> None:
    """Raises DataError when the rival was trained on examples that are held out now, as its run tells."""
    run, ids = tracking.found_run(project, rival.run_id), Arrays(project.artifacts / "augment" / "test")["id"].tolist()
    known = tracking.rows_of(run, packed(ids).tolist()) if run else None
    if seen := sum(split != "test" for split in (known or {}).values()):
        raise DataError(
            f"it was trained on {seen} of the {len(ids)} examples that are held out now, since the splits have changed "
            "(augment, params.yaml)"
        )


def untried(version: ModelVersion, rival: ModelVersion, error: GenpipeError) -> str:
    told = " ".join(str(error).split())
    return (
        f"Version {rival.version} can't be scored beside version {version.version}, so it is not replaced: {told}. To "
        f"make the new one champion all the same: `genpipe promote {version.version}`."
    )


def refuse_other_samples(
    project: Project, challenger: Contestant, samples: np.ndarray, card: Mapping[str, Any]
) -> None:
    """Raises StageError unless these are the samples that evaluate scored.

    On another machine or device roundings differ; then those that evaluate keeps, of the first draw, must lie as near
    as the modality allows.
    """
    if digest(samples) == card["samples_digest"]:
        return
    modality = modalities.load(challenger.data.modality)
    kept = np.asarray(Arrays(project.artifacts / "evaluate" / "samples")[modality.CONTENT])
    apart = np.abs(samples[: len(kept)].astype(np.int64) - kept.astype(np.int64)).max()
    if apart > modality.ROUNDING_LEVELS:
        raise StageError(
            f"{challenger.name} as it was registered does not give the samples that evaluate scored: values differ by "
            f"up to {apart}, and at most {modality.ROUNDING_LEVELS} is rounding. It gets no alias; `dvc repro --force "
            "evaluate` and `genpipe stage register` try again"
        )
