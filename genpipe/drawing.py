"""What `genpipe sample` does: draw from a registered version, or from a folder of outputs, and write files.

A registered version is sampled in a process of its own, by the code that it carries.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from genpipe import modalities
from genpipe.champion import ledger, versions
from genpipe.config import explain, parse, plain
from genpipe.data.arrays import ORIGIN, DataSpec
from genpipe.errors import ConfigError, DataError
from genpipe.files import write_json
from genpipe.project import Project
from genpipe.records import registry
from genpipe.records.registry import digest_of


def options(words: Sequence[str]) -> dict[str, Any]:
    """`--truncation 0.7` and `--truncation=0.7` as names and values. Raises ConfigError for anything else."""
    found: dict[str, Any] = {}
    waiting = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    while waiting:
        name = waiting.pop(0)
        if not name.startswith("--") or not waiting:
            raise ConfigError(
                [f"'{name}': it must be an option of the generator with a value, such as --truncation 0.7"]
            )
        found[name.removeprefix("--").replace("-", "_")] = yaml.safe_load(waiting.pop(0))
    return found


def write_samples(
    directory: Path, model: str, count: int, out: Path, seed: int, label: str | None, given: Mapping[str, Any]
) -> None:
    """Draw `count` samples, write them and manifest.json to the folder `out`, and say so.

    Raises ConfigError for options that the model doesn't have and DataError when `out` holds files already.
    """
    if count < 1:
        raise ConfigError([f"-n {count}: it must be at least 1"])
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty; name a folder that is, or that does not exist (--out)")
    registered = model.startswith(("models:/", "runs:/"))
    folder, origin = located(directory, model) if registered else (directory / model, {})
    config = about(folder)
    data, kind = DataSpec.of(config["data"]), config["train"]["generator"]["kind"]
    draw = drawn_by_version if registered else drawn_here
    drawn = draw(folder, labels_of(data, count, label), seed, given)
    if label is not None and drawn.labels is None:
        raise ConfigError([f"--label {label}: this model takes no label; leave it out"])
    modality = modalities.load(data.modality)
    out.mkdir(parents=True, exist_ok=True)
    files = modality.write(drawn.examples, out)
    names = [None] * count if drawn.labels is None else [data.classes[number] for number in drawn.labels]
    entries = [{"file": file.name, "label": name} for file, name in zip(files, names, strict=True)]
    named = {"model": model, **origin, "digest": model_digest(folder), "kind": kind, "seed": seed}
    manifest = {**named, "sampling": drawn.settings, "data": data_of(folder), "samples": entries}
    write_json(out / "manifest.json", manifest)
    print(f"{len(files)} samples and manifest.json in {out}")


def located(directory: Path, model: str) -> tuple[Path, dict[str, Any]]:
    """The folder of a registered model, and which version it is now: an alias may mean another one tomorrow."""
    project = Project.find(directory)
    ledger.reconcile(project)
    folder = registry.download(project, model)
    version = registry.find_version(project, model_digest(folder))
    return folder, {"version": int(version.version)} if version else {}


def model_digest(folder: Path) -> str:
    """The digest by which the registry knows a model's two files."""
    return digest_of(find(folder, "model.safetensors"), find(folder, "config.json"))


def find(folder: Path, name: str) -> Path:
    """The file `name` in a model's folder. Raises DataError when it is not a model's."""
    found = sorted(folder.rglob(name)) if folder.is_dir() else []
    if not found:
        raise DataError(
            f"{folder} holds no {name}; name a model (models:/NAME@ALIAS) or a folder such as artifacts/train"
        )
    return found[0]


def about(folder: Path) -> dict[str, Any]:
    """The config.json of a model's folder."""
    content: dict[str, Any] = json.loads(find(folder, "config.json").read_text(encoding="utf-8"))
    return content


def data_of(folder: Path) -> dict[str, str] | None:
    """Whose data the model was trained on: name, licence, citation, source; None for a model that does not tell."""
    places = [*folder.rglob(ORIGIN), folder.parent / "augment" / ORIGIN]  # of a version, of train's outputs
    found = next((place for place in places if place.exists()), None)
    return json.loads(found.read_text(encoding="utf-8")) if found else None


def labels_of(data: DataSpec, count: int, label: str | None) -> np.ndarray:
    """One class, or all of them in turn: (count,) int64. Raises ConfigError for an unknown class."""
    if label is None:
        return np.arange(count) % max(len(data.classes), 1)
    if label not in data.classes:
        raise ConfigError([f"--label {label}: known labels: {', '.join(data.classes) or 'none'}"])
    return np.full(count, data.classes.index(label))


class Drawn(NamedTuple):
    examples: np.ndarray
    labels: np.ndarray | None  # None for a model that takes none
    settings: dict[str, Any]


def drawn_here(folder: Path, labels: np.ndarray, seed: int, given: Mapping[str, Any]) -> Drawn:
    """Samples of a folder of outputs, by the code that is installed."""
    from genpipe import generators, sampling

    model = sampling.load(folder)
    options = generators.module_of(model).Sampling
    refuse_unknown(given, [row.key.removeprefix("sample.") for row in explain(options, "sample")])
    chosen = parse(options, given, "sample")
    columns = sampling.draw(model, len(labels), seed, chosen, labels=labels)
    return Drawn(columns[modalities.load(model.data.modality).CONTENT], columns.get("label"), plain(chosen))


def drawn_by_version(folder: Path, labels: np.ndarray, seed: int, given: Mapping[str, Any]) -> Drawn:
    """Samples of a registered version, by its own code in a fresh process."""
    asked = versions.signature(folder)
    refuse_unknown(given, list(asked.options))
    settings = {**asked.options, **given}
    examples = versions.sampled(folder, asked.rows(labels), {**settings, "seed": seed})
    return Drawn(examples, labels if asked.conditional else None, settings)


def refuse_unknown(given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises ConfigError for options that the model doesn't have."""
    names = ", ".join(f"--{name}" for name in known) or "none"
    if foreign := sorted(set(given) - set(known)):
        raise ConfigError([f"--{name} is no option of this model; known options: {names}" for name in foreign])
