"""What waits for a store: nothing twice, nothing lost, and an end to the patience."""

import pytest

from genpipe.errors import RegistryError
from genpipe.records.outbox import Outbox


class Store:
    """Takes at most `room` numbers, and then answers no more."""

    def __init__(self, room: int) -> None:
        self.room, self.taken = room, list[int]()

    def take(self, numbers: list[int]) -> None:
        if len(self.taken) + len(numbers) > self.room:
            raise RegistryError("the store does not answer")
        self.taken += numbers


def test_what_a_store_does_not_take_waits_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(room=4)
    box = Outbox(store.take, size=2, patience_seconds=60)
    box.add(range(7))
    box.flush()
    box.flush()
    assert (store.taken, box.waiting) == ([0, 1, 2, 3], [4, 5, 6])
    assert capsys.readouterr().err.count("the training goes on, and what it logs waits") == 1  # told once an outage
    store.room = 7
    box.drain()
    assert (store.taken, box.waiting, box.away_since) == ([0, 1, 2, 3, 4, 5, 6], [], None)


def test_patience_ends() -> None:
    box = Outbox(Store(room=0).take, size=2, patience_seconds=0)
    box.add([1])
    with pytest.raises(RegistryError, match="does not answer"):
        box.flush()
    assert box.waiting == [1]


def test_points_are_sent_in_pieces_and_not_each_by_itself() -> None:
    sizes: list[int] = []
    box = Outbox[int](lambda numbers: sizes.append(len(numbers)), size=3, patience_seconds=0)
    for number in range(8):
        box.add([number])  # within the pause after the last sending
    assert sizes == []
    box.flush()
    assert sizes == [3, 3, 2]
