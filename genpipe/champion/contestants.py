"""Contestants: models that are asked for the same samples, and scored on one bench by the evaluator of today.

A registered version is sampled in a fresh process by the code that it carries; a folder of outputs by the code that is
installed. Only arrays of samples meet here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genpipe import sampling
from genpipe.champion import versions
from genpipe.code import carried_digest
from genpipe.data.arrays import Arrays, DataSpec
from genpipe.data.keys import packed
from genpipe.devices import choose_device
from genpipe.drawing import about, drawn_here, find, model_digest
from genpipe.errors import ComparisonError, DataError, RegistryError, StageError
from genpipe.evaluation.bench import Bench, Plan
from genpipe.project import Project
from genpipe.records import registry, tracking
from genpipe.stages import evaluate

SAMPLING = "genpipe.sampling"  # tag of a version: the options with which evaluate drew from it


def name_of(version: registry.ModelVersion) -> str:
    return f"version {version.version}"


@dataclass(frozen=True)
class Contestant:
    name: str  # "version 3"
    folder: Path
    data: DataSpec
    kind: str
    conditional: bool
    options: Mapping[str, Any]  # how it is drawn from, where that is not its default
    registered: bool = True

    def samples(self, plan: Plan) -> np.ndarray:
        """What it answers to a plan, (R · M, *shape) as stored. Raises StageError when its code fails."""
        labels = np.zeros(plan.count, np.int64) if plan.labels is None else plan.labels
        if not self.registered:
            return drawn_here(self.folder, labels, plan.seed, self.options).examples
        asked = versions.signature(self.folder)
        return versions.sampled(self.folder, asked.rows(labels), {**asked.options, **self.options, "seed": plan.seed})


def of_version(project: Project, version: registry.ModelVersion) -> Contestant:
    """Raises RegistryError when its files are gone or were changed, and DataError when they are not genpipe's."""
    folder = whole(project, version)
    conditional = versions.signature(folder).conditional
    options = json.loads(version.tags.get(SAMPLING, "{}"))
    return described(name_of(version), folder, conditional, options, registered=True)


def whole(project: Project, version: registry.ModelVersion) -> Path:
    """The files of a version. Raises RegistryError when they are gone, or not those that were registered."""
    folder, found = registry.download(project, f"models:/{version.name}/{version.version}"), dict[str, str]()
    if registry.MODEL in version.tags:
        found[registry.MODEL] = model_digest(folder)
    if registry.CODE in version.tags:  # versions of older genpipes have none
        found[registry.CODE] = carried_digest(folder / "code" / "genpipe", folder / registry.SERVED.name)
    for tag, digest in found.items():
        if digest != version.tags[tag]:
            raise RegistryError(
                f"the files of version {version.version} of {version.name} are not those that were registered: their "
                f"digest {tag} is {digest[:12]}…, not {version.tags[tag][:12]}…; the alias champion stays where it is"
            )
    return folder


def of_folder(folder: Path, name: str) -> Contestant:
    """What train writes, or a folder around it, with the options of the evaluation beside it if that is its own."""
    trained = find(folder, "config.json").parent
    evaluation, options = trained.with_name("evaluate") / "metrics.json", dict[str, Any]()
    if evaluation.is_file():
        card = json.loads(evaluation.read_text(encoding="utf-8")).get("card", {})
        options = card["sampling"] if card.get("training_digest") == about(trained)["digest"] else {}
    return described(name, trained, "label" in sampling.load(trained).takes(), options, registered=False)


def described(
    name: str, folder: Path, conditional: bool, options: Mapping[str, Any], *, registered: bool
) -> Contestant:
    config = about(folder)
    kind = config["train"]["generator"]["kind"]
    return Contestant(name, folder, DataSpec.of(config["data"]), kind, conditional, options, registered)


def refuse_unlike(one: Contestant, other: Contestant) -> None:
    """Raises ComparisonError when no bench could score both, with every difference named."""
    left, right = (
        {
            "modality": a.data.modality,
            "shape": a.data.shape,
            "classes": a.data.classes,
            "condition": "label" if a.conditional else "none",
        }
        for a in (one, other)
    )
    if found := [f"{name}: {left[name]} against {right[name]}" for name in left if left[name] != right[name]]:
        raise ComparisonError(found, f"{one.name} and {other.name} make unlike things")


def refuse_seen(project: Project, version: registry.ModelVersion) -> None:
    """Raises DataError when the version was trained on examples that are held out now, as its run tells."""
    run, ids = tracking.found_run(project, version.run_id), Arrays(project.artifacts / "augment" / "test")["id"]
    known = tracking.rows_of(run, packed(ids.tolist()).tolist()) if run else None
    if seen := sum(split != "test" for split in (known or {}).values()):
        raise DataError(
            f"{name_of(version)} was trained on {seen} of the {len(ids)} examples that are held out now, since the "
            "splits have changed (augment, params.yaml)"
        )


def prepared(project: Project, contestant: Contestant) -> tuple[Bench, Plan]:
    """Bench and plan as evaluate makes them. Raises DataError when the contestant is of other data than the bench."""
    config = project.section("evaluate", evaluate.Config)
    bench, plan = evaluate.prepared(config, project, contestant.conditional, choose_device("auto"))
    if bench.evaluator.data != contestant.data:
        raise DataError(
            f"{contestant.name} makes {contestant.data.plain()}, and the arrays of this project are "
            f"{bench.evaluator.data.plain()}; go back to its data and settings to score it"
        )
    return bench, plan


def protocol(project: Project, bench: Bench, plan: Plan) -> dict[str, Any]:
    """The half of a card that says how scores on this bench come about, as metrics.json would hold it."""
    found = evaluate.protocol(project.section("evaluate", evaluate.Config), project, bench, plan)
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def scores(bench: Bench, plan: Plan, samples: np.ndarray) -> list[dict[str, float]]:
    """The scores of each draw. Raises StageError for samples that are no answer to the plan."""
    asked = (plan.count, *bench.held_out.content.shape[1:]), bench.held_out.content.dtype
    if (samples.shape, samples.dtype) != asked or not np.isfinite(samples).all():
        raise StageError(
            f"it gives samples of shape {samples.shape} and type {samples.dtype}, or such that are no numbers; asked "
            f"for were {asked[0]} of type {asked[1]}"
        )
    return [draw.scores for draw in bench.score(plan, samples)]
