"""What a Prefect server knows of a project's deployments: when each is due, and how its last runs went."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import DeploymentSchedule, FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import PrefectException
from prefect.settings import get_current_settings
from prefect.utilities.urls import url_for

from genpipe.errors import ServerError
from genpipe.project import masked

BEGUN: list[StateType] = [kind for kind in StateType if kind is not StateType.SCHEDULED]


@contextmanager
def asked() -> Iterator[SyncPrefectClient]:
    """A client of the server; where it does not answer, or refuses, a ServerError tells so."""
    try:
        with get_client(sync_client=True) as client:
            yield client
    except (httpx.HTTPError, PrefectException, RuntimeError) as error:  # RuntimeError: an answer of something else
        said = " ".join(str(error).split()) or type(error).__name__
        raise ServerError(f"the Prefect server {place()} (PREFECT_API_URL) does not answer as one: {said}") from error


def place() -> str:
    """The server's URL as it may be shown."""
    return masked(get_current_settings().api.url or "")


def seen(names: Sequence[str], count: int) -> dict[str, Any]:
    """The deployments of these names with their schedules, and their last `count` runs, newest first.

    Raises ServerError when the server of PREFECT_API_URL does not answer, or refuses.
    """
    with asked() as client:
        found = named(client, names)
        runs = last_runs(client, [one.id for one in found], BEGUN, FlowRunSort.START_TIME_DESC, count)
        called = {str(one.id): one.name for one in found}
        return {
            "deployments": [described(client, one) for one in found],
            "runs": [{"deployment": called[str(run.deployment_id)], **how_it_went(run)} for run in runs],
        }


def server(names: Sequence[str]) -> dict[str, Any]:
    """The server's version and the client's, and the work pool and repository of each deployment that the server knows.

    Raises ServerError when the server of PREFECT_API_URL does not answer, or refuses.
    """
    with asked() as client:
        found = named(client, names)
        pools = {one.name: one.work_pool_name for one in found}
        return {
            "url": place(),
            "version": client.api_version(),
            "client": client.client_version(),
            "pools": {name: {"name": pool, "status": state_of(client, pool)} for name, pool in pools.items()},
            "follows": {one.name: followed(one) for one in found},
        }


def state_of(client: SyncPrefectClient, pool: str | None) -> str:
    """READY when a worker is there."""
    state = client.read_work_pool(pool).status if pool else None
    return state.name if state else "NOT_READY"


def named(client: SyncPrefectClient, names: Sequence[str]) -> list[DeploymentResponse]:
    return client.read_deployments(deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[*names])))


def last_runs(
    client: SyncPrefectClient, deployments: Sequence[Any], kinds: list[StateType], sort: FlowRunSort, count: int
) -> list[FlowRun]:
    """Those of these deployments whose state is of these kinds; a deployment that is not there has none."""
    if not deployments:
        return []
    return client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[*deployments])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=kinds))),
        sort=sort,
        limit=count,
    )


def described(client: SyncPrefectClient, deployment: DeploymentResponse) -> dict[str, Any]:
    """A deployment with its schedules, and when its next run is due; None where none is."""
    due = last_runs(client, [deployment.id], [StateType.SCHEDULED], FlowRunSort.EXPECTED_START_TIME_ASC, 1)
    return {
        "name": deployment.name,
        "paused": deployment.paused,
        "schedules": [timed(schedule) for schedule in deployment.schedules],
        "next": iso(due[0].expected_start_time) if due else None,
        "follows": followed(deployment),
    }


def followed(deployment: DeploymentResponse) -> dict[str, str]:
    """The repository and folder of a deployment of the retraining; nothing of others."""
    known = deployment.parameters
    return {name: masked(str(known[name])) for name in ("repository", "directory") if known.get(name)}


def timed(schedule: DeploymentSchedule) -> dict[str, Any]:
    when = schedule.schedule.model_dump(mode="json", exclude_none=True)
    return {"slug": schedule.slug, "active": schedule.active, **when}


def how_it_went(run: FlowRun) -> dict[str, Any]:
    """State, message and times of a flow run, and its page."""
    return {
        "name": run.name,
        "state": run.state_name,
        "message": " ".join(((run.state and run.state.message) or "").split()),
        "begun": iso(run.start_time or run.expected_start_time),
        "ended": iso(run.end_time),
        "page": url_for("flow-run", run.id) or "",
    }


def iso(time: datetime | None) -> str | None:
    return time.isoformat(timespec="seconds") if time else None
