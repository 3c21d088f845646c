"""A flow's claim on a project: the lock of the pipeline, and an end for the flow runs that were killed with it.

Prefect learns nothing of a run whose process is killed: it stays Running, and so do its tasks and what they reserve.
The project's journal names it, and whoever gets the lock next knows that its process is gone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import State
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Crashed

from genpipe import locks, rwlock
from genpipe.project import Project
from genpipe.watching import journal
from tasks import stages


@contextmanager
def claimed(project: Project, purpose: str) -> Iterator[None]:
    """Hold the project, tidied up after runs that were killed, and have its journal tell how this one goes.

    Raises LockedError when anybody else is at work there.
    """
    with locks.held(project.lock("pipeline"), purpose):
        with locks.held(project.lock("stage"), purpose, locks.ORPHAN_SECONDS):
            rwlock.forget_dead_holders(project)
            end_killed(project)
        with journal.recorded(project, purpose, str(flow_run.id or ""), stages.flow_run_url()):
            yield


def end_killed(project: Project) -> None:
    """Let the flow runs of the journal that never came to an end, and that this server knows, end as Crashed."""
    with get_client(sync_client=True) as client:
        for run in journal.runs(project):
            own = run.flow_run == str(flow_run.id)  # a killed run that was started again from Prefect's pages
            if run.flow_run and not own and journal.is_gone(run):
                end(client, UUID(run.flow_run))


def end(client: SyncPrefectClient, run: UUID) -> None:
    """End a flow run and its tasks as Crashed, unless they have ended, or are another server's."""
    try:
        state = client.read_flow_run(run).state
    except ObjectNotFound:
        return
    gone: State[Any] = Crashed(message="Its process was killed; the next run of its project found that.")
    for task in client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run]))):
        if task.state is None or not task.state.is_final():
            client.set_task_run_state(task.id, gone, force=True)
    if state is None or not state.is_final():
        client.set_flow_run_state(run, gone, force=True)
