"""The event that says that there are new data: deployments wait for it with a trigger (prefect.yaml)."""

import httpx
from prefect.client.orchestration import get_client
from prefect.events import Event, Resource
from prefect.settings import PREFECT_API_URL

from genpipe.errors import ConfigError, ServerError
from genpipe.project import Project, masked

EVENT = "genpipe.data.changed"


def resource(model: str) -> str:
    """What the event is about: the project by the name of its registered model."""
    return f"genpipe.project.{model}"


def emit(project: Project) -> str:
    """Send the event and return its resource. Raises ConfigError without a server, ServerError if it is silent."""
    server = PREFECT_API_URL.value()
    if not server:
        raise ConfigError([
            "no Prefect server is named; set PREFECT_API_URL, such as http://127.0.0.1:4200/api, to that of the "
            "deployment"
        ])  # fmt: skip
    about = resource(project.mlflow.registry.name)
    event = Event(event=EVENT, resource=Resource({"prefect.resource.id": about}))
    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[event.model_dump(mode="json")])
    except httpx.HTTPError as error:
        raise ServerError(
            f"the Prefect server {masked(server)} did not take the event ({type(error).__name__}: {error}); see that "
            "it runs, and that PREFECT_API_URL is its address"
        ) from error
    return about
