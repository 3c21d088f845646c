"""Work shared between processes: in order, bounded, its errors told, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from genpipe.data import parallel
from genpipe.errors import DataError, KilledError

two_cores = pytest.mark.skipif(parallel.cores() < 2, reason="one core: all work is done in this process")


def work(number: int) -> tuple[int, int, str]:
    if number == 13:
        raise DataError("13 can't be read")
    if number == 99:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.002 * (number % 3))  # a later chunk is often done before an earlier one
    return number * number, os.getpid(), os.environ.get("OMP_NUM_THREADS", "")


def test_a_few_chunks_are_worked_on_here() -> None:
    assert {pid for _, pid, _ in parallel.ordered(work, [1, 2, 3], few=3)} == {os.getpid()}


@two_cores
def test_more_are_shared_between_the_cores_and_come_back_in_order() -> None:
    taken = []

    def chunks() -> Iterator[int]:
        for number in range(100, 180):
            taken.append(number)
            yield number

    found = []
    for result in parallel.ordered(work, chunks()):
        assert len(taken) <= len(found) + parallel.AHEAD * parallel.cores() + 1  # no more than that are in memory
        found.append(result)
    assert [square for square, _, _ in found] == [number**2 for number in range(100, 180)]
    assert {threads for _, _, threads in found} == {"1"}
    workers = {pid for _, pid, _ in found}
    assert len(workers) > 1
    assert os.getpid() not in workers
    assert not any(psutil.pid_exists(pid) for pid in workers)


@two_cores
def test_an_error_of_a_worker_is_raised_as_it_is_after_the_results_before_it() -> None:
    results = parallel.ordered(work, range(11, 20))
    workers = {next(results)[1], next(results)[1]}
    with pytest.raises(DataError, match="13 can't be read"):
        next(results)
    assert not any(psutil.pid_exists(pid) for pid in workers)


@two_cores
def test_a_worker_that_is_killed_is_told() -> None:
    with pytest.raises(KilledError, match="a worker process was ended by a signal"):
        list(parallel.ordered(work, [1, 2, 99, 3]))


PARENT = """
import time
from genpipe.data import parallel

for result in parallel.ordered(time.sleep, [0.1, 0.1, 600, 600]):
    print("one is done", flush=True)
"""


@two_cores
def test_workers_end_when_their_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=os.environ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        below = psutil.Process(parent.pid).children(recursive=True)
        assert len(below) >= 2
        parent.kill()
        assert psutil.wait_procs(below, timeout=10)[1] == []
