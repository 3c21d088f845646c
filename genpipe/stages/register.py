"""register: make the trained and evaluated model a version in MLflow's registry, and champion if the gate lets it.

It stands after the DAG, since it acts on a server: whether it has work is asked of the registry, by digest.
"""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from genpipe import code, dag, modalities
from genpipe.champion import ledger, news
from genpipe.champion.verdict import ALLOW_DIRTY, Verdict, of_tags
from genpipe.config import Field, parse, plain, settings
from genpipe.data.arrays import ORIGIN, Arrays, DataSpec
from genpipe.data.dataset import Stored
from genpipe.errors import DataError
from genpipe.evaluation.scores import HEADINGS, lines, logged_name, scored
from genpipe.files import write_json
from genpipe.project import Project
from genpipe.records import recording, registry, tracking
from genpipe.records.registry import EVALUATION, digest_of
from genpipe.stages import validate

RESTS_ON = "genpipe.verdict.rests_on"


@settings
class Config:
    tags: dict[str, str] = Field(default_factory=dict, description="tags that each new version gets")


def run(cfg: Config, project: Project) -> dict[str, float]:
    """Log evaluation and model to the training's run, register a version, and note it in the project's state.

    Raises DataError when train or evaluate have not run. What the registry holds already is not made again.
    """
    config, metrics = read(project, "train/config.json"), read(project, "evaluate/metrics.json")
    recording.end_abandoned(project)
    ledger.reconcile(project)
    version, text = registry.find_version(project, model_digest(project)), card(project, config, metrics)
    if version is None or not is_complete(version, project):
        training = training_of(project, config)
        tracking.log_evaluation(project, training, scores(metrics), project.artifacts / "evaluate", text)
        tracking.log_validation(project, training, project.artifacts / "validate", shown(project))
        version = version or new_version(project, training, config)
        verdict = judge(project, version, metrics)
        tracking.log_figures(project, training, verdict.figures())
        own = {**verdict.tags(), EVALUATION: evaluation_digest(project)}
        registry.describe_version(project, version, {**cfg.tags, **own}, f"{text}\n\n{verdict.markdown()}")
    noted = note(project, version)
    print(f"{version.name} version {version.version}, {noted['alias'] or 'no alias'}")
    return {"version": float(version.version)}


def shown(project: Project) -> dict[str, Path]:
    """The pages that show what validation found; their index leads nowhere from inside a run."""
    return {title: page for title, page in validate.pages(project).items() if page.name != "index.html"}


def pending(project: Project) -> bool:
    """Whether the registry lacks a version of this model with this evaluation; if not, its version is noted anew."""
    recording.end_abandoned(project)
    ledger.reconcile(project)
    version = registry.find_version(project, model_digest(project))
    if version is None or not is_complete(version, project):
        return True
    note(project, version)
    return False


def is_complete(version: registry.ModelVersion, project: Project) -> bool:
    """Whether a version carries this evaluation, the tag that registering sets last, and a verdict that may stand.

    A verdict stands as long as champion and gate are those on which it rests, and its alias has followed it.
    """
    verdict = of_tags(version.tags)
    if verdict is None or version.tags.get(EVALUATION) != evaluation_digest(project):
        return False
    if ledger.PROMOTED in version.tags:
        return True
    if verdict.outcome == "promoted" or version.tags.get(RESTS_ON) != rests_on(project, ledger.champion(project)):
        return False
    return verdict.outcome == "kept" or known_origin(project, version) is None


def rests_on(project: Project, champion: registry.ModelVersion | None) -> str:
    """On what a verdict rests beside the version itself: the champion and the settings of the gate."""
    asked = json.dumps(plain(project.mlflow.gate), sort_keys=True)
    digest, number = hashlib.sha256(asked.encode()).hexdigest(), champion.version if champion else "none"
    return f"champion {number}, gate {digest[:12]}"


def judge(project: Project, version: registry.ModelVersion, metrics: Mapping[str, Any]) -> Verdict:
    """Hold the version against the champion, and make it champion if it passes, else `challenger`.

    Whoever is or has been champion is not judged again: a rollback stands until somebody promotes the version.
    """
    from genpipe.champion import trial  # torch takes seconds, and most calls find nothing to do

    champion = ledger.champion(project)
    if ledger.PROMOTED in version.tags or (champion is not None and champion.version == version.version):
        registry.tag_version(project, int(version.version), trial.tags_of(metrics))
        return of_tags(version.tags) or Verdict("promoted", "first", (), ("It has been champion already.",))
    verdict = trial.hold(project, version, champion, metrics)
    origin = known_origin(project, version) if verdict.outcome == "promoted" else {}
    if origin is None:
        verdict = verdict.uncommitted(version.version, in_git=bool(tracking.code_state(project)))
    # Before the alias: whoever is champion has a verdict.
    noted = trial.tags_of(metrics) | (origin or {}) | {RESTS_ON: rests_on(project, champion)}
    noted |= news.tags() if verdict.outcome == "promoted" else {}
    registry.tag_version(project, int(version.version), noted | verdict.tags())
    if verdict.outcome == "promoted":
        why, reasons = f"it passed the gate, {verdict.ground}", " ".join(verdict.reasons)
        ledger.promote(project, version, why=why, verdict=reasons, compared_with=champion)
    elif EVALUATION not in version.tags:  # else it keeps what alias it has
        registry.set_alias(project, ledger.CHALLENGER, int(version.version))
    return verdict


def known_origin(project: Project, version: registry.ModelVersion) -> dict[str, str] | None:
    """What more is known by now of the commit that made the version, as tags; None if it must not pass without one.

    What was not committed when the training ran may be so by now: if nothing is left to commit, DVC knows the outputs
    as those of the present code and settings, and the version carries the present code, the present commit made it.
    """
    if os.environ.get(ALLOW_DIRTY) or registry.origin(project, version).get(tracking.DIRTY) == "false":
        return {}
    state = tracking.code_state(project)
    clean = state.get(tracking.DIRTY) == "false" and version.tags.get(registry.CODE) == carried_now(project)
    return state if clean and not dag.changed(project) else None


def carried_now(project: Project) -> str:
    """The digest of the code that a version of this model would carry if it were registered now."""
    config = read(project, "train/config.json")
    with TemporaryDirectory() as folder:
        carried = code.copy(Path(folder), config["train"]["generator"]["kind"], config["data"]["modality"])
        return code.carried_digest(carried, registry.SERVED)


def note(project: Project, version: registry.ModelVersion) -> dict[str, Any]:
    """Write down which version the outputs are, with the aliases that it has now."""
    version = registry.get_version(project, int(version.version)) or version  # its tags and aliases as they are now
    link, alias = tracking.run_link(project, str(version.run_id)), ", ".join(version.aliases)
    noted = {"name": version.name, "version": int(version.version), "alias": alias, "run": link}
    verdict = of_tags(version.tags)
    noted |= {"verdict": verdict.plain() if verdict else None}
    write_json(noted_file(project), noted)
    return noted


def noted_file(project: Project) -> Path:
    """Which version the outputs are, for the summary and for Prefect."""
    return project.state / "registered.json"


def read(project: Project, name: str) -> dict[str, Any]:
    file = project.artifacts / name
    if not file.exists():
        raise DataError(f"{file} is absent; `genpipe run` or `dvc repro` makes it")
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def model_digest(project: Project) -> str:
    return digest_of(project.artifacts / "train" / "model.safetensors", project.artifacts / "train" / "config.json")


def evaluation_digest(project: Project) -> str:
    return digest_of(project.artifacts / "evaluate" / "metrics.json")


def training_of(project: Project, config: Mapping[str, Any]) -> str:
    """The id of the run that trained the model; where this store has none, of one made from the outputs."""
    done, ended = ("FINISHED",), ("FAILED", "KILLED")  # of its own the outputs prove that it came to its end
    for states, own in ((done, True), (done, False), (ended, True)):
        if found := tracking.find_run(project, config["digest"], states, own=own):
            return str(found.info.run_id)
    with (project.artifacts / "train" / "curves.csv").open(encoding="utf-8", newline="") as file:
        curves = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    return recording.restored_run(project, config["digest"], config["train"], curves)


def new_version(project: Project, run_id: str, config: Mapping[str, Any]) -> registry.ModelVersion:
    """Log the model's two files, whose data it was trained on, and the code that samples it, and register them."""
    from genpipe import generators  # torch takes seconds, and most calls find nothing to do

    data, generator = config["data"], config["train"]["generator"]
    module = generators.load(generator["kind"])
    chosen = {name: value for name, value in generator.items() if name != "kind"}
    model = generators.build(generator["kind"], parse(module.Config, chosen, "train.generator"), DataSpec.of(data))
    params = {"seed": 0, **plain(module.Sampling())}
    content = modalities.load(data["modality"]).CONTENT
    dtype = str(Arrays(project.artifacts / "augment" / "train")[content].dtype)
    with TemporaryDirectory() as folder:
        carried = code.copy(Path(folder), generator["kind"], data["modality"])
        files = Path(folder) / "model"
        files.mkdir()
        for name in ("model.safetensors", "config.json"):
            shutil.copy(project.artifacts / "train" / name, files)
        shutil.copy(project.artifacts / "augment" / ORIGIN, files)
        signature = registry.signature(model.takes(), params, tuple(data["shape"]), dtype)
        tags = {tracking.TRAINING: config["digest"], registry.MODEL: model_digest(project)}
        tags |= {registry.CODE: code.carried_digest(carried, registry.SERVED), **tracking.run_origin(project, run_id)}
        if tracking.git(project, "status", "--porcelain", "--", "genpipe"):
            tags[tracking.DIRTY] = "true"  # code that travels with the version may have changed since the training
        return registry.log_version(project, run_id, files, carried, signature, tags)


def scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The values of metrics.json, with interval, floor and baseline, as MLflow names them."""
    return {logged_name(name, part): value for name, score in scored(metrics).items() for part, value in score.items()}


def card(project: Project, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The version's description: what it is, its scores, the data's licence and source."""
    about = Stored.find(project.data).about
    text = [
        f"**{config['train']['generator']['kind']}** trained on **{about.name}** ({about.modality}).",
        "",
        f"| {' | '.join(HEADINGS)} |",
        "|---" * len(HEADINGS) + "|",
        *(f"| {' | '.join(line)} |" for line in lines(metrics)),
    ]
    return "\n".join([*text, "", f"Data: {about.source}. Licence: {about.licence}. {about.citation}"])
