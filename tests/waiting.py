"""Waiting for what other processes do: polled, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(found: Callable[[], T], what: str, seconds: float = 240) -> T:
    """What `found` returns once that is something. Fails with `what` was waited for when it takes too long."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, f"in {seconds:.0f} s there was no {what}"
        time.sleep(0.1)
    return value
