"""Where a computation runs: device, precision, and this process's place among those that share the work.

Started by torchrun, each process takes the GPU of its LOCAL_RANK and they add up their gradients (nccl on GPUs, gloo
elsewhere); started alone there is nothing to join.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from genpipe.errors import ConfigError

# A GAN of 85,000 + 105,000 weights trains a fifth slower in bf16 on 2 cores with AMX, one of 640,000 twice as fast.
BF16_WEIGHTS = 300_000
CPU = torch.device("cpu")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """A device, the type that autocast computes in, and rank r of W processes."""

    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    @property
    def precision(self) -> str:
        return next(name for name, dtype in PRECISIONS.items() if dtype == self.dtype)

    def autocast(self) -> AbstractContextManager[object]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def seed(self, seed: int) -> None:
        """Seed the default generators of CPU and device (torch.manual_seed visits every device, which costs more)."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        elif self.device.type == "mps":
            torch.mps.manual_seed(seed)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in one exchange."""
        if self.world == 1:
            return
        flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
        dist.all_reduce(flat)
        pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.detach().copy_(piece.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds in any process; all get the same answer."""
        if self.world == 1:
            return flag
        votes = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(votes)
        return bool(votes)


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU (under torchrun the one of this process), else Apple's, else the CPU.

    Raises ConfigError when the device that is asked for isn't there.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind = next(kind for kind, there in here.items() if there) if name == "auto" else name
    if not here.get(kind, False):
        known = ", ".join(["auto", *(kind for kind, there in here.items() if there)])
        raise ConfigError([f"params.yaml: train.device is {name!r}; devices of this machine: {known}"])
    if kind == "cuda":
        number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if number >= count:
            raise ConfigError(
                [f"process {number} of this machine has no GPU; torchrun --nproc-per-node: at most {count}"]
            )
        torch.cuda.set_device(number)
        return torch.device("cuda", number)
    return torch.device(kind)


def choose_precision(name: str, device: torch.device, weights: int) -> torch.dtype:
    """`auto` is bf16 on a GPU that has it and fp16 on one that has not; on CPUs bf16 where it pays, else fp32.

    It pays on a CPU with AMX for networks of many `weights`: small ones lose more to casts than the products save.
    Raises ConfigError for fp16 off a GPU.
    """
    if name == "fp16" and device.type != "cuda":
        raise ConfigError([f"params.yaml: train.precision is 'fp16' on {device.type}; use bf16 or fp32 there"])
    if name != "auto":
        return PRECISIONS[name]
    if device.type == "cpu":
        pays = torch.cpu.get_capabilities().get("amx_bf16", False) and weights >= BF16_WEIGHTS
        return torch.bfloat16 if pays else torch.float32
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


@contextmanager
def threads(count: int) -> Iterator[None]:
    """At most so many threads on a CPU; 0 leaves the choice to PyTorch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def joined(device: str, precision: str, weights: int = 0) -> Iterator[Compute]:
    """Choose device and precision and join the other processes, if torchrun started any; leave them at the end."""
    chosen = choose_device(device)
    dtype = choose_precision(precision, chosen, weights)
    with group(chosen) as (rank, world):
        yield Compute(chosen, dtype, rank, world)


@contextmanager
def group(device: torch.device) -> Iterator[tuple[int, int]]:
    """Rank and number of the processes that torchrun started; (0, 1) without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, 1
        return
    if device.type == "cuda":
        dist.init_process_group("nccl", device_id=device)  # named, or nccl guesses it at the first exchange
    else:
        dist.init_process_group("gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()
