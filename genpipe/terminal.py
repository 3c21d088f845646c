"""How commands print for people: on a terminal as wide as it is, into a pipe with lines as long as they are.

Nothing is cut off. A text that is too long goes on below where it began, and what is copied from the screen, such as an
address, stays in one piece.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

ENDLESS = 10_000  # columns of a pipe, unless COLUMNS says how many are wanted
NAMED = 12  # columns, or more for a long name, in which the names of lines stand


@dataclass(frozen=True)
class Unbroken:
    """A line to copy from the screen: where it is too long, the terminal wraps it, and we don't."""

    text: str


Line = RenderableType | Unbroken


def show(*parts: RenderableType) -> None:
    """Print parts below each other, and no blanks at the ends of lines."""
    console = Console(emoji=False, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = ENDLESS
    with console.capture() as printed:
        console.print(*parts, sep="\n", crop=False)
    try:
        print("\n".join(line.rstrip() for line in printed.get().splitlines()), flush=True)
    except BrokenPipeError:  # whoever reads has seen enough, such as `head`
        console.on_broken_pipe()


def beside(name: str, *lines: Line) -> Group:
    """A name, and lines beside it."""
    return Group(*laid_out(name, lines))


def laid_out(name: str, lines: tuple[Line, ...]) -> Iterator[RenderableType]:
    width = max(NAMED, len(name) + 2)
    for number, line in enumerate(lines):
        label = "" if number else name
        if isinstance(line, Unbroken):
            yield Text.assemble((f"{label:<{width}}", "bold"), line.text, no_wrap=True, overflow="ignore")
        else:
            grid = Table.grid(Column(width=width, style="bold", no_wrap=True), Column(overflow="fold"))
            grid.add_row(label, line)
            yield grid
