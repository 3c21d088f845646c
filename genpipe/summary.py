"""What the command line shows at the end of a run: times, scores, the version, the files to look at."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from genpipe import terminal
from genpipe.evaluation.report import behind
from genpipe.evaluation.scores import HEADINGS, lines, scored
from genpipe.metrics import SCORES
from genpipe.project import Project
from genpipe.rehearsal.estimate import Estimate
from genpipe.terminal import Unbroken

LOOK_AT = ("artifacts/evaluate/report.html", "artifacts/evaluate/samples.png", "artifacts/train/samples/")
TITLE = "Samples against held-out data"


def show_plan(stages: Sequence[str], new: bool | None) -> None:
    """Which stages have something to do; `new` is whether the source may hold new rows, None if it did not answer."""
    console = Console()
    if stages:
        why = "The source may hold new rows" if new else "Inputs, settings, code or outputs have changed"
        console.print(f"These stages would run: {', '.join(stages)}. {why}.", highlight=False)
    elif new is not None:
        console.print("Every stage is up to date, and the source has no new rows.", highlight=False)
    else:
        console.print("Every stage of dvc.yaml is up to date.", highlight=False)
    if new is None:
        console.print("Whether there are new rows is not known: the source did not answer.", highlight=False)


def show_estimate(estimate: Estimate) -> None:
    """Examples, then what each stage would take and how that is known, memory and disk."""
    console = Console()
    console.print(f"[bold]Data[/bold]    {estimate.data}", highlight=False)
    table = Table("stage", "time", "from", title="Expected", title_justify="left")
    for name in estimate.measured:
        low, expected, high = (duration(seconds) for seconds in estimate.seconds(name))
        between = f" ({low} to {high})" if low != high else ""
        table.add_row(name, f"{expected}{between}", estimate.costs[name].how)
    if set(estimate.unmeasured) <= {"ingest"}:  # once there are data it reads what is new alone
        total = sum(estimate.seconds(name)[1] for name in estimate.measured)
        how = "processes started among it, on a machine as busy as now"
        table.add_row("all but ingest" if estimate.unmeasured else "all", duration(total), how)
    if estimate.measured:
        console.print(table, highlight=False)
    if estimate.unmeasured:
        late = "" if estimate.complete else " in time"
        console.print(f"[bold]Not measured[/bold]{late}: {', '.join(estimate.unmeasured)}", highlight=False)
    if estimate.memory:
        gpu = f", {in_bytes(estimate.memory.gpu)} of the GPU" if estimate.memory.gpu else ""
        console.print(f"[bold]Memory[/bold]  {in_bytes(estimate.memory.process)} while training{gpu}", highlight=False)
    needed = f"{in_bytes(estimate.size)} to write, " if estimate.measured else ""
    console.print(f"[bold]Disk[/bold]    {needed}{in_bytes(estimate.free)} free", highlight=False)
    if estimate.size > estimate.free:
        console.print("[bold red]The disk has no room for this run.[/bold red] Make some, or name less data.")


def duration(seconds: float) -> str:
    """As people say it."""
    if seconds < 600:
        return f"{max(seconds, 1):.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def in_bytes(count: int) -> str:
    size, unit = (count / 1e9, "GB") if count >= 1e9 else (count / 1e6, "MB")
    return f"{size:.0f} {unit}" if size >= 10 else f"{size:.1f} {unit}"


def show(project: Project, seconds: Mapping[str, float]) -> None:
    """Times of this run, scores with their floors, the model's name, version and alias, and where to go on."""
    if seconds:
        times = "  ".join(f"{name} {spent:.1f}" for name, spent in seconds.items())
        terminal.show("", terminal.beside("Time", f"{sum(seconds.values()):.1f} s: {times}"))
    else:
        terminal.show("Nothing has changed: every stage is up to date, and the model is registered.")
    metrics = json.loads((project.artifacts / "evaluate" / "metrics.json").read_text(encoding="utf-8"))
    poor = below_baseline(metrics)
    registered = json.loads((project.state / "registered.json").read_text(encoding="utf-8"))
    name, version, alias = registered["name"], registered["version"], registered["alias"]
    called = f"alias [green]{alias}[/green]" if alias else "without an alias"
    verdict = registered["verdict"] or {"title": "no verdict", "reasons": []}
    uri = f"models:/{name}@{alias.partition(',')[0]}" if alias else f"models:/{name}/{version}"
    terminal.show(
        score_table(metrics),
        *([f"[yellow]{poor}[/yellow]"] if poor else []),
        terminal.beside("Model", f"{name}, version {version}, {called}"),
        terminal.beside("Gate", *map(escape, (verdict["title"], *verdict["reasons"]))),
        terminal.beside("Look at", *map(Unbroken, LOOK_AT)),
        terminal.beside("Next", Unbroken(f"genpipe sample {uri} -n 64 --out samples"), "genpipe ui", "genpipe recipes"),
    )


def below_baseline(metrics: Mapping[str, Any]) -> str:
    """Of which scores the whole interval is worse than what the baseline makes, in a sentence; empty where of none."""
    found, quality = scored(metrics), [name for name, score in SCORES.items() if score.better != "like real"]
    worse = [SCORES[name].noun for name in quality if name in found and behind(name, found[name], "baseline")]
    if not worse:
        return ""
    advice = "; more steps (train.steps) are the first thing to try" if 2 * len(worse) > len(found) else ""
    return f"Worse than the baseline, beyond the interval: {', '.join(worse)}{advice}."


def score_table(metrics: Mapping[str, Any]) -> Table:
    """The scores of metrics.json."""
    table = Table(*HEADINGS, title=TITLE, title_justify="left")
    for line in lines(metrics):
        table.add_row(*line)
    return table
