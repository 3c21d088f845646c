"""MLflow's stores before MLflow opens them: opening makes a database, and migrates an old one.

A SQLite store is made as a whole: of several processes that find none one makes it, and a kill leaves no half of one.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from genpipe.errors import RegistryError
from genpipe.files import written_aside
from genpipe.project import Project, masked

SQLITE = "sqlite:///"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
CONNECT_SECONDS = 5
# MLflow asks a server that does not answer again for four minutes; whoever only looks wants to know it at once.
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class Revision(NamedTuple):
    """Of a database's tables: what they are, and what the installed MLflow reads and writes."""

    found: str | None  # None for a database without MLflow's tables
    needed: str


def uris(project: Project) -> list[str]:
    """The stores of runs and of models, one if they are the same."""
    server = project.mlflow.server
    return list(dict.fromkeys([server.mlflow_tracking_uri, server.mlflow_registry_uri or server.mlflow_tracking_uri]))


def is_database(uri: str) -> bool:
    return uri.startswith(DATABASES)


def is_made(uri: str) -> bool:
    """Whether there is anything to ask: a SQLite file comes into being with the first run."""
    file = Path(uri.removeprefix(SQLITE))
    return not uri.startswith(SQLITE) or (file.is_file() and file.stat().st_size > 0)


def make(uri: str, fill: Callable[[str], object]) -> None:
    """See to it that the database `uri` is there: `fill` is given the URI of an empty one beside it.

    Other kinds of stores are made by their servers.
    """
    file = Path(uri.removeprefix(SQLITE))
    if is_made(uri) or not file.is_absolute():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if not is_made(uri):
            with written_aside(file) as aside:
                fill(f"{SQLITE}{aside}")


@contextmanager
def asked_once() -> Iterator[None]:
    """Have MLflow's clients give up soon, unless the environment says how long they wait."""
    added = {name: value for name, value in IMPATIENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def refuse_other_revision(uri: str) -> None:
    """Raises RegistryError for a database that can't be reached, or that opening would migrate or refuse."""
    found, needed = revision(uri)
    if found is not None and found != needed:
        raise RegistryError(
            f"the tables of {masked(uri)} are of revision {found}, and the installed MLflow works with {needed}; make "
            "a copy of the database, then `mlflow db upgrade` with its URI"
        )


def revision(uri: str) -> Revision:
    """Of the tables of a database that is made. Raises RegistryError when it can't be reached."""
    from sqlalchemy import create_engine, inspect, text
    from sqlalchemy.exc import SQLAlchemyError

    waits = {"timeout": CONNECT_SECONDS} if uri.startswith("sqlite") else {"connect_timeout": CONNECT_SECONDS}
    try:
        engine = create_engine(uri, connect_args=waits)
        with engine.connect() as connection:
            known = inspect(connection).has_table("alembic_version")
            found = connection.scalar(text("SELECT version_num FROM alembic_version")) if known else None
        engine.dispose()
    except (SQLAlchemyError, ImportError) as error:  # ImportError: the driver of the database is not installed
        said = " ".join(str(getattr(error, "orig", None) or error).split())
        raise RegistryError(f"the store {masked(uri)} can't be reached: {said}") from error
    return Revision(found, head())


def head() -> str:
    """The newest of the migrations that the installed MLflow brings."""
    from alembic.script import ScriptDirectory

    spec = importlib.util.find_spec("mlflow")
    assert spec is not None  # it is among the requirements
    assert spec.submodule_search_locations
    return str(ScriptDirectory(f"{spec.submodule_search_locations[0]}/store/db_migrations").get_current_head())
