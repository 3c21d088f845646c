"""The stages as Prefect tasks: time-outs, retries where a retry can help, tags for concurrency limits.

A stage of the DAG is run by DVC, which skips it when nothing that it depends on has changed; ingest and register stand
outside the DAG and decide for themselves. Tasks run in the flow's own thread: a time-out or a cancellation interrupts
them there, and `supervise` ends the child's whole process group.
"""

from typing import Any

from prefect import State, Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import TaskRun
from prefect.runtime import flow_run, task_run
from prefect.utilities.urls import url_for

from genpipe import dag
from genpipe.errors import KilledError, RefusedDataError, StageError
from genpipe.processes import supervise
from genpipe.project import Project
from genpipe.watching import journal
from tasks import artifacts

HOUR = 3600


def was_killed(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether a signal ended the stage (out of memory, a lost node): then its checkpoint is worth another try."""
    return isinstance(state.result(raise_on_failure=False), KilledError)


@task(timeout_seconds=2 * HOUR, cache_policy=NO_CACHE)
def ingest(project: Project) -> None:
    """Bring raw data in. A download asks again by itself, and a wrong path needs no second try."""
    supervised(project, dag.stage_command("ingest"))


@task(timeout_seconds=2 * HOUR, cache_policy=NO_CACHE)
def validate(project: Project) -> None:
    """Set bad rows aside, or stop: raises RefusedDataError then."""
    try:
        supervised(project, dag.reproduce("validate"))
    except StageError as error:
        if artifacts.decision(project) == "stop":
            raise RefusedDataError(str(error)) from None
        raise
    finally:  # a refusal, too, is worth looking at
        artifacts.validation(project)


@task(timeout_seconds=2 * HOUR, cache_policy=NO_CACHE)
def augment(project: Project) -> None:
    """Split the rows and make arrays of them."""
    supervised(project, dag.reproduce("augment"))


@task(timeout_seconds=2 * HOUR, cache_policy=NO_CACHE, tags=["gpu"])
def calibrate(project: Project) -> None:
    """Fit the evaluator once, then keep it."""
    supervised(project, dag.reproduce("calibrate"))


@task(timeout_seconds=48 * HOUR, retries=1, retry_condition_fn=was_killed, cache_policy=NO_CACHE, tags=["gpu"])
def train(project: Project) -> None:
    """Fit the generator; a retry resumes from the last checkpoint."""
    supervised(project, dag.reproduce("train"))


@task(timeout_seconds=6 * HOUR, cache_policy=NO_CACHE, tags=["gpu"])
def evaluate(project: Project) -> None:
    """Score samples against data that training has not seen."""
    supervised(project, dag.reproduce("evaluate"))
    artifacts.scores(project)


@task(timeout_seconds=HOUR, cache_policy=NO_CACHE)
def register(project: Project) -> None:
    """Make the model a version in the registry. MLflow's client asks a server that is away again for some minutes."""
    supervised(project, dag.stage_command("register"))
    artifacts.registration(project)


def supervised(project: Project, command: list[str]) -> None:
    """Run `command` in the project, its lines in the task's log, the flow run's identity in its environment."""
    identity = {"GENPIPE_FLOW_RUN_ID": str(flow_run.id or ""), "GENPIPE_FLOW_RUN_URL": flow_run_url()}
    log = get_run_logger()

    def pass_on(line: str) -> None:
        if not dag.is_advice(line):
            log.info(line)

    with journal.stage(project, str(task_run.task_name)):
        supervise(command, project.root, pass_on, identity | dag.own_code(project))


def flow_run_url() -> str:
    """The flow run's page on the Prefect server; empty when the server has none."""
    return (url_for("flow-run", flow_run.id) if flow_run.id else None) or ""
