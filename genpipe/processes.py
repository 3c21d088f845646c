"""A child process in a group of its own: its output passed on line by line, and nothing of it left behind."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Thread

import psutil

from genpipe import locks
from genpipe.errors import KilledError, StageError, without_passwords

DVC_COMMENT = "ERROR: failed to reproduce"
STARTER = "GENPIPE_STARTER"  # in the environment of a child: the process that supervises it
WATCH_SECONDS = 0.5
SLACK_SECONDS = 2.0  # by which the time of a note and the beginning of its process may differ
GRACE_SECONDS = 30.0  # between the request to stop (a stage writes its checkpoint) and the kill


def supervise(
    command: Sequence[str], folder: Path, passed_on: Callable[[str], None], environment: Mapping[str, str] | None = None
) -> None:
    """Run `command` in `folder`, give each line that it prints to `passed_on`, and return when its whole group is gone.

    Whatever ends the wait (a time-out, a cancellation, Control-C) first ends the group: SIGTERM, on which a stage
    checkpoints, then SIGKILL. Raises StageError with what the command said last when the exit code is not 0,
    KilledError when a signal ended the stage.
    """
    last: list[str] = []
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**own_environment(), **(environment or {}), STARTER: str(os.getpid())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        pass_fds=locks.shared(),
    ) as child:
        assert child.stdout is not None  # because of PIPE
        try:
            for line in child.stdout:  # ends when the last process of the group has closed it
                said = without_passwords(line.rstrip())
                passed_on(said)
                last = [*last[-19:], said]
            child.wait()
        finally:
            end_group(child)
            for line in child.stdout:  # what it said when it was asked to stop
                passed_on(without_passwords(line.rstrip()))
    if child.returncode < 0:
        raise killed(-child.returncode)
    if child.returncode:
        raise failure(last)


def own_environment() -> dict[str, str]:
    """The environment with this Python's commands first on PATH: DVC runs `genpipe stage` by that name."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


def failure(lines: Sequence[str]) -> StageError:
    """What a failed command says of it: its own error up to DVC's comment on it, or the last line before that."""
    comment = next((line for line in lines if line.startswith(DVC_COMMENT)), "")
    code = int(found[1]) if (found := re.search(r"exited with (-?\d+)$", comment)) else 0
    if signalled := -code if code < 0 else max(code - 128, 0):  # of the stage itself, or as a shell tells it
        return killed(signalled)
    said = [line for line in lines if line.strip() and line != comment]
    own = [number for number, line in enumerate(said) if line.startswith("genpipe: ")]
    error = StageError("\n".join(said[own[-1] :] if own else said[-1:]).removeprefix("genpipe: "))
    error.said = True  # it was passed on
    return error


def killed(signalled: int) -> KilledError:
    return KilledError(f"the stage was ended by signal {signalled}; 9 is often the memory's end")


def stop_with_whoever_started_this() -> None:
    """Let SIGTERM reach this process, on which a stage checkpoints, once the flow or the DVC that started it is gone.

    What was killed can't end its children, and no stage is to work on for nobody, with its lock.
    """
    started_by = [int(os.environ[STARTER])] if STARTER in os.environ else []
    started_by += dvc_above() if "DVC_STAGE" in os.environ else []  # which DVC sets for the commands of stages
    if started_by:
        Thread(target=stop_after_any, args=(os.getpid(), started_by), daemon=True).start()


def dvc_above() -> list[int]:
    """The process that started this one, and if that is a shell with this command, the DVC that started the shell."""
    above = os.getppid()
    try:
        parent = psutil.Process(above)
        return [above, parent.ppid()] if parent.cmdline()[-2:-1] == ["-c"] else [above]
    except psutil.NoSuchProcess:
        return [above]  # it ended while we looked, which whoever watches it finds, too


def stop_after_any(process: int, others: Sequence[int]) -> None:
    """Send SIGTERM to `process` when the first of `others` has ended."""
    try:
        watched = [psutil.Process(other) for other in others]
        while all(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in watched):
            time.sleep(WATCH_SECONDS)
    except psutil.NoSuchProcess:
        pass  # it ended while we looked
    os.kill(process, signal.SIGTERM)


def lives(number: int, at: float) -> bool:
    """Whether the process that had this number at that time (seconds since 1970) still runs.

    One of that number which began later is another.
    """
    try:
        process = psutil.Process(number)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= at + SLACK_SECONDS
    except psutil.NoSuchProcess:
        return False


def end_group(child: subprocess.Popen[str]) -> None:
    """Ask every process of the child's group to stop, wait, and kill what is left."""
    members = group_of(child.pid)
    for sent in (signal.SIGTERM, signal.SIGKILL):
        if not members:
            break
        send(child.pid, sent)
        members = psutil.wait_procs(members, timeout=GRACE_SECONDS)[1]
    child.wait()


def group_of(group: int) -> list[psutil.Process]:
    """The living processes whose group id is `group`."""
    return [process for process in psutil.process_iter() if belongs(process, group)]


def belongs(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
        return False  # it ended while we looked, or is somebody else's


def send(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return  # the group ended by itself
