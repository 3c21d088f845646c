"""The stages, and the table of what each reads and writes: dvc.yaml is printed from it, the flow follows it.

A stage is a module with `Config` (its section of params.yaml) and `run(cfg, project)`, which returns its numbers.
"""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from genpipe import modalities
from genpipe.config import Choice, faults_of
from genpipe.errors import ConfigError
from genpipe.project import Project

Kind = Literal["plain", "metrics", "plots", "kept"]


@dataclass(frozen=True)
class Output:
    """A file or folder that a stage writes; `kept` is not removed before the stage runs again."""

    path: str
    kind: Kind = "plain"


@dataclass(frozen=True)
class Stage:
    name: str
    reads: tuple[str, ...] = ()
    writes: tuple[Output, ...] = ()
    plugins: tuple[str, ...] = ()  # packages of which it loads modules by name
    generator: bool = False  # whether it runs the code of the chosen kind of generator

    @property
    def module(self) -> ModuleType:
        return importlib.import_module(f"genpipe.stages.{self.name}")


AUGMENTED = "artifacts/augment"
DAG = (
    Stage(
        "validate",
        reads=("data", "suites"),
        writes=(Output("artifacts/validate"),),
        plugins=("modalities",),
    ),
    Stage(
        "augment",
        reads=("data", "artifacts/validate/accepted.parquet"),
        writes=(Output(AUGMENTED),),
        plugins=("modalities",),
    ),
    Stage(
        "calibrate",
        reads=(f"{AUGMENTED}/meta.json", f"{AUGMENTED}/train", f"{AUGMENTED}/validation"),
        writes=(Output("artifacts/calibrate", "kept"),),
        plugins=("modalities", "nn"),
    ),
    Stage(
        "train",
        reads=(f"{AUGMENTED}/meta.json", f"{AUGMENTED}/train", f"{AUGMENTED}/validation"),
        writes=(
            Output("artifacts/train/model.safetensors"),
            Output("artifacts/train/config.json"),
            Output("artifacts/train/samples"),
            Output("artifacts/train/curves.csv", "plots"),
        ),
        plugins=("modalities", "nn"),
        generator=True,
    ),
    Stage(
        "evaluate",
        reads=(
            "artifacts/train/model.safetensors",
            "artifacts/train/config.json",
            "artifacts/train/curves.csv",
            AUGMENTED,
            "artifacts/calibrate",
        ),
        writes=(
            Output("artifacts/evaluate/samples"),
            Output("artifacts/evaluate/samples.png"),
            Output("artifacts/evaluate/neighbours.png"),
            Output("artifacts/evaluate/report.html"),
            Output("artifacts/evaluate/metrics.json", "metrics"),
        ),
        plugins=("modalities", "nn"),
        generator=True,
    ),
)
STAGES = {stage.name: stage for stage in (Stage("ingest"), *DAG, Stage("register"))}


def check(project: Project) -> dict[str, Any]:
    """The settings of every stage. Raises ConfigError with all faults of params.yaml and mlflow.yml."""
    found, faults = dict[str, Any](), list[str]()
    for name, stage in STAGES.items():
        if name == "train" and not names_kind(project.params.get(name)):
            faults.append(
                "params.yaml: train.generator.kind is missing; dvc.yaml reads it there: `generator: {kind: gan}`"
            )
        elif name not in project.params:
            faults.append(f"params.yaml: {name} is missing; write `{name}: {{}}` to take its defaults")
        found[name], wrong = faults_of(stage.module.Config, project.params.get(name) or {}, name)
        faults += wrong
    faults += [
        f"params.yaml: {name} is not a section; known sections: {', '.join(STAGES)}"
        for name in project.params
        if name not in STAGES
    ]
    for name, cls, given in named_by_others(found):
        faults += faults_of(cls, given, name)[1]
    try:
        if found["ingest"]:
            read_suite(project, found["ingest"].source)
    except ConfigError as error:
        faults += error.faults
    try:
        _ = project.mlflow
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(faults)
    return found


def read_suite(project: Project, source: Choice) -> None:
    """Raises ConfigError with what is wrong in the rules for the modality of `source`."""
    from genpipe.data import suite  # pandas takes half a second, and `genpipe --help` reads this module

    suite.read(project.root, modalities.load(source.module.modality(source.config)))


def names_kind(train: Any) -> bool:
    """Whether the section says the kind in full, not in the short form or by default."""
    generator = train.get("generator") if isinstance(train, Mapping) else None
    return isinstance(generator, Mapping) and "kind" in generator


def named_by_others(found: Mapping[str, Any]) -> Iterator[tuple[str, type, Any]]:
    """Settings whose class another section decides: the modality's by the source, the sampling's by the generator."""
    if found["ingest"] and found["augment"]:
        source = found["ingest"].source
        modality = modalities.load(source.module.modality(source.config))
        yield "augment.prepare", modality.Preparing, found["augment"].prepare
        yield "augment.augmentation", modality.Augmentation, found["augment"].augmentation
        if found["calibrate"]:
            yield "calibrate.augmentation", modality.Augmentation, found["calibrate"].augmentation
    if found["train"] and found["evaluate"]:
        yield "evaluate.sampling", found["train"].generator.module.Sampling, found["evaluate"].sampling
