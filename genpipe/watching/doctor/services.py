"""Checks of the servers and databases that a project names: MLflow's stores, and Prefect's server."""

from collections.abc import Callable, Iterator

from genpipe.project import Project, load_yaml, masked
from genpipe.records import stores, tracking
from genpipe.unattended import origin
from genpipe.watching.doctor import Ask, Finding


def mlflow(project: Project) -> Iterator[Finding]:
    """Whether each store answers, and whether a database is of the installed MLflow."""
    with stores.asked_once():
        for uri in stores.uris(project):
            yield from database(uri) if stores.is_database(uri) else server(project, uri)


def database(uri: str) -> Iterator[Finding]:
    if not stores.is_made(uri):
        yield Finding("MLflow", "ok", f"{masked(uri)} is made by the first run")
        return
    found, needed = stores.revision(uri)
    if found == needed:
        yield Finding("MLflow", "ok", f"{masked(uri)}, its tables are those of the installed MLflow ({found})")
    elif found is None:
        yield Finding("MLflow", "ok", f"{masked(uri)} holds no tables of MLflow's; the first run makes them")
    else:
        stores.refuse_other_revision(uri)


def server(project: Project, uri: str) -> Iterator[Finding]:
    known = "trainings" if tracking.last_runs(project, 1) else "no training yet"
    yield Finding("MLflow", "ok", f"{masked(uri)} answers, and knows {known} of the project")


def prefect(project: Project, ask: Ask | None) -> Iterator[Finding]:
    """Whether the server answers, fits, knows the deployments, and has workers for them."""
    if ask is None:
        yield Finding("Prefect", "ok", "no server named (PREFECT_API_URL): each run starts one of its own")
        return
    names = [str(one.get("name")) for one in load_yaml(project.root / "prefect.yaml").get("deployments") or []]
    known = ask(names)
    about = f"server {known['version']} at {known['url']}, client {known['client']}"
    if known["version"] == known["client"]:
        yield Finding("Prefect", "ok", about)
    else:
        remedy = "give both the version that genpipe asks for"
        yield Finding("Prefect", "warning", f"{about}: of unlike versions", remedy)
    for name in names:
        if other := origin.of_another(project, known["follows"].get(name, {})):
            yield Finding(
                "deployment", "wrong", f"{name} is, on the server, of another project ({other})", origin.ADVICE
            )
        else:
            yield deployed(name, known["pools"].get(name))


def deployed(name: str, pool: dict[str, str] | None) -> Finding:
    """Whether a deployment of prefect.yaml is on the server, and somebody there to run it."""
    if pool is None:
        return Finding("deployment", "warning", f"{name} is not deployed", "prefect --no-prompt deploy --all")
    if pool["status"] != "READY":
        text = f"{name}: its work pool '{pool['name']}' is {pool['status']}, so that its runs wait"
        return Finding("deployment", "warning", text, f"prefect worker start --pool {pool['name']}")
    return Finding("deployment", "ok", f"{name}: its work pool '{pool['name']}' has a worker")


CHECKS: dict[str, Callable[[Project], Iterator[Finding]]] = {"MLflow": mlflow}
