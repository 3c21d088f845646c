"""What waits to be sent to a store that may be away for a while: nothing is lost, and the sender goes on meanwhile."""

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from genpipe.errors import RegistryError

T = TypeVar("T")
PAUSE_SECONDS, OUTAGE_PAUSE_SECONDS = 2.0, 15.0  # between two sendings; a try that fails takes seconds itself


@dataclass
class Outbox(Generic[T]):
    """`send` takes at most `size` items at once, and raises RegistryError when the store has not taken them."""

    send: Callable[[list[T]], None]
    size: int
    patience_seconds: float
    waiting: list[T] = field(default_factory=list)
    away_since: float | None = None
    tried: float = field(default_factory=time.monotonic)

    def add(self, items: Iterable[T]) -> None:
        """Let `items` wait, and send all that waits if the last sending was long enough ago."""
        self.waiting += items
        if time.monotonic() - self.tried > (PAUSE_SECONDS if self.away_since is None else OUTAGE_PAUSE_SECONDS):
            self.flush()

    def flush(self) -> None:
        """Send what waits. Raises RegistryError when the store has taken nothing for `patience_seconds`."""
        self.tried = time.monotonic()
        try:
            while self.waiting:
                self.send(self.waiting[: self.size])
                del self.waiting[: self.size]
        except RegistryError as error:
            if self.away_since is None:
                self.away_since = self.tried
                print(f"{error}; the training goes on, and what it logs waits", file=sys.stderr, flush=True)
            if time.monotonic() - self.away_since >= self.patience_seconds:
                raise
        else:
            self.away_since = None

    def drain(self) -> None:
        """Send what waits, and wait until all of it is sent. Raises RegistryError as `flush` does."""
        self.flush()
        while self.waiting:
            time.sleep(PAUSE_SECONDS)
            self.flush()
