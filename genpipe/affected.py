"""Which models know a row of the data, by the record that their runs carry (membership.py)."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from genpipe.project import Project

SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Model:
    """A training run, its versions in the registry, and which of the rows asked for it knows, each with its split."""

    run_id: str
    run_name: str
    versions: Mapping[int, str]  # number → aliases
    rows: Mapping[str, str] | None  # None when the run carries no record

    @property
    def trained_on(self) -> list[str]:
        return [row for row, split in (self.rows or {}).items() if split == "train"]

    @property
    def measured_on(self) -> list[str]:
        return [row for row, split in (self.rows or {}).items() if split != "train"]

    @property
    def called(self) -> str:
        """`version 3 (champion)`, or the run when nothing was registered from it."""
        versions = [f"version {number}" + (f" ({names})" if names else "") for number, names in self.versions.items()]
        return ", ".join(versions) or f"run {self.run_name} ({self.run_id}), not registered"


def models(project: Project, ids: Collection[str]) -> list[Model]:
    """The models that know a row among `ids`, and those of which nobody can say, newest first."""
    uri = project.mlflow.server.mlflow_tracking_uri
    if uri.startswith(SQLITE) and not project.root.joinpath(uri.removeprefix(SQLITE)).exists():
        return []  # nothing was ever trained, and making a store takes seconds
    from genpipe.records import registry, tracking

    aliases, versions = registry.aliases(project), defaultdict[str, dict[int, str]](dict)
    for version in registry.versions(project):
        number = int(version.version)
        versions[str(version.run_id)][number] = ", ".join(name for name, named in aliases.items() if named == number)
    keys, found = [bytes.fromhex(name) for name in ids], list[Model]()
    for run in tracking.training_runs(project):
        known = tracking.rows_of(run, keys)
        rows = None if known is None else {key.hex(): split for key, split in known.items()}
        if rows is None or rows:
            found.append(Model(run.info.run_id, run.info.run_name, versions[run.info.run_id], rows))
    return found
