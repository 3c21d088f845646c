"""Work on a stream of chunks, shared between the cores: results in order, few chunks in memory at once.

The workers are fresh processes (`spawn`), each with one thread. No library may be imported here at the top that starts
threads of its own: a worker imports this module before it has said that there shall be one.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import TypeVar

from genpipe.errors import KilledError

T = TypeVar("T")
R = TypeVar("R")

MOST_WORKERS = 16  # each takes some 100 MB
AHEAD = 2  # chunks a worker that are computed or wait, so that none runs dry while results are written
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ARROW_IO_THREADS")


def ordered(work: Callable[[T], R], chunks: Iterable[T], *, few: int = 1, ahead: int = AHEAD) -> Iterator[R]:
    """`work(chunk)` of each chunk, in the order of the chunks.

    So many as `few` chunks in all are worked on here, since processes take about a second to start; so is everything
    where this process may use one core only. For more, `work` (a function of a module, or a `partial` of one), chunks
    and results must be what pickle can carry; at most `ahead` chunks a worker are computed before they are asked for.
    An error in `work` is raised here as it is, with the worker's traceback as its cause; KilledError when a worker was
    ended from outside.
    """
    waiting = iter(chunks)
    first = list(islice(waiting, few + 1))
    every, workers = chain(first, waiting), min(cores(), MOST_WORKERS)
    if len(first) <= few or workers == 1:
        yield from map(work, every)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=begin)
    try:
        yield from results(pool, work, every, ahead * workers)
    except BrokenProcessPool:
        raise KilledError("a worker process was ended by a signal; 9 is often the memory's end") from None
    finally:
        pool.shutdown(cancel_futures=True)


def results(pool: ProcessPoolExecutor, work: Callable[[T], R], chunks: Iterable[T], most: int) -> Iterator[R]:
    """At most `most` chunks are in work or done and not yet fetched."""
    under_way: deque[Future[R]] = deque()
    for chunk in chunks:
        under_way.append(pool.submit(work, chunk))
        if len(under_way) == most:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def begin() -> None:
    """In a worker, before anything else: one thread, no word at Control-C, and an end when the parent has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends its workers
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ.update(dict.fromkeys(THREADS, "1"))
    import pyarrow as pa

    pa.set_cpu_count(1)


def end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
