"""Kinds of generative models, one file each; the file's name is the kind.

A file holds `Config` (its settings), `Sampling` (what a caller may choose when drawing: the command line, the served
model's parameters and the metric card follow from it) and `Model`, which offers what the protocol below says.
`training.py` steps any of them; nothing else in genpipe knows a kind by name.

Shapes: B examples in a batch, S the shape of one example as its modality batches it.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor, nn

from genpipe import plugins
from genpipe.data.arrays import DataSpec
from genpipe.randomness import Noise

Batch = Mapping[str, Tensor]
Logged = Mapping[str, Tensor]


class Update(NamedTuple):
    """One optimizer step: which part moves, and the mean loss over a micro-batch that moves it.

    `loss(batch, step)` returns the scalar to minimise and detached scalars to log; `step` serves schedules.
    """

    part: str
    loss: Callable[[Batch, int], tuple[Tensor, Logged]]
    every: int = 1  # runs at steps divisible by this (lazy regularisers)


class Model(Protocol):
    """What the training loop, sampling and registration need; `Model(cfg, data)` builds one."""

    modalities: ClassVar[frozenset[str]]  # of what it can be trained
    likelihood: ClassVar[bool]  # whether it gives the (log-)likelihood of an example, or a bound
    data: DataSpec  # what it was built for

    def takes(self) -> tuple[str, ...]:
        """The conditions that `sample` wants, as keys of a batch: ("label",) or ()."""

    def compilable(self) -> tuple[str, ...]:
        """Parts that torch.compile may take; none whose gradient is differentiated again."""

    def parts(self) -> dict[str, nn.Module]:
        """Each part gets an optimizer of its own."""

    def updates(self) -> Sequence[Update]:
        """The updates of one step, in order; each gets a fresh batch."""

    def sampler(self) -> nn.Module:
        """What is averaged (EMA), saved and registered."""

    def sample(self, conditions: Batch, sampling: Any, noise: Noise) -> Tensor:
        """`noise.count` new examples (B, *S), in the form in which the modality batches them; no gradient."""


def load(kind: str) -> ModuleType:
    """The file of a kind. Raises plugins.UnknownPluginError."""
    return plugins.load(__name__, kind)


def build(kind: str, config: Any, data: DataSpec) -> Model:
    """A new model. Raises ValueError when this kind can't make examples of `data`'s modality."""
    module = load(kind)
    if data.modality not in module.Model.modalities:
        takes = ", ".join(sorted(module.Model.modalities))
        raise ValueError(f"generator '{kind}' makes {takes}; the data are of modality '{data.modality}'")
    model: Model = module.Model(config, data)
    return model


def module_of(model: Model) -> ModuleType:
    """The file that a model comes from, with its `Config` and `Sampling`."""
    return sys.modules[type(model).__module__]
