"""What the measurement of a run finds, piece by piece, as it goes from the measuring process to the estimate."""

from typing import NamedTuple


class Data(NamedTuple):
    """The examples, in words."""

    text: str


class Cost(NamedTuple):
    """The seconds of a stage, with the least and the most that the measurement lets expect, and bytes on the disk."""

    stage: str
    seconds: float
    how: str
    low: float | None = None
    high: float | None = None
    size: int = 0


class Memory(NamedTuple):
    """Bytes while training."""

    process: int
    gpu: int


class Failure(NamedTuple):
    """Why the run would fail; the faults of settings, where it is them."""

    text: str
    faults: tuple[str, ...]


Piece = Data | Cost | Memory | Failure
