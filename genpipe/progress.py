"""Showing how far a long computation is: a bar on a terminal, elsewhere lines, seldomer the longer it takes."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

LINE_SECONDS = 5.0
SELDOM_SECONDS = 60.0  # a training of two days writes 3,000 lines into a log, not 35,000
Show = Callable[[int], None]


@contextmanager
def shown(name: str, total: int, start: int, examples_per_step: int) -> Iterator[Show]:
    """A function to call with the number of steps done; it shows steps, examples per second and time left."""
    if sys.stderr.isatty():
        with bar(name, total, start, examples_per_step) as show:
            yield show
    else:
        yield lines(name, total, start, examples_per_step)


@contextmanager
def bar(name: str, total: int, start: int, examples_per_step: int) -> Iterator[Show]:
    from rich.console import Console

    columns = TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}")
    began = time.monotonic()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=total, completed=start, speed="")

        def show(done: int) -> None:
            speed = (done - start) * examples_per_step / max(time.monotonic() - began, 1e-9)
            progress.update(task, completed=done, speed=f"{speed:,.0f} examples/s")

        yield show


def lines(name: str, total: int, start: int, examples_per_step: int) -> Show:
    began = last = time.monotonic()

    def show(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < pause(now - began):
            return
        last = now
        steps_per_second = (done - start) / (now - began)
        left = (total - done) / max(steps_per_second, 1e-9)
        speed = f"{steps_per_second * examples_per_step:,.0f} examples/s"
        print(f"{name}: {done:,} of {total:,} steps, {speed}, {left:,.0f} s left", file=sys.stderr, flush=True)

    return show


def pause(elapsed_seconds: float) -> float:
    """Seconds between two lines: a twelfth of the time that has gone by, within limits."""
    return min(max(elapsed_seconds / 12, LINE_SECONDS), SELDOM_SECONDS)


@contextmanager
def fetched(name: str, total: int | None, start: int) -> Iterator[Show]:
    """A function to call with the number of bytes fetched; `total` is None where a server does not say it."""
    if sys.stderr.isatty():
        from rich.console import Console

        columns = TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(name, total=total, completed=start)
            yield lambda done: progress.update(task, completed=done)
    else:
        last = time.monotonic()

        def show(done: int) -> None:
            nonlocal last
            if time.monotonic() - last >= LINE_SECONDS:
                last = time.monotonic()
                whole = f" of {total / 1e6:,.1f}" if total else ""
                print(f"{name}: {done / 1e6:,.1f}{whole} MB", file=sys.stderr, flush=True)

        yield show
