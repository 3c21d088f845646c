"""What a deployment must know of the project that it is made in: a `build` step of prefect.yaml."""

import subprocess
from pathlib import Path

from prefect.settings import get_current_settings

from flows import deployments
from flows.events import resource
from genpipe.errors import ConfigError
from genpipe.project import Project, load_yaml
from genpipe.unattended import origin
from genpipe.unattended.workspace import refuse_secrets


def project() -> dict[str, str]:
    """Repository, branch, folder in it, and the resource of its events, of the project in the working directory.

    Raises ConfigError when git does not know where a worker could clone it from, and when the server has a deployment
    of that name for another project, which this one would replace.
    """
    found = Project.find(Path())
    url = asked(found, "remote", "get-url", "origin")
    if not url:
        raise ConfigError([
            f"{found.root} has no git remote 'origin', from which a worker could clone it; `git remote add origin URL` "
            "and `git push origin HEAD`"
        ])  # fmt: skip
    refuse_secrets(url)
    if ":" not in url and not Path(url).is_absolute():
        raise ConfigError([
            f"git's remote 'origin' is the relative folder {url}, which a worker would look for elsewhere; `git remote "
            "set-url origin` with an absolute place or a URL"
        ])  # fmt: skip
    branch = asked(found, "branch", "--show-current")
    if not branch:
        raise ConfigError([f"{found.root} is on no branch; `git switch` to the one that retraining should follow"])
    folder = found.root.relative_to(asked(found, "rev-parse", "--show-toplevel")).as_posix()
    refuse_taken(found)
    about = resource(found.mlflow.registry.name)
    return {"repository": url, "branch": branch, "directory": folder, "resource": about}


def refuse_taken(project: Project) -> None:
    if not get_current_settings().api.url:
        return
    names = [str(one.get("name")) for one in load_yaml(project.root / "prefect.yaml").get("deployments") or []]
    with deployments.asked() as client:
        for one in deployments.named(client, names):
            if other := origin.of_another(project, one.parameters):
                name = f"{client.read_flow(one.flow_id).name}/{one.name}"
                raise ConfigError([
                    f"the deployment '{name}' of {deployments.place()} is of another project ({other}); "
                    f"{origin.ADVICE}, or, if the project has moved, first `prefect deployment delete {name}`"
                ])  # fmt: skip


def asked(project: Project, *words: str) -> str:
    """What git answers; empty where it has nothing to say."""
    done = subprocess.run(["git", *words], cwd=project.root, capture_output=True, text=True, check=False)
    return "" if done.returncode else done.stdout.strip()
