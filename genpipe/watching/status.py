"""What `genpipe status` finds out: who is champion, how the last runs went, who works here, what is due.

Looking changes nothing: no store, experiment or server comes into being by it, and no lock is taken. Each part is asked
by itself, so that one that can't be reached leaves the others.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from genpipe import dag, locks
from genpipe.champion import ledger
from genpipe.errors import GenpipeError
from genpipe.evaluation.scores import logged_name
from genpipe.metrics import SCORES
from genpipe.project import Project, load_yaml
from genpipe.records import registry, stores, tracking
from genpipe.records.tracking import Run
from genpipe.stages import ingest
from genpipe.unattended import origin, workspace
from genpipe.watching import journal
from genpipe.watching.journal import Failure

SHOWN = 5  # runs of each kind
SHOWN_PARTS = ("value", "low", "high")  # of a score
ORIGIN, PREFIX = ("config", "remote.origin.url"), ("rev-parse", "--show-prefix")  # as git is asked for them
PATIENCE_SECONDS = 30  # with DVC, which on large data may read much
VANISHED = Failure(
    "Killed",
    "its process is gone without a word: it was killed, or the machine went down",
    "see whether the memory gave out (`dmesg`); `genpipe run` goes on, a training from its last checkpoint",
)
Part = dict[str, Any]
Ask = Callable[[Sequence[str], int], Part]  # names of deployments, and how many runs → what the Prefect server knows


def report(project: Project, ask: Ask | None) -> Part:
    """All that is known; a part that can't be told has the key `fault`. Without `ask` no Prefect server is named."""
    parts: dict[str, Callable[[], Part]] = {
        "champion": lambda: champion(project),
        "runs": lambda: runs(places(project)),
        "trainings": lambda: trainings(project),
        "locks": lambda: {"held": [lock for place in places(project) for lock in held(place)]},
        "changes": lambda: changes(project),
        "schedule": lambda: schedule(project, ask),
    }
    about = {"project": str(project.root), "at": datetime.now(UTC).isoformat(timespec="seconds")}
    with stores.asked_once():
        return about | {name: told(part) for name, part in parts.items()}


def told(part: Callable[[], Part]) -> Part:
    try:
        return part()
    except GenpipeError as error:
        return {"fault": " ".join(str(error).split()), "remedy": error.remedy}


def faults(found: Mapping[str, Any]) -> list[str]:
    """The parts that could not be told."""
    return [name for name, part in found.items() if isinstance(part, dict) and {"fault", "unknown"} & part.keys()]


def champion(project: Project) -> Part:
    """The champion, and the move that made it so; `version` is None before the first."""
    name = project.mlflow.registry.name
    if not reachable(project):
        return {"name": name, "version": None, "challenger": None}
    tags, aliases = registry.tags_and_aliases(project)  # one read: ledger and alias are of one moment
    number = aliases.get(ledger.CHAMPION)
    about: Part = {"name": name, "version": number, "challenger": aliases.get(ledger.CHALLENGER)}
    if number is None:
        return about
    past = [event for event in ledger.written(tags) if event.version == number]
    move = past[-1] if past else None  # none where the alias was moved in MLflow, and no command has noted it yet
    return about | {
        "since": move.at.isoformat(timespec="seconds") if move else None,
        "by": move.by if move else None,
        "kind": move.kind if move else None,
        "why": move.why if move else None,
        "scores": scores_of(project, number),
    }


def scores_of(project: Project, number: int) -> dict[str, dict[str, float]]:
    """Score → value and interval of a version, from the run that trained it; empty where that has been deleted."""
    version = registry.get_version(project, number)
    run = tracking.found_run(project, version.run_id) if version else None
    values = run.data.metrics if run else {}
    return {
        name: {part: values[key] for part in SHOWN_PARTS if (key := logged_name(name, part)) in values}
        for name in SCORES
        if name in values
    }


def reachable(project: Project) -> bool:
    """Whether the stores are there to be asked. Raises RegistryError for one that opening would change."""
    uris = stores.uris(project)
    if not all(stores.is_made(uri) for uri in uris):
        return False
    for uri in uris:
        if stores.is_database(uri):
            stores.refuse_other_revision(uri)
    return True


def places(project: Project) -> list[Project]:
    """The project's folder, and this machine's clones of its repository, in which retraining works."""
    origin, prefix = (tracking.git(project, *words).strip() for words in (ORIGIN, PREFIX))
    clones = [Project(folder / prefix) for folder in sorted(workspace.clones().glob("*/"))]
    known = [clone for clone in clones if clone.root.is_dir() and clone.root.resolve() != project.root]
    return [project, *(clone for clone in known if origin and tracking.git(clone, *ORIGIN).strip() == origin)]


def runs(those: Sequence[Project]) -> Part:
    """The last runs in all these places, newest first."""
    found = [of_run(place, run) for place in those for run in journal.runs(place)]
    return {"last": sorted(found, key=lambda run: str(run["begun"]), reverse=True)[:SHOWN]}


def of_run(project: Project, run: journal.Run) -> Part:
    """One run of the pipeline, with the failure of one that was killed."""
    vanished = run.vanished
    failure = VANISHED if vanished else run.failure
    told = {"outcome": "vanished" if vanished else run.outcome, "failure": asdict(failure) if failure else None}
    return {"place": str(project.root)} | asdict(run) | told


def trainings(project: Project) -> Part:
    """The last training runs that MLflow holds."""
    found = tracking.last_runs(project, SHOWN) if reachable(project) else []
    return {"last": [of_training(run) for run in found]}


def of_training(run: Run) -> Part:
    ended, state = run.info.end_time, run.info.status
    return {
        "name": run.info.run_name,
        "run": run.info.run_id,
        "state": state,
        "begun": moment(run.info.start_time),
        "ended": moment(ended) if ended else None,
        "done": tracking.steps_done(run),
        "steps": int(run.data.params["steps"]) if "steps" in run.data.params else None,
        "reason": run.data.tags.get(tracking.REASON) if state in ("FAILED", "KILLED") else None,
    }


def moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def held(project: Project) -> list[Part]:
    """The notes of locks; looking takes none."""
    notes = locks.notes(project.lock("pipeline").parent)
    return [
        {"lock": name, "place": str(project.root), **asdict(who), "alive": who.alive} for name, who in notes.items()
    ]


def changes(project: Project) -> Part:
    """The stages that a run would have to do, and whether the source may hold new rows.

    While somebody works here DVC does not answer: it holds the files that it works on. A source may be far away, and
    is waited for a few seconds: `source` is None, and `unknown` says why, when it has not answered by then.
    """
    if any(lock["alive"] for lock in held(project)):
        return {"at_work": True, "source": None, "stages": None, "held_back": None}
    stale = {*dag.changed(project, within_seconds=PATIENCE_SECONDS), *dag.outdated(project)}
    new = ingest.asked(project)
    unknown = {"unknown": f"the source did not answer in {ingest.SOURCE_SECONDS:g} s"} if new is None else {}
    stages = dag.with_downstream(stale | ({"data.dvc"} if new else set()))
    return {"at_work": False, "source": new, "stages": stages, "held_back": held_back(project), **unknown}


def held_back(project: Project) -> Part | None:
    """The version that the outputs are, if the gate held it back for want of a commit; is there nothing to commit now?

    By the project's own note, since the registry may be out of reach: somebody may have promoted it meanwhile.
    """
    file = project.state / "registered.json"
    noted = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if (noted.get("verdict") or {}).get("outcome") != "uncommitted":
        return None
    committed = tracking.code_state(project).get(tracking.DIRTY) == "false"
    return {"version": noted["version"], "committed": committed}


def schedule(project: Project, ask: Ask | None) -> Part:
    """The deployments of prefect.yaml, and what the server knows of them."""
    declared = [of_declared(one) for one in load_yaml(project.root / "prefect.yaml").get("deployments") or []]
    known = ask([one["name"] for one in declared], SHOWN) if ask else {"deployments": [], "runs": []}
    for one in known["deployments"]:
        one["of_another"] = origin.of_another(project, one["follows"])
    return {"server": ask is not None, "declared": declared, **known}


def of_declared(deployment: Mapping[str, Any]) -> Part:
    own = deployment.get("schedules") or []
    schedules = [{key: value for key, value in one.items() if key != "parameters"} for one in own]
    return {"name": str(deployment.get("name")), "schedules": schedules}
