"""What `genpipe lineage` does: from a file, a version or a digest to data, code, settings, training and evaluation.

What belongs together is tied by digests: a version's tags name the rows and files of its data, its training, its
model's two files and its evaluation. A model, metrics.json and the data are asked by the digest over their content, so
one that has changed since is not taken for what it was. Any other output stands for what lies beside it: a picture in
evaluate/ for the evaluation, a file of an earlier stage for the data that data.dvc names.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Column, Table

from genpipe import dag, terminal
from genpipe.champion import ledger
from genpipe.champion.verdict import of_tags
from genpipe.data.dataset import Stored
from genpipe.errors import RegistryError
from genpipe.project import Project
from genpipe.records import registry, tracking
from genpipe.records.registry import EVALUATION, ModelVersion, digest_of
from genpipe.records.tracking import COMMIT, DATASET, DIRTY, FILES, ROWS, TRAINING, VERSION
from genpipe.terminal import Line, Unbroken
from genpipe.watching import ages

SHORT, IN_TABLE = 12, 8  # digits of a digest in the terminal; so many are enough to ask by
COLUMNS = ("version", "data", "commit", "training", "model", "evaluation")
SHORTEST = 6  # digits of a digest that is asked by its beginning
NAMED = {
    ROWS: "data",
    FILES: "files of data",
    COMMIT: "commit",
    TRAINING: "training",
    registry.MODEL: "model",
    EVALUATION: "evaluation",
    registry.EVALUATOR: "evaluator",
}


@dataclass(frozen=True)
class Found:
    """What was asked for, in words, and the versions that belong to it."""

    asked: str
    versions: list[ModelVersion]
    samples: dict[str, Any] | None = None  # the manifest of `genpipe sample`, when one was asked for


def show(directory: Path, what: str, *, as_json: bool) -> None:
    """Print what belongs to `what`: the whole of one version, or a line for each of several.

    Raises RegistryError when nothing in the registry belongs to it.
    """
    project = Project.find(directory)
    past = ledger.reconcile(project)
    place = directory / what
    found = of_file(project, place) if place.exists() else of_word(project, what)
    traced = [trace(project, version, past) for version in found.versions]
    if as_json:
        json.dump({"asked": found.asked, "samples": found.samples, "versions": traced}, sys.stdout, indent=2)
        print()
    elif len(traced) == 1:
        terminal.show(*page(traced[0], found))
    else:
        terminal.show(table(found.asked, traced))


# What is asked for


def of_word(project: Project, word: str) -> Found:
    """From a number, an alias or a URI, or from the beginning of a digest."""
    digest = len(word) >= SHORTEST and set(word) <= set("0123456789abcdef.dir")
    if not digest or word in registry.aliases(project):
        version = registry.resolve(project, word)
        return Found(f"version {version.version}", [version])
    return of_digest(project, word)


def of_digest(project: Project, start: str, what: str = "digest") -> Found:
    """The versions that know the digest which begins with `start`.

    Raises RegistryError when there is none, or when several digests begin so.
    """
    known: dict[tuple[str, str], list[ModelVersion]] = {}
    for version in registry.versions(project):
        tags = {**registry.origin(project, version), **version.tags}
        for tag, name in NAMED.items():
            if tags.get(tag, "").startswith(start):
                known.setdefault((name, tags[tag]), []).append(version)
    if not known:
        raise RegistryError(
            f"no version of {project.mlflow.registry.name} knows the {what} {start[:SHORT]}; `genpipe run` registers "
            "what the stages have made"
        )
    if len({digest for _, digest in known}) > 1:
        several = ", ".join(f"{name} {digest[: len(start) + 6]}…" for name, digest in known)
        raise RegistryError(f"'{start}' is the beginning of several digests: {several}; give more of it")
    (name, digest), versions = next(iter(known.items()))
    return Found(f"{name} {digest[:SHORT]}", versions)


def of_file(project: Project, path: Path) -> Found:
    """From samples with their manifest, a model's folder, metrics.json, data, or any output of a stage."""
    path = path.resolve()
    folder = path if path.is_dir() else path.parent
    manifest = folder / "manifest.json"
    if manifest.is_file():
        samples = json.loads(manifest.read_text(encoding="utf-8"))
        if "digest" not in samples:
            raise RegistryError(f"{manifest} does not say of which version it is: an older genpipe wrote it")
        found = of_digest(project, samples["digest"], "model")
        return Found(f"samples in {folder}", found.versions, samples)
    what, digest = digest_of_file(project, path, folder)
    return Found(str(path), of_digest(project, digest, what).versions)


def digest_of_file(project: Project, path: Path, folder: Path) -> tuple[str, str]:
    """What a file is, and the digest by which versions know it. Raises RegistryError for a file of nobody's."""
    model = (folder / "model.safetensors", folder / "config.json")
    if path.name == "metrics.json":
        return "evaluation", digest_of(path)
    if all(file.is_file() for file in model):
        return "model", digest_of(*model)
    if path.is_relative_to(project.artifacts / "evaluate"):
        return "evaluation", digest_of(project.artifacts / "evaluate" / "metrics.json")
    if path.is_relative_to(project.artifacts / "train"):
        return digest_of_file(project, path, project.artifacts / "train")
    if path.is_relative_to(project.data):
        return "data", Stored.find(project.data).digest
    rows = dag.versioned_rows(project)
    if rows and (path.is_relative_to(project.artifacts) or path == project.root / "data.dvc"):
        return "data", rows
    raise RegistryError(
        f"{path} is no output of this project: name a file in data/ or artifacts/, a folder of `genpipe sample`, a "
        "version, or a digest"
    )


# What belongs to a version


def trace(project: Project, version: ModelVersion, past: list[ledger.Event]) -> dict[str, Any]:
    """Everything that is known of a version; None where it is not."""
    number, name = int(version.version), version.name
    tags = {**registry.origin(project, version), **version.tags}
    run = tracking.found_run(project, version.run_id)
    moves = [event for event in past if event.version == number]
    dirty = {"true": False, "false": True}.get(tags.get(DIRTY, ""))
    return {
        "version": {
            "name": name,
            "number": number,
            "aliases": sorted(alias for alias, of in registry.aliases(project).items() if of == number),
            "page": tracking.page(project, f"models/{name}/versions/{number}"),
        },
        "data": {
            **json.loads(tags.get(DATASET, "{}")),
            "digest": tags.get(ROWS),
            "files": tags.get(FILES),
            "revision": revision_of(project, tags),
        },
        "code": {"commit": tags.get(COMMIT), "committed": dirty, "genpipe": tags.get(VERSION)},
        "settings": dict(run.data.params) if run else None,
        "training": {
            "digest": tags.get(TRAINING),
            "run": version.run_id or None,
            "page": tracking.run_link(project, run.info.run_id) if run else None,
        },
        "model": {"digest": tags.get(registry.MODEL)},
        "evaluation": {"digest": tags.get(EVALUATION), "evaluator": tags.get(registry.EVALUATOR)},
        "gate": verdict.plain() if (verdict := of_tags(tags)) else None,
        "promotions": [
            {"kind": event.kind, "at": event.at.isoformat(), "by": event.by, "why": event.why} for event in moves
        ],
    }


def revision_of(project: Project, tags: Mapping[str, str]) -> str | None:
    """The commit that brought the data.dvc which names a version's data; None where git knows none."""
    for commit in tracking.git(project, "log", "--all", "--format=%H", "--", "data.dvc").split():
        named = yaml.safe_load(tracking.git(project, "show", f"{commit}:./data.dvc") or "{}")
        rows, files = named.get("meta", {}).get("rows"), [out.get("md5") for out in named.get("outs", [])]
        if (ROWS in tags and rows == tags[ROWS]) or tags.get(FILES) in files:
            return commit
    return None


# How it is shown


def page(traced: Mapping[str, Any], found: Found) -> Iterator[RenderableType]:
    """One version with all that belongs to it."""
    yield f"[bold]{escape(title(traced))}[/bold]"
    for name, parts in lines(traced):
        yield terminal.beside(name, *parts)
    if drawn := found.samples:
        text = f"{len(drawn['samples'])}, seed {drawn['seed']}, {settings_of(drawn['sampling'])}"
        yield terminal.beside("samples", text)


def lines(traced: Mapping[str, Any]) -> Iterator[tuple[str, list[Line]]]:
    """What is known of each part; an address has a line of its own."""
    data, code, training = traced["data"], traced["code"], traced["training"]
    named = f"{data['name']}, {data['rows']:,} rows, " if "name" in data else ""
    yield "page", [Unbroken(traced["version"]["page"])]
    yield "data", [f"{escape(named)}{short(data['digest'])}, files {short(data['files'])}", brought_by(data)]
    if "licence" in data:
        yield "licence", [escape(f"{data['licence']}; {data['source']}")]
    state = {True: ", all of it committed", False: ", with changes that were not committed", None: ""}
    ran = f", genpipe {code['genpipe']}" if code["genpipe"] else ""
    yield "code", [f"commit {short(code['commit'])}{state[code['committed']]}{ran}"]
    if settings := traced["settings"]:
        chosen = {key: settings[key] for key in ("generator.kind", "steps", "seed") if key in settings}
        yield "settings", [f"{settings_of(chosen)}; all {len(settings)} of them in the run"]
    run = Unbroken(training["page"]) if training["page"] else "its run has been deleted"
    yield "training", [short(training["digest"]), run]
    yield "model", [short(traced["model"]["digest"])]
    evaluation = traced["evaluation"]
    yield "evaluation", [f"{short(evaluation['digest'])} by evaluator {short(evaluation['evaluator'])}"]
    if gate := traced["gate"]:
        yield "gate", [escape(text) for text in (gate["title"], *gate["reasons"])]
    for move in traced["promotions"]:
        by = f" by {move['by']}" if move["by"] else ""
        why = f": {move['why']}" if move["why"] else ""
        yield "champion", [escape(f"{move['kind']} {ages.clock(move['at'])}{by}{why}")]


def table(asked: str, traced: list[dict[str, Any]]) -> Table:
    """Several versions, a line each; a plus sign stands for changes that were not committed."""
    columns = (Column(name, overflow="fold") for name in COLUMNS)
    about = f"{len(traced)} versions of {traced[0]['version']['name']} with {asked}"
    found = Table(*columns, title=about, title_justify="left")
    for one in traced:
        version = one["version"]
        digests = [one["data"]["digest"] or one["data"]["files"], one["code"]["commit"]]
        digests += [one[part]["digest"] for part in ("training", "model", "evaluation")]
        data, commit, *others = (digest[:IN_TABLE] if digest else "?" for digest in digests)
        commit += " +" if one["code"]["committed"] is False else ""
        found.add_row(" ".join([str(version["number"]), *version["aliases"]]), data, commit, *others)
    return found


def title(traced: Mapping[str, Any]) -> str:
    aliases = ", ".join(traced["version"]["aliases"])
    return f"{traced['version']['name']} version {traced['version']['number']}" + (f" ({aliases})" if aliases else "")


def brought_by(data: Mapping[str, Any]) -> str:
    return f"data.dvc of commit {short(data['revision'])}" if data["revision"] else "data.dvc of no commit here"


def short(digest: str | None) -> str:
    return digest[:SHORT] if digest else "not known"


def settings_of(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items()) or "no options"
