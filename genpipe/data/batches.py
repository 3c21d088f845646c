"""Batches by their place in training: equal place, equal examples, so that nothing is stored to resume."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genpipe import modalities
from genpipe.randomness import seed_from

RESIDENT_BYTES = 2**30  # a column up to this size is held on the device, a larger one stays memory-mapped


class Batches:
    """Micro-batches of `size` examples; (step, update, micro) gives one.

    The examples are dealt in the order of a permutation that follows from (seed, epoch), so that each is seen once an
    epoch. An update's examples don't depend on how many micro-batches they are cut into.
    """

    def __init__(
        self,
        columns: Mapping[str, np.ndarray],
        modality: str,
        augmentation: Any,
        *,
        size: int,
        micro_batches: int,
        updates: int,
        seed: int,
        device: torch.device,
        resident_bytes: int = RESIDENT_BYTES,
    ) -> None:
        self.modality, self.augmentation = modalities.load(modality), augmentation
        self.size, self.micro_batches, self.updates, self.device = size, micro_batches, updates, device
        columns = {name: column for name, column in columns.items() if column.dtype.kind in "biuf"}  # no names, no ids
        self.rows = len(next(iter(columns.values())))
        small = {name for name, column in columns.items() if column.nbytes <= resident_bytes}
        self.resident = {name: torch.from_numpy(np.array(columns[name])).to(device) for name in small}
        self.mapped = {name: column for name, column in columns.items() if name not in small}
        self.permutation = lru_cache(maxsize=2)(lambda epoch: permutation(self.rows, seed, epoch))

    def __call__(self, step: int, update: int, micro: int) -> dict[str, Tensor]:
        """The content as models take it, (B, *S) and augmented; other columns, such as labels, as int64."""
        rows = self.rows_of(step, update, micro)
        batch = {name: self.fetch(name, rows) for name in (*self.resident, *self.mapped)}
        content = self.modality.to_batch(batch.pop(self.modality.CONTENT))
        others = {name: values.long() for name, values in batch.items()}
        return {self.modality.CONTENT: self.modality.augment(content, self.augmentation), **others}

    def rows_of(self, step: int, update: int, micro: int) -> Tensor:
        """The numbers of the examples (B,); a batch may end one epoch and begin the next."""
        first = ((step * self.updates + update) * self.micro_batches + micro) * self.size
        epoch, start = divmod(first, self.rows)
        stop = start + self.size
        pieces = []
        while stop > 0:
            pieces.append(self.permutation(epoch)[start:stop])
            epoch, start, stop = epoch + 1, 0, stop - self.rows
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def fetch(self, name: str, rows: Tensor) -> Tensor:
        if name in self.resident:
            return self.resident[name][rows.to(self.device, non_blocking=True)]
        found = torch.from_numpy(self.mapped[name][rows.numpy()])
        return found.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else found


def permutation(rows: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed_from(seed, epoch)))
