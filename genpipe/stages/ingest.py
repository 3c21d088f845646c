"""ingest: bring the source's rows into data/<name>/ and let DVC version them as data.dvc.

It stands before the DAG, as an import: raw data come from outside, and `dvc pull` can bring them instead.
"""

from typing import Annotated, Any

from genpipe import dag
from genpipe.config import Choice, Field, Plugin, settings
from genpipe.data import dataset
from genpipe.project import Project


@settings
class Config:
    source: Annotated[Any, Plugin("genpipe.sources")] = Field(default="digits", description="where raw data come from")


def run(cfg: Config, project: Project) -> dict[str, float]:
    """Write data/<name>/*.parquet, dataset.yaml and data.dvc; what is there already stays untouched."""
    source: Choice = cfg.source
    stored, added = dataset.add(project.data, source.module.DATASET, source.module.rows(source.config))
    if added or not (project.root / "data.dvc").exists():
        dag.version_data(project)
    print(f"{stored.about.name}: {stored.rows} examples, {added} of them new")
    return {"examples": stored.rows, "added": added}
