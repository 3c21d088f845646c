"""What `genpipe doctor` does: look at everything that a run needs, and say what to do where something is amiss.

Looking changes nothing. A check is a function that yields findings; one that can't even begin, since a package is
broken or a store does not answer, becomes a finding itself, and the others go on.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from genpipe.errors import ConfigError, GenpipeError

State = Literal["ok", "warning", "wrong"]
COLOURS: dict[State, str] = {"ok": "green", "warning": "yellow", "wrong": "red"}


@dataclass(frozen=True)
class Finding:
    """What was found of one thing; a remedy unless it is ok."""

    about: str
    state: State
    text: str
    remedy: str = ""


Check = Callable[[], Iterator[Finding]]
Ask = Callable[[Sequence[str]], dict[str, Any]]  # names of deployments → what the Prefect server says of itself


def doctor(directory: Path, ask: Ask | None, *, as_json: bool) -> int:
    """Print what all checks have found; the exit code is 1 when anything is wrong.

    Outside a project only the environment is looked at. Without `ask` no Prefect server is named.
    """
    found = list(examined(directory, ask))
    if as_json:
        print(json.dumps([asdict(finding) for finding in found], indent=2, ensure_ascii=False))
    else:
        show(found)
    return int(any(finding.state == "wrong" for finding in found))


def examined(directory: Path, ask: Ask | None) -> Iterator[Finding]:
    """The findings of every check, in the order in which they rest on each other."""
    from genpipe.watching.doctor import environment

    for about, check in environment.CHECKS.items():
        yield from carried_out(about, check)
    try:
        from genpipe.project import Project
        from genpipe.run import set_defaults
        from genpipe.watching.doctor import project, services

        set_defaults()
        here = Project.find(directory)
    except ImportError as error:
        yield broken("project", error)
    except ConfigError:
        yield Finding("project", "ok", f"none at {directory.resolve()}: only the environment was looked at (-C DIR)")
    else:
        yield Finding("project", "ok", str(here.root))
        for about, of_project in (project.CHECKS | services.CHECKS).items():
            yield from carried_out(about, partial(of_project, here))
        yield from carried_out("Prefect", partial(services.prefect, here, ask))


def carried_out(about: str, check: Check) -> Iterator[Finding]:
    """What a check finds; what keeps it from looking is found, too."""
    try:
        yield from check()
    except GenpipeError as error:
        yield Finding(about, "wrong", str(error), error.remedy)
    except ImportError as error:
        yield broken(about, error)
    except (OSError, ValueError, LookupError, RuntimeError) as error:  # such as a file that a kill has cut off
        yield Finding(about, "wrong", f"could not be looked at: {error}", "mend what the system says, and ask again")


def broken(about: str, error: ImportError) -> Finding:
    text = f"could not be looked at, since a package can't be imported: {error}"
    return Finding(about, "wrong", text, "install the packages anew (`pip install --force-reinstall genpipe`)")


def show(found: Sequence[Finding]) -> None:
    """A line a finding, its remedy below it, and the counts; what is amiss comes last, where the eye is."""
    from rich.markup import escape
    from rich.table import Column, Table

    from genpipe import terminal

    columns = Column(no_wrap=True), Column(style="bold", no_wrap=True), Column(overflow="fold")
    grid = Table.grid(*columns, padding=(0, 2))
    for finding in sorted(found, key=lambda finding: list(COLOURS).index(finding.state)):
        remedy = f"\n[bold]remedy:[/bold] {escape(finding.remedy)}" if finding.remedy else ""
        state = f"[{COLOURS[finding.state]}]{finding.state}[/]"
        grid.add_row(state, finding.about, escape(finding.text) + remedy)
    counts = Counter(finding.state for finding in found)
    told = ", ".join(f"[{COLOURS[state]}]{counts[state]} {state}[/]" for state in COLOURS if counts[state])
    terminal.show(grid, told)
