"""What a user can mend. Each message says what was asked, what is allowed and where to change it.

A class also has its remedy, in one line, for those who come upon a failure later (`genpipe status`, docs/runbook.md).
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from genpipe import __version__

UNKNOWN = "no error that genpipe knows: the log of the run has its traceback; `genpipe doctor` looks at what is around"
TIMED_OUT = "it took longer than it may; `genpipe run` goes on, a training from its last checkpoint"
INTERRUPTED = "`genpipe run` goes on from there"
STOPPED = "somebody or something stopped it; `genpipe run` goes on, a training from its last checkpoint"


def without_passwords(text: str) -> str:
    """A text in which no URL shows who logs in, and with what."""
    return re.sub(r"(\w[\w+.-]*://)(?!git@)[^/\s@]+@", r"\1***@", text)


class GenpipeError(Exception):
    """Anything that a user can mend; the command line prints it without a traceback.

    The message shows no password of a URL, also where it quotes what a library says, which knows the whole URL.
    """

    remedy: ClassVar[str] = "mend what the message names, then `genpipe run`"
    said = False  # whether the log of the run has it already

    def __str__(self) -> str:
        return without_passwords(super().__str__())


class ConfigError(GenpipeError):
    """Settings that can't be used. `faults` holds one line for each, all of them found before anything ran."""

    remedy = "correct the keys that are named; `genpipe config` lists every key with what is allowed"

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__("\n".join([*faults, f"{count}; nothing was run"]))


class DataError(GenpipeError):
    """Data that are absent, broken, or not what the settings say."""

    remedy = "bring back or mend what is named; artifacts/validate/quarantine.parquet tells what was refused, and why"


class ComparisonError(GenpipeError):
    """Unlike figures, or models, which are not put side by side. `differences` holds one line for each."""

    remedy = "`genpipe run` scores the outputs anew; figures of one evaluator and one protocol compare"

    def __init__(self, differences: Sequence[str], what: str = "the figures are of unlike protocols") -> None:
        self.differences = tuple(differences)
        super().__init__("\n".join([f"{what} and are not compared:", *differences]))


class TooFewError(DataError):
    """Fewer held-out examples than the scores need."""

    remedy = "bring more examples, or hold more of them out: raise augment.test (params.yaml), then `genpipe run`"


class OutOfReachError(DataError):
    """A source that can't be read from here: its files are elsewhere, or the network is."""

    remedy = "see that the address and the network are right (params.yaml: ingest.source), then `genpipe run`"


class FormatError(GenpipeError):
    """A file that a newer genpipe has made."""

    remedy = "upgrade the genpipe that is installed here: `pip install --upgrade genpipe`"


def refuse_newer(file: object, found: Any, known: int) -> None:
    """Raises FormatError when `file` is of a later format than the one that is `known` here."""
    if isinstance(found, int) and found > known:
        raise FormatError(
            f"{file} is of format {found}, made by a newer genpipe; this is genpipe {__version__}, which reads format "
            f"{known}: upgrade it (`pip install --upgrade genpipe`)"
        )


class CheckpointError(GenpipeError):
    """A checkpoint that is corrupt or belongs to another training."""

    remedy = "remove the folder that is named below .genpipe/checkpoints; the training then begins anew"


class DivergedError(GenpipeError):
    """A training whose loss is no longer a number."""

    remedy = "lower train.optimizer.lr or set train.max_norm (params.yaml), then `genpipe run` trains from step 0"


class DeviceMemoryError(GenpipeError):
    """A training that does not fit the device's memory."""

    remedy = "raise train.micro_batches or lower train.batch_size (params.yaml), then `genpipe run`"


class LockedError(GenpipeError):
    """Another process works on this project."""

    remedy = "`genpipe status` tells who works on the project: wait for that process, or stop it"


class StageError(GenpipeError):
    """A stage ended with a failure, or was stopped."""

    remedy = "see what the stage printed in the log of the run, then `genpipe run`: what is done is not done again"


class RefusedDataError(StageError):
    """Validation stopped the run: too many bad rows, or a rule that the suite says must hold."""

    remedy = "see the bad rows in the report (Data Docs, quarantine.parquet), mend the source or the rules in suites/"


class KilledError(StageError):
    """A stage that a signal ended: the memory gave out, or the machine is going down."""

    remedy = "see whether the memory gave out (`dmesg`) or the machine went down; `genpipe run` resumes a training"


class RemoteError(GenpipeError):
    """DVC's remote does not answer; `again` says whether it may, asked once more."""

    remedy = "see that DVC's remote is there and lets this machine in (`genpipe doctor`), then start the run again"

    def __init__(self, message: str, *, again: bool = True) -> None:
        self.again = again
        super().__init__(message)


class RegistryError(GenpipeError):
    """The tracking store or the model registry has no such thing, or can't be reached."""

    remedy = "`genpipe doctor` tells whether the stores answer (mlflow.yml, MLFLOW_TRACKING_URI), then `genpipe run`"


class ServerError(GenpipeError):
    """The Prefect server that is named does not answer."""

    remedy = "see that PREFECT_API_URL is right and `prefect server start` runs there; PREFECT_API_AUTH_STRING lets in"


class WorkspaceError(GenpipeError):
    """The machine's clone of a repository: it can't be reached, merged or pushed to; `again` as for RemoteError."""

    remedy = "`git push` and `git fetch` by hand, as the worker's user, show what is wrong; then start the run again"

    def __init__(self, message: str, *, again: bool = False) -> None:
        self.again = again
        super().__init__(message)


def remedy_of(error: BaseException) -> str:
    """What to do about a failure, in one line."""
    if isinstance(error, GenpipeError):
        return error.remedy
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if not isinstance(error, Exception):
        return STOPPED
    return TIMED_OUT if isinstance(error, TimeoutError) else UNKNOWN
