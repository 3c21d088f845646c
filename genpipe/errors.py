"""What a user can mend. Each message says what was asked, what is allowed and where to change it."""

from collections.abc import Sequence


class GenpipeError(Exception):
    """Anything that a user can mend; the command line prints it without a traceback."""


class ConfigError(GenpipeError):
    """Settings that can't be used. `faults` holds one line for each, all of them found before anything ran."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__("\n".join([*faults, f"{count}; nothing was run"]))


class DataError(GenpipeError):
    """Data that are absent, broken, or not what the settings say."""


class ComparisonError(GenpipeError):
    """Unlike figures, or models, which are not put side by side. `differences` holds one line for each."""

    def __init__(self, differences: Sequence[str], what: str = "the figures are of unlike protocols") -> None:
        self.differences = tuple(differences)
        super().__init__("\n".join([f"{what} and are not compared:", *differences]))


class OutOfReachError(DataError):
    """A source that can't be read from here: its files are elsewhere, or the network is."""


class CheckpointError(GenpipeError):
    """A checkpoint that is corrupt or belongs to another training."""


class DivergedError(GenpipeError):
    """A training whose loss is no longer a number."""


class DeviceMemoryError(GenpipeError):
    """A training that does not fit the device's memory."""


class LockedError(GenpipeError):
    """Another process works on this project."""


class StageError(GenpipeError):
    """A stage ended with a failure, or was stopped."""


class KilledError(StageError):
    """A stage that a signal ended: the memory gave out, or the machine is going down."""


class RegistryError(GenpipeError):
    """The tracking store or the model registry has no such thing, or can't be reached."""
