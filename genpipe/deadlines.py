"""A question to what may never answer: a server that hangs, a disk of the network that is gone."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float | None, ask: Callable[[], T]) -> T:
    """What `ask` returns, or raises. Raises TimeoutError after so many seconds, if they are limited.

    Whoever still waits for an answer then, or after Control-C, keeps no process alive.
    """
    answer: Future[T] = Future()

    def wait() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:  # noqa: BLE001  # it is raised below
            answer.set_exception(error)

    Thread(target=wait, daemon=True).start()
    return answer.result(timeout=seconds)
