"""What the command line shows at the end of a run: times, scores, the version, the files to look at."""

import json
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from genpipe.project import Project


def show_plan(changed: Sequence[str]) -> None:
    """Which stages have something to do."""
    console = Console()
    if not changed:
        console.print("Every stage of dvc.yaml is up to date.")
    for name in changed:
        console.print(f"{name} has changed inputs, settings, code or outputs: it would run")


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
    console.print(f"[bold]Model[/bold]   {name}, version {version}, alias [green]{alias}[/green]")
    console.print(
        "[bold]Look at[/bold] artifacts/evaluate/report.html  artifacts/evaluate/samples.png  artifacts/train/samples/"
    )
    console.print(f"[bold]Next[/bold]    genpipe sample models:/{name}@{alias} -n 64 --out samples", highlight=False)
    console.print("        genpipe ui", highlight=False)
    console.print("        genpipe run --set train.generator.kind=vae", highlight=False)


def score_table(project: Project) -> Table:
    """The scores of metrics.json."""
    metrics = json.loads((project.artifacts / "evaluate" / "metrics.json").read_text(encoding="utf-8"))
    table = Table(
        "score", "value", "interval", "real data", title="Samples against held-out data", title_justify="left"
    )
    for name, score in metrics.items():
        if isinstance(score, dict) and "value" in score:
            interval = f"{score['low']:.3f} to {score['high']:.3f}" if "low" in score else ""
            floor = f"{score['floor']:.3f}" if score.get("floor") is not None else ""
            table.add_row(name.replace("_", " "), f"{score['value']:.3f}", interval, floor)
    return table
