"""What a flow run shows of its stages in Prefect: validation, scores, the gate's verdict, and where the model is."""

import json
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from genpipe.evaluation.scores import scored
from genpipe.project import Project
from genpipe.stages import validate
from genpipe.unattended.pending import Pending


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def decision(project: Project) -> str | None:
    """What validation decided of the present data; None if it did not come so far."""
    file = project.artifacts / "validate" / "result.json"
    return str(read(file)["decision"]) if file.exists() else None


def validation(project: Project) -> None:
    """A table of the rules with what was found, and a link to Data Docs; nothing, if the stage did not come so far."""
    if decision(project) is None:
        return
    result = read(project.artifacts / "validate" / "result.json")
    shown = ("reason", "action", "success", "bad", "observed", "expectation", "column")
    rows = [{key: rule.get(key) for key in shown} for rule in result["rules"]]
    title = f"{result['decision']}: {result['quarantined']} of {result['rows']} rows quarantined"
    create_table_artifact(key="validation", table=rows, description=title)
    if pages := validate.pages(project):
        links = "\n".join(f"- [{title}]({page.as_uri()})" for title, page in pages.items())
        create_link_artifact(
            key="data-docs", link=pages["Data Docs"].as_uri(), link_text="Data Docs", description=links
        )


def scores(project: Project) -> None:
    """A table of the scores, each with its interval and the floor that real data reach."""
    metrics = read(project.artifacts / "evaluate" / "metrics.json")
    table = [{"metric": name, **score} for name, score in scored(metrics).items()]
    create_table_artifact(key="scores", table=table, description="Samples against held-out data")


def reason(pending: Pending) -> None:
    """Why this run trains, or registers."""
    lines = [
        f"To be done: {', '.join(pending.stages) or 'register'}. Why:",
        "",
        *(f"- {one}" for one in pending.reasons),
    ]
    create_markdown_artifact(key="reason", markdown="\n".join(lines))


def registration(project: Project) -> None:
    """The version with its alias, the gate's verdict on it, and a link to its run in MLflow."""
    registered = read(project.state / "registered.json")
    text = f"`models:/{registered['name']}/{registered['version']}`: **{registered['alias'] or 'no alias'}**"
    create_markdown_artifact(key="registration", markdown=text)
    if verdict := registered["verdict"]:
        title = f"{verdict['title']}: {' '.join(verdict['reasons'])}"
        create_table_artifact(key="verdict", table=verdict["rows"], description=title)
    if registered["run"]:
        create_link_artifact(key="mlflow-run", link=registered["run"], link_text="Training run in MLflow")


def outcome(project: Project) -> str:
    """What registering came to, in a sentence or two."""
    registered = read(project.state / "registered.json")
    verdict = registered["verdict"] or {"title": "no verdict", "reasons": []}
    called = f"{registered['name']} version {registered['version']} ({registered['alias'] or 'no alias'})"
    return " ".join([f"{called}: {verdict['title']}.", *verdict["reasons"]])
