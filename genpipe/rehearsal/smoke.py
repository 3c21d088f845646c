"""What `genpipe run --smoke` does: each stage once, with few steps and examples, to see within a minute that all works.

It works in a project of its own below the project's state, with stores, DVC cache and registry of its own, and removes
it at the end: nothing that it does reaches the outputs, the versions or the champion. A slice of the data stands in for
ingest; the other stages are run by DVC, and register by itself, as `genpipe run` does it.
"""

import shutil
import time
from pathlib import Path
from typing import Any

import yaml

from genpipe import dag, installed, locks
from genpipe.config import plain
from genpipe.errors import DataError
from genpipe.processes import supervise
from genpipe.project import Project
from genpipe.rehearsal import slices
from genpipe.stages import DAG, augment

STEPS = 20
ROWS, ROWS_A_CLASS = 2_000, 20
TEST = 0.2  # share of the rows, at least, or scores would have too few
SMALLER: dict[str, dict[str, Any]] = {
    "validate": {"min_accepted": 1},
    "calibrate": {"steps": STEPS, "extractor": "fitted"},  # Inception's 2,048 features need more examples than these
    "train": {"steps": STEPS, "log_every": 10, "pictures": 2, "checkpoint_every_steps": 10, "max_seconds": 0},
    "evaluate": {"draws": 2, "most": 500},
}
# The environment may name the project's own stores and state.
NAMES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_DEFAULT_ARTIFACT_ROOT", "GENPIPE_HOME")
OWN_STORES = dict.fromkeys(NAMES, "")


def run(project: Project) -> None:
    """Print what each stage says, and the times. A failure is that of the stage; nothing is left either way."""
    folder, seconds = project.state / "smoke", dict[str, float]()
    with locks.held(project.lock("smoke"), "genpipe run --smoke"):
        shutil.rmtree(folder, ignore_errors=True)  # what a kill may have left
        try:
            for name in ("ingest", *(stage.name for stage in DAG), "register"):
                begun = time.monotonic()
                work(name, project, folder)
                seconds[name] = time.monotonic() - begun
        finally:
            shutil.rmtree(folder)
    times = "  ".join(f"{name} {spent:.1f}" for name, spent in seconds.items())
    print(f"\nTime {sum(seconds.values()):.1f} s: {times}")
    print(f"Every stage works. These were {STEPS} steps in a throw-away project, of which nothing is kept.")


def work(name: str, project: Project, folder: Path) -> None:
    """Run one stage of the throw-away project, its lines printed as a run logs them."""
    if name == "ingest":
        print(f"{name:<9}  {make(project, folder)}", flush=True)
        return
    command = dag.stage_command(name) if name == "register" else dag.reproduce(name)

    def tell(line: str) -> None:
        if not dag.is_advice(line):
            print(f"{name:<9}  {line}", flush=True)

    supervise(command, folder, tell, OWN_STORES)


def make(project: Project, folder: Path) -> str:
    """Make the throw-away project with a slice of the data; returns what that is, in words.

    Raises DataError where there are none.
    """
    here = Project(folder)
    folder.mkdir(parents=True)
    found = slices.take(project, here.data, ROWS, a_class=ROWS_A_CLASS, fetch=True)
    if found is None or not found.stored.rows:
        raise DataError("there is no example to try the stages with; ingest.source can bring some (params.yaml)")
    write(folder / "params.yaml", smaller(project))
    model = {"name": f"{project.mlflow.registry.name}-smoke"}
    write(folder / "mlflow.yml", {"registry": model, "gate": plain(project.mlflow.gate)})
    for suite in sorted((project.root / "suites").glob("*.yaml")):
        write(folder / "suites" / suite.name, lenient(yaml.safe_load(suite.read_text(encoding="utf-8"))))
    installed.refresh(here)
    (folder / "dvc.yaml").write_text(dag.document(here), encoding="utf-8")
    dag.dvc(here, "init", "--no-scm")
    dag.version_data(here, found.stored.digest)
    return f"{found.stored.about.name}: {found.stored.rows:,} of {found.rows:,} examples ({found.origin})"


def smaller(project: Project) -> dict[str, Any]:
    """The settings of the project, but for those that make it take long, or want more examples than a slice has."""
    sections = {name: {**(given or {}), **SMALLER.get(name, {})} for name, given in project.params.items()}
    sections["augment"]["test"] = max(project.section("augment", augment.Config).test, TEST)
    return sections


def lenient(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rules that would stop the run are only counted: what they ask of all the data, a slice need not fulfil."""
    return [{**rule, "action": "report"} if rule.get("action") == "stop" else rule for rule in rules]


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
