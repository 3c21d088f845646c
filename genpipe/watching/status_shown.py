"""How `genpipe status` shows what it has found: as JSON, or a page of text of which the first lines matter most."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from genpipe import terminal
from genpipe.metrics import SCORES
from genpipe.project import Project
from genpipe.terminal import Line, Unbroken
from genpipe.unattended import origin
from genpipe.watching import ages, status
from genpipe.watching.status import Ask, Part

COLOURS = {
    "done": "green", "FINISHED": "green", "Completed": "green", "running": "cyan", "RUNNING": "cyan", "Running": "cyan",
    "stopped": "yellow", "KILLED": "yellow", "Cancelled": "yellow", "failed": "red", "FAILED": "red", "Failed": "red",
    "vanished": "red", "Crashed": "red",
}  # fmt: skip
WORDS = {"vanished": "ended without a word"}
TOLD_BY_CAUSE = (status.VANISHED.error, KeyboardInterrupt.__name__)  # classes whose name adds nothing


def show(directory: Path, ask: Ask | None, *, as_json: bool) -> int:
    """Print how the project stands; the exit code is 1 when a part of it could not be told."""
    project = Project.find(directory)
    found = status.report(project, ask)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        terminal.show(*page(found))
    return 1 if status.faults(found) else 0


def page(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Each part with its name beside it."""
    yield terminal.beside("Project", Unbroken(found["project"]))
    for name, part, lines in (
        ("Champion", "champion", champion_lines),
        ("Last run", "runs", run_lines),
        ("At work", "locks", lock_lines),
        ("To do", "changes", change_lines),
        ("Next", "schedule", schedule_lines),
        ("Trainings", "trainings", training_lines),
        ("Flow runs", "schedule", flow_run_lines),
    ):
        content = found[part] | {"here": found["project"], "champion": found["champion"].get("version")}
        if shown := list(fault_lines(content) if "fault" in content else lines(content)):
            yield terminal.beside(name, *shown)


def fault_lines(part: Part) -> Iterator[Line]:
    yield f"[red]can't be told:[/red] {escape(part['fault'])}"
    yield f"[bold]remedy:[/bold] {escape(part['remedy'])}"


def champion_lines(part: Part) -> Iterator[Line]:
    challenger = f"; challenger: version {part['challenger']}" if part["challenger"] else ""
    if part["version"] is None:
        yield f"none of {escape(part['name'])} yet{challenger}"
        return
    yield f"[green]{escape(part['name'])} version {part['version']}[/green]{escape(moved(part))}{challenger}"
    if part["why"]:
        yield f"[bold]why:[/bold] {escape(part['why'])}"
    if part["scores"]:
        yield score_table(part["scores"])


def moved(part: Part) -> str:
    """By whom a version was made champion, and when."""
    if part["since"] is None:
        return ", made champion outside of genpipe; `genpipe history` notes it"
    by = f" by {part['by']}" if part["by"] else ""
    return f", {part['kind']} {ages.since(part['since'])}{by} ({ages.clock(part['since'])})"


def score_table(scores: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, score in scores.items():
        interval = f"{score['low']:.4g} to {score['high']:.4g}" if {"low", "high"} <= set(score) else ""
        table.add_row(SCORES[name].title, f"{score['value']:.4g}", f"[dim]{interval}[/dim]")
    return table


def run_lines(part: Part) -> Iterator[Line]:
    if not part["last"]:
        yield "none yet; `genpipe run` begins one"
        return
    last, *earlier = part["last"]
    yield Text.assemble(coloured(last["outcome"]), how_long(last))
    if last["remark"]:
        yield escape(last["remark"])
    if failure := last["failure"]:
        named = "" if failure["error"] in TOLD_BY_CAUSE else f"{failure['error']}: "
        yield Text.assemble(("cause: ", "bold"), named, failure["cause"])
        yield Text.assemble(("remedy: ", "bold"), failure["remedy"])
    if last["flow_run"]:
        yield f"[bold]flow run:[/bold] {escape(last['flow_run'])}"
    if last["page"]:
        yield Unbroken(last["page"])
    if last["place"] != part["here"]:
        yield f"in {escape(last['place'])}"
    if earlier:
        before = (Text.assemble(coloured(one["outcome"]), f" {ages.since(one['begun'])}") for one in earlier)
        yield Text.assemble(("before: ", "dim"), Text(", ").join(before))


def how_long(run: Part) -> str:
    """Where and when a run ended, or where it is."""
    at = f" in {run['stage']}" if run["stage"] else ""
    if run["ended"]:
        return f"{at} {ages.since(run['ended'])}, after {ages.between(run['begun'], run['ended'])} ({run['purpose']})"
    return f"{at}, begun {ages.since(run['begun'])} ({run['purpose']})"


def lock_lines(part: Part) -> Iterator[Line]:
    if not part["held"]:
        yield "nobody"
    for lock in part["held"]:
        where = f" in {lock['place']}" if lock["place"] != part["here"] else ""
        who = f"process {lock['pid']} on {lock['host'] or 'this machine'}{where}"
        if lock["alive"]:
            yield f"[cyan]{escape(lock['purpose'])}[/cyan], {escape(who)}, since {ages.since(lock['since'])}"
        else:
            yield f"nobody: {escape(who)} ({escape(lock['purpose'])}) was killed; its note stops no other run"


def change_lines(part: Part) -> Iterator[Line]:
    if part["at_work"]:
        yield "not asked while somebody works here"
        return
    source = ["ingest (the source may hold new rows)"] if part["source"] else []
    if stages := [*source, *part["stages"]]:
        yield f"{', '.join(stages)}: `genpipe run`"
    if "unknown" in part:
        yield f"whether there are new rows is not known: {part['unknown']}"
    elif not stages:
        yield held_back(part) or "nothing: source, data, settings and code are as they were"


def held_back(part: Part) -> str:
    """What a version waits for that would be champion if all were committed; nothing for one that is champion now."""
    held = part["held_back"]
    if held is None or held["version"] == part["champion"]:
        return ""
    if held["committed"]:
        return f"register: version {held['version']} waited for a commit, and all is committed now: `genpipe run`"
    return f"version {held['version']} passes the gate and waits for a commit: `git commit`, then `genpipe run`"


def schedule_lines(part: Part) -> Iterator[Line]:
    if not part["declared"]:
        yield "no deployment is declared (prefect.yaml)"
    known = {one["name"]: one for one in part["deployments"]}
    for declared in part["declared"]:
        name = declared["name"]
        if name in known:
            yield f"{escape(name)}: {escape(due(known[name]))}"
        else:
            why = (
                "not deployed: `prefect --no-prompt deploy --all`"
                if part["server"]
                else "no server named (PREFECT_API_URL)"
            )
            yield f"{escape(name)}: {escape(rule(declared['schedules']))}; declared in prefect.yaml, {why}"


def due(deployment: Part) -> str:
    """When a deployment runs next, by the server; nothing of that for another project's of the same name."""
    if deployment["of_another"]:
        return f"the server's is of another project ({deployment['of_another']}); {origin.ADVICE}"
    if deployment["paused"]:
        return f"paused; {rule(deployment['schedules'])}"
    if deployment["next"] is None:
        active = any(one["active"] for one in deployment["schedules"])
        return f"{'the server has planned no run yet' if active else 'no run is due'}; {rule(deployment['schedules'])}"
    return f"{ages.since(deployment['next'])} ({ages.clock(deployment['next'])}); {rule(deployment['schedules'])}"


def rule(schedules: list[Part]) -> str:
    """When schedules fire, in their own words."""
    told = [
        f"{one.get('slug') or 'schedule'} {one.get('cron') or one.get('rrule') or one.get('interval')} "
        f"{one.get('timezone') or 'UTC'}{'' if one.get('active', True) else ' (switched off)'}"
        for one in schedules
    ]
    return ", ".join(told) or "no schedule"


def training_lines(part: Part) -> Iterator[Line]:
    if not part["last"]:
        yield "none yet"
        return
    table = Table.grid(padding=(0, 2))
    for run in part["last"]:
        steps = f"{run['done']:,} of {run['steps']:,} steps" if run["steps"] else f"{run['done']:,} steps"
        table.add_row(escape(run["name"]), coloured(run["state"]), ages.since(run["begun"]), steps)
    yield table
    yield from (f"{escape(run['name'])}: {escape(run['reason'])}" for run in part["last"] if run["reason"])


def flow_run_lines(part: Part) -> Iterator[Line]:
    if not part["runs"]:
        return
    table = Table.grid(padding=(0, 2))
    for run in part["runs"]:
        begun = ages.since(run["begun"]) if run["begun"] else ""
        table.add_row(escape(f"{run['deployment']}/{run['name']}"), coloured(run["state"]), begun)
    yield table
    untold = [run for run in part["runs"] if run["state"] != "Completed" and run["message"]]
    yield from (f"{escape(run['name'])}: {escape(run['message'])}" for run in untold)


def coloured(state: str) -> Text:
    return Text(WORDS.get(state, state), COLOURS.get(state, ""))
