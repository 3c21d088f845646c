"""Supervised children and locks: nothing is left behind, whatever ends the wait."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from genpipe import locks, processes
from genpipe.errors import KilledError, LockedError, StageError
from genpipe.processes import supervise
from tests import projects

PYTHON = sys.executable


def test_lines_are_passed_on_and_the_environment_is_added(tmp_path: Path) -> None:
    lines: list[str] = []
    supervise(
        [PYTHON, "-c", "import os; print(os.getcwd()); print(os.environ['COLOUR'])"],
        tmp_path,
        lines.append,
        {"COLOUR": "red"},
    )
    assert lines == [str(tmp_path), "red"]


def test_a_failure_is_told_in_the_stage_s_own_words(tmp_path: Path) -> None:
    script = (
        "import sys; print('working'); print('genpipe: no such colour\\nmend it');"
        "print('ERROR: failed to reproduce x'); sys.exit(3)"
    )
    with pytest.raises(StageError) as caught:
        supervise([PYTHON, "-c", script], tmp_path, print)
    assert str(caught.value) == "no such colour\nmend it"


@pytest.mark.parametrize(("code", "signalled"), [("-9", 9), ("137", 9), ("143", 15)])
def test_a_stage_that_a_signal_ended_is_told_so_whatever_shell_ran_it(code: str, signalled: int) -> None:
    comment = f"ERROR: failed to reproduce 'train': failed to run: genpipe stage train, exited with {code}"
    found = processes.failure(["train: resumed", "Killed", comment])
    assert isinstance(found, KilledError)
    assert f"signal {signalled};" in str(found)
    plain = processes.failure(["genpipe: no such colour", comment.replace(code, "2")])
    assert (type(plain), str(plain)) == (StageError, "no such colour")


def test_an_interrupted_wait_asks_the_whole_group_to_stop_and_waits_for_it(tmp_path: Path) -> None:
    """The grandchild writes its checkpoint on SIGTERM, as training does; the child between dies at once."""
    grandchild = (
        "import pathlib, signal, sys, time\n"
        "def stop(*_):\n    time.sleep(0.5); pathlib.Path('checkpoint').write_text('saved'); sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, stop); print('ready', flush=True); time.sleep(60)\n"
    )
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"

    def interrupt(line: str) -> None:
        raise TimeoutError(line)

    with pytest.raises(TimeoutError, match="ready"):
        supervise([PYTHON, "-c", child], tmp_path, interrupt)
    assert (tmp_path / "checkpoint").read_text() == "saved"


def test_what_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)
    script = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    pids: list[int] = []

    def interrupt(line: str) -> None:
        pids.append(int(line))
        raise TimeoutError

    with pytest.raises(TimeoutError):
        supervise([PYTHON, "-c", script], tmp_path, interrupt)
    assert not psutil.pid_exists(pids[0])


def test_a_second_writer_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    file = tmp_path / "locks" / "train.lock"
    with (
        locks.held(file, "genpipe run"),
        pytest.raises(LockedError, match=rf"process {os.getpid()} \(genpipe run, since 20"),
    ):
        in_thread(lambda: locks.held(file, "genpipe stage train").__enter__())
    with locks.held(file, "free again"):
        assert str(locks.holder(file.with_suffix(".json"))).startswith(f"process {os.getpid()} (free again")


def in_thread(action: object) -> None:
    """Run in another thread and raise here what it raised there."""
    caught: list[BaseException] = []

    def call() -> None:
        try:
            action()  # type: ignore[operator]
        except LockedError as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if caught:
        raise caught[0]


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    file = tmp_path / "run.lock"
    script = (
        "import time; from pathlib import Path; from genpipe import locks\n"
        f"with locks.held(Path({str(file)!r}), 'x'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([PYTHON, "-c", script], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {holder.pid}"), locks.held(file, "second"):
            pass
        holder.send_signal(signal.SIGKILL)
    began = time.monotonic()
    with locks.held(file, "third", wait_seconds=5):
        assert time.monotonic() - began < 5


HOLDER = """
import socket, subprocess, sys
from pathlib import Path
from genpipe import locks
from genpipe.project import Project

host, stage = sys.argv[1:]
socket.gethostname = lambda: host
with locks.held(Project(Path.cwd()).lock("pipeline"), "genpipe run"):
    sys.exit(subprocess.run([sys.executable, "-c", stage]).returncode)
"""
STAGE = """
import sys
from pathlib import Path
from genpipe import locks
from genpipe.errors import LockedError
from genpipe.project import Project

try:
    with locks.working(Project(Path.cwd()), "genpipe stage train"):
        print("works")
except LockedError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize(("host", "works"), [(socket.gethostname(), True), ("a1b2c3", False)])
def test_a_stage_works_beside_the_run_that_started_it_and_not_beside_one_of_another_machine(
    host: str, works: bool, tmp_path: Path
) -> None:
    """The other's holder has, as in a container, the number of a process above the stage."""
    project = projects.make(tmp_path)
    done = subprocess.run(
        [PYTHON, "-c", HOLDER, host, STAGE], cwd=project.root, check=False, capture_output=True, text=True
    )
    assert ("works" in done.stdout) == works, done.stderr
    assert ("in use by process" in done.stderr and "on a1b2c3 (genpipe run" in done.stderr) != works


def test_a_process_lives_until_it_ends_and_one_that_began_later_is_another() -> None:
    with subprocess.Popen([PYTHON, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert processes.lives(child.pid, time.time())
        assert not processes.lives(child.pid, time.time() - 60)  # its number was another's then
        assert child.stdin
        child.stdin.close()
        end = time.monotonic() + 30
        while processes.lives(child.pid, time.time()):  # nobody has waited for it: a zombie
            assert time.monotonic() < end
    assert not processes.lives(child.pid, time.time())


def test_what_a_killed_run_has_started_holds_its_lock_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.lock"
    worker = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"  # it watches nobody
    script = (
        "from pathlib import Path; from genpipe import locks, processes\n"
        f"with locks.held(Path({str(file)!r}), 'x'):\n"
        f"    processes.supervise([{PYTHON!r}, '-c', {worker!r}], Path(), lambda line: print(line, flush=True))"
    )
    with subprocess.Popen([PYTHON, "-c", script], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        left = psutil.Process(int(holder.stdout.readline()))
        holder.kill()
    monkeypatch.setattr(locks, "LEFT_SECONDS", 0.5)
    said = rf"what is left of process {holder.pid} \(x, since .*\), which was killed: process {left.pid} \(.*import os"
    with pytest.raises(LockedError, match=said), locks.held(file, "second"):
        pass
    threading.Timer(1, left.kill).start()
    monkeypatch.setattr(locks, "LEFT_SECONDS", 30)
    with locks.held(file, "third"):
        assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE
