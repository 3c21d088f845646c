"""Retraining with nobody at hand: a worker fetches the project, looks for new data, and trains if there is a reason.

It works in a clone of its own (genpipe/unattended/workspace.py). What a model is made from is published before it is
trained, and what came of it before it is registered, so that a champion's commit and data can always be fetched.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import State, flow, get_run_logger
from prefect.client.schemas import FlowRun
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.utilities.urls import url_for

from flows.claim import claimed
from flows.pipeline import ORDER
from genpipe import dag
from genpipe.project import Project, masked
from genpipe.run import set_defaults
from genpipe.unattended import keeping
from genpipe.unattended.pending import WHY, Pending
from genpipe.unattended.workspace import Workspace
from genpipe.watching import journal
from tasks import artifacts, notices, workspace

INGEST, *DAG, REGISTER = ORDER
DATA = "data.dvc"


def tell_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Tell those whom the run was to notify that it came to no good end."""
    said = state.message or ""
    what = "validation refused the data" if "RefusedDataError" in said else f"retraining {(state.name or '').lower()}"
    subject = f"genpipe: {what} ({masked(str(flow_run.parameters.get('repository')))})"
    text, log = f"{said}\n{url_for('flow-run', flow_run.id)}", flow_run_logger(flow_run, flow)
    notices.tell(flow_run.parameters.get("notify") or [], subject, text, log)


@flow(name="retrain", on_failure=[tell_failure], on_crashed=[tell_failure])
def retrain(
    repository: str,
    branch: str = "main",
    results: str = "genpipe/results",
    directory: str = ".",
    cooldown_hours: float = 0,
    git_token: str | None = None,
    notify: list[str] = [],  # noqa: B006  # Prefect shows the default; nobody changes it
) -> State[Any]:
    """Train anew if data, settings or code are others than those of the last version, and let the gate judge.

    `repository`: URL that git clones; no password in it. `branch`: the people's, which is followed. `results`: the
    machine's, which holds the same and the commits of data.dvc and dvc.lock. `directory`: the project's folder in the
    repository. `cooldown_hours`: train no sooner after the last model was registered. `git_token`: a Prefect Secret
    block. `notify`: Prefect notification blocks, KIND/NAME, that hear of failures and promotions.
    """
    set_defaults()
    notices.refuse_unknown(notify)
    clone = Workspace(repository, branch, results, notices.secret(git_token))
    with clone.held("retrain"):
        workspace.fetch(clone)
        project = clone.project(directory)
        keeping.refuse_losable(project, clone.folder)
        with claimed(project, "retrain"):
            if not dag.own_code(project):
                dag.refresh(project)
            workspace.pull(project)
            INGEST(project)
            pending = workspace.ask(project)
            missed = tell_of_champion(project, notify) if notify else ""  # that of a run which could not tell any more
            ending = early_end(pending, cooldown_hours)
            if ending is None:
                ending, missed = retrained(clone, project, pending), tell_of_champion(project, notify)
            ending.message = f"{ending.message}{missed}"
            journal.remark(project, ending.message)
            return ending


def early_end(pending: Pending, cooldown_hours: float) -> State[Any] | None:
    """The state that the run ends with when there is nothing to do, or too soon to train; else None."""
    if not pending.any:
        return Completed(
            name="Unchanged", message="No new data; settings and code are those of the model that is registered."
        )
    if "train" in pending.stages and pending.trained:
        allowed = pending.trained + timedelta(hours=cooldown_hours)
        if datetime.now(UTC) < allowed:
            message = f"To be done, but not before {allowed:%Y-%m-%d %H:%M} UTC (cooldown_hours): {pending.why}."
            return Completed(name="Cooldown", message=message)
    return None


def retrained(clone: Workspace, project: Project, pending: Pending) -> State[Any]:
    """Publish the data, run what DVC has to do, publish what came of it, and register."""
    artifacts.reason(pending)
    with told_to_stages(pending.why):
        workspace.publish(clone, project, f"Data for a model, because of {pending.why}", DATA)
        for stage in DAG:
            stage(project)
        workspace.publish(clone, project, f"A model, because of {pending.why}")
        REGISTER(project)
    return Completed(message=f"{artifacts.outcome(project)} Because of {pending.why}.")


def tell_of_champion(project: Project, notify: list[str]) -> str:
    """Tell of a champion of which nobody was told yet; returns what the run's last message says of it, if any."""
    page, log = url_for("flow-run", flow_run.id) or "", get_run_logger()
    failed = notices.tell_of_champion(project, notify, page, log)
    return f" Not told, since the notification failed: {', '.join(failed)}." if failed else ""


@contextmanager
def told_to_stages(why: str) -> Iterator[None]:
    """Stages run in processes below, and tag their runs with the reason."""
    os.environ[WHY] = why
    try:
        yield
    finally:
        del os.environ[WHY]
