"""What the command line shows at the end of a run: times, scores, the version, the files to look at."""

import json
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from genpipe.project import Project
from genpipe.scores import scored

TITLE = "Samples against held-out data"


def show_plan(changed: Sequence[str]) -> None:
    """Which stages have something to do."""
    console = Console()
    if not changed:
        console.print("Every stage of dvc.yaml is up to date.")
    else:
        console.print(f"These stages would run: {', '.join(changed)}. Inputs, settings, code or outputs have changed.")


def show(project: Project, seconds: Mapping[str, float]) -> None:
    """Times of this run, scores with their floors, the model's name, version and alias, and where to go on."""
    console = Console()
    if seconds:
        total = sum(seconds.values())
        times = "  ".join(f"{name} {spent:.1f}" for name, spent in seconds.items())
        console.print(f"\n[bold]Time[/bold] {total:.1f} s: {times}")
    else:
        console.print("Nothing has changed: every stage is up to date, and the model is registered.")
    console.print(score_table(project))
    registered = json.loads((project.state / "registered.json").read_text(encoding="utf-8"))
    name, version, alias = registered["name"], registered["version"], registered["alias"]
    called = f"alias [green]{alias}[/green]" if alias else "without an alias"
    console.print(f"[bold]Model[/bold]   {name}, version {version}, {called}")
    if verdict := registered["verdict"]:
        console.print(f"[bold]Gate[/bold]    {verdict['title']}", highlight=False)
        console.print(*(f"        {reason}" for reason in verdict["reasons"]), sep="\n", highlight=False)
    console.print(
        "[bold]Look at[/bold] artifacts/evaluate/report.html  artifacts/evaluate/samples.png  artifacts/train/samples/"
    )
    uri = f"models:/{name}@{alias.partition(',')[0]}" if alias else f"models:/{name}/{version}"
    console.print(f"[bold]Next[/bold]    genpipe sample {uri} -n 64 --out samples", highlight=False)
    console.print("        genpipe ui", highlight=False)
    console.print("        genpipe recipes", highlight=False)


def score_table(project: Project) -> Table:
    """The scores of metrics.json."""
    metrics = json.loads((project.artifacts / "evaluate" / "metrics.json").read_text(encoding="utf-8"))
    table = Table("score", "value", "interval", "real data", "baseline", title=TITLE, title_justify="left")
    for name, score in scored(metrics).items():
        value, low, high, floor, baseline = (f"{part:.3f}" for part in score.values())
        table.add_row(name.replace("_", " "), value, f"{low} to {high}", floor, baseline)
    return table
