"""The machine's clone as Prefect tasks: what goes over a network is tried again."""

import subprocess
import sys
from typing import Any

from prefect import State, Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import TaskRun

from genpipe import dag, locks, remotes
from genpipe.errors import RemoteError, StageError, WorkspaceError
from genpipe.processes import own_environment
from genpipe.project import Project
from genpipe.unattended.pending import Pending
from genpipe.unattended.workspace import Workspace
from tasks.stages import HOUR, supervised


def was_away(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether the repository or DVC's remote did not answer, and may later; a refusal stays one."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, WorkspaceError | RemoteError) and error.again


def may_be_published(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether another try may help: also where `dvc push` failed, which does not say why."""
    return was_away(task, run, state) or isinstance(state.result(raise_on_failure=False), StageError)


@task(
    timeout_seconds=HOUR,
    retries=2,
    retry_delay_seconds=[10, 60],
    retry_condition_fn=was_away,
    cache_policy=NO_CACHE,
)
def fetch(workspace: Workspace) -> None:
    """Bring the clone to what the repository holds."""
    workspace.prepare()
    get_run_logger().info("%s in %s, branch %s", workspace.repository, workspace.folder, workspace.results)


@task(
    timeout_seconds=2 * HOUR,
    retries=3,
    retry_delay_seconds=[10, 60, 180],
    retry_condition_fn=was_away,
    cache_policy=NO_CACHE,
)
def pull(project: Project) -> None:
    """Bring data and outputs from DVC's remote, so that only what has changed is made anew."""
    for lacking in remotes.pull_outputs(project):
        get_run_logger().warning("its outputs could not be pulled and are made anew: %s", lacking)


@task(timeout_seconds=HOUR, cache_policy=NO_CACHE)
def ask(project: Project) -> Pending:
    """What is to be done, and why; asked of the project's own code."""
    done = subprocess.run(
        [sys.executable, "-m", "genpipe", "pending", "--json"],
        cwd=project.root,
        env=own_environment() | dag.own_code(project),
        capture_output=True,
        text=True,
        check=False,
        pass_fds=locks.shared(),
    )
    if done.returncode:
        raise StageError(done.stderr.strip().removeprefix("genpipe: "))
    return Pending.of_json(done.stdout.splitlines()[-1])


@task(
    timeout_seconds=6 * HOUR,
    retries=2,
    retry_delay_seconds=[10, 60],
    retry_condition_fn=may_be_published,
    cache_policy=NO_CACHE,
)
def publish(workspace: Workspace, project: Project, message: str, *targets: str) -> None:
    """Copy data and outputs to DVC's remote, all or `targets`, and then push the commit that names them."""
    supervised(project, dag.push_command(*targets))
    if workspace.publish(project, message):
        get_run_logger().info("pushed to %s, branch %s: %s", workspace.repository, workspace.results, message)
