"""The only training loop: what a step is, whatever is trained.

A step is the model's list of updates; each moves one part by one loss on a fresh batch, with an optimizer of its own.
A batch is cut into K micro-batches, numbered 0 … K-1; process r of W works on r, r + W, … and the gradients are added
up, so that the numbers don't depend on W. Randomness follows from (seed, step, update, micro-batch): a checkpoint holds
none, and a resumed run ends with the bits of one that was never stopped.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from genpipe import generators
from genpipe.config import Choice, Field, faults_of, parse, plain, settings
from genpipe.data.arrays import DataSpec
from genpipe.devices import Compute
from genpipe.errors import ConfigError
from genpipe.generators import Batch, Model, Update
from genpipe.randomness import seed_from

Draw = Callable[[int, int, int], Batch]  # (step, update, micro-batch) → examples; equal arguments, equal examples
Memory = Annotated[float, Field(ge=0, lt=1)]


@settings
class Optimizer:
    name: Literal["adam", "adamw"] = Field(default="adamw", description="adamw decays weights apart from the gradient")
    lr: float = Field(default=3e-4, gt=0, description="learning rate at its highest")
    betas: tuple[Memory, Memory] = Field(default=(0.9, 0.99), description="memory of gradient and of its square")
    weight_decay: float = Field(default=0.0, ge=0, description="pull of the weights towards 0")
    warmup_steps: int = Field(default=0, ge=0, description="steps in which the learning rate rises, evenly")
    schedule: Literal["constant", "cosine", "linear"] = Field(default="constant", description="its way down to 0 then")


@settings
class Config:
    """What of the section `train` the loop reads."""

    seed: int = Field(default=0, ge=0, description="of weights, order of examples, noise")
    steps: int = Field(default=10_000, ge=1, description="length of the training")
    batch_size: int = Field(default=128, ge=1, description="examples of one update")
    micro_batches: int = Field(default=1, ge=1, description="pieces that a batch is cut into, to spare memory")
    optimizer: Optimizer = Optimizer()
    parts: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="departures from `optimizer` by part: {critic: {lr: 0.0004}}"
    )
    max_norm: float = Field(default=1.0, ge=0, description="longest gradient of a part; 0 sets no limit")
    ema_decay: float = Field(default=0.999, ge=0, lt=1, description="memory of the averaged weights, which are kept")


@dataclass
class State:
    """All that a checkpoint holds. The sampler of `average` is the moving average (EMA) of the sampler of `model`."""

    model: Model
    average: Model
    optimizers: dict[str, torch.optim.Optimizer]
    scalers: dict[str, GradScaler]
    step: int = 0


def new_state(generator: Choice, data: DataSpec, cfg: Config, compute: Compute) -> State:
    """A new model and what trains it; raises ConfigError as `new_model` does."""
    return state_of(new_model(generator, data, cfg), compute, cfg)


def new_model(generator: Choice, data: DataSpec, cfg: Config) -> Model:
    """A model on the CPU with weights that follow from the seed, so that they are equal on every device.

    Raises ConfigError when the kind does not suit the data, or has not a part that `cfg.parts` names.
    """
    torch.manual_seed(seed_from(cfg.seed))
    try:
        model = generators.build(generator.kind, generator.config, data)
    except ValueError as error:
        raise ConfigError([f"params.yaml: {error}"]) from None
    parts = model.parts()
    if unknown := sorted(set(cfg.parts) - set(parts)):
        known = ", ".join(parts)
        raise ConfigError([f"params.yaml: train.parts.{name} is no part of '{generator.kind}'; its parts: {known}"
                           for name in unknown])  # fmt: skip
    return model


def weights_of(model: Model) -> int:
    """How many weights are trained."""
    return sum(weight.numel() for part in model.parts().values() for weight in part.parameters())


def state_of(model: Model, compute: Compute, cfg: Config) -> State:
    """The model on its device, with what trains it."""
    parts = model.parts()
    for part in parts.values():
        part.to(compute.device).train()
    average = deepcopy(model)
    for part in average.parts().values():
        part.requires_grad_(False).eval()
    optimizers = {name: new_optimizer(part, optimizer_of(cfg, name)) for name, part in parts.items()}
    half = compute.dtype == torch.float16
    scalers = {name: GradScaler(compute.device.type, enabled=half) for name in parts}
    return State(model, average, optimizers, scalers)


def optimizer_of(cfg: Config, part: str) -> Optimizer:
    """`cfg.optimizer` with the part's departures. Raises ConfigError with every fault in them."""
    return parse(Optimizer, {**plain(cfg.optimizer), **cfg.parts.get(part, {})}, f"train.parts.{part}")


def optimizer_faults(cfg: Config, part: str) -> list[str]:
    """What is wrong with the part's departures."""
    return faults_of(Optimizer, {**plain(cfg.optimizer), **cfg.parts[part]}, f"train.parts.{part}")[1]


def new_optimizer(part: nn.Module, cfg: Optimizer) -> torch.optim.Optimizer:
    kind = torch.optim.Adam if cfg.name == "adam" else torch.optim.AdamW
    params = [param for param in part.parameters() if param.requires_grad]
    return kind(params, lr=cfg.lr, betas=cfg.betas, weight_decay=cfg.weight_decay, fused=True)


def rate(cfg: Optimizer, step: int, steps: int) -> float:
    """The share of `cfg.lr` at a step: up in a line over the warm-up, then level or down to 0 at the end."""
    if step < cfg.warmup_steps:
        return (step + 1) / cfg.warmup_steps
    left = (steps - step) / max(steps - cfg.warmup_steps, 1)  # from 1 down to 0
    return {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}[cfg.schedule]


class Mover:
    """Moves one part: all that an update needs, listed once rather than at each step."""

    def __init__(self, name: str, state: State, cfg: Config, compute: Compute) -> None:
        part = state.model.parts()[name]
        self.cfg, self.compute, self.schedule = cfg, compute, optimizer_of(cfg, name)
        self.optimizer, self.scaler = state.optimizers[name], state.scalers[name]
        self.params = [param for param in part.parameters() if param.requires_grad]
        offered = [getattr(found, "after_step", None) for found in part.modules()]
        self.after_step = [advance for advance in offered if callable(advance)]

    def move(self, update: Update, number: int, step: int, draw: Draw) -> tuple[dict[str, Tensor], Tensor]:
        """One optimizer step; the means over the batch of the loss and of what it logged, and the gradient's norm.

        Measured: where no norm is asked for, to have it costs 1 % of a step of the digits GAN on a CPU.
        """
        for param in self.params:
            param.grad = None
        sums = self.accumulate(update, number, step, draw)
        gradients = [param.grad for param in self.params if param.grad is not None]
        self.compute.add_up([*sums.values(), *gradients])
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.lr * rate(self.schedule, step, self.cfg.steps)
        self.scaler.unscale_(self.optimizer)
        limit = self.cfg.max_norm
        norm = nn.utils.clip_grad_norm_(self.params, limit) if limit else nn.utils.get_total_norm(gradients)
        # Where fp16 overflowed, the scaler skips the step: it moves nothing, and has no length to average.
        norm = norm.nan_to_num(0, 0) if self.scaler.is_enabled() else norm
        if limit:
            sums[f"{update.part}_gradient_norm"] = norm
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for advance in self.after_step:
            advance()
        return sums, norm

    def accumulate(self, update: Update, number: int, step: int, draw: Draw) -> dict[str, Tensor]:
        """Leave this process's share of the gradients in the parameters; return its share of loss and logged values."""
        sums: dict[str, Tensor] = {}
        count = self.cfg.micro_batches
        for micro in range(self.compute.rank, count, self.compute.world):
            self.compute.seed(seed_from(self.cfg.seed, step, number, micro))
            batch = draw(step, number, micro)
            with self.compute.autocast():  # around the loss alone: its cast weights must not outlive an optimizer step
                loss, logged = update.loss(batch, step)
            share = loss if count == 1 else loss / count
            # `inputs`: no gradient reaches another part
            torch.autograd.backward(self.scaler.scale(share), inputs=self.params)
            for name, value in {"loss": loss.detach(), **logged}.items():
                sums[name] = sums.get(name, 0) + value / count
        return sums


class Average:
    """The moving average of the sampler's weights and buffers, in place."""

    def __init__(self, state: State, decay: float) -> None:
        now, mean = held(state.model.sampler()), held(state.average.sampler())
        self.now, self.mean = [t for t in now if t.is_floating_point()], [t for t in mean if t.is_floating_point()]
        self.counters = [pair for pair in zip(mean, now, strict=True) if not pair[0].is_floating_point()]
        self.decay = decay

    def follow(self, step: int) -> None:
        """mean ← d · mean + (1 − d) · now; d starts low, or the first random weights would stay for long."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.mean, self.now, 1 - decay)
        for mean, now in self.counters:
            mean.copy_(now)


def held(module: nn.Module) -> list[Tensor]:
    """Weights and buffers, a shared one once."""
    return [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]


def fit(state: State, draw: Draw, cfg: Config, compute: Compute) -> Iterator[dict[str, Tensor]]:
    """Step `state` until `state.step == cfg.steps`; yield what each step logged, as tensors on the device.

    Raises FloatingPointError when a loss or a gradient is not finite, naming part and step, and ConfigError when the
    micro-batches can't be shared out evenly.
    """
    if cfg.micro_batches % compute.world:
        raise ConfigError(
            [
                f"params.yaml: train.micro_batches is {cfg.micro_batches}; "
                f"it must be a multiple of the number of processes, {compute.world}"
            ]
        )
    updates = state.model.updates()
    movers = {name: Mover(name, state, cfg, compute) for name in state.model.parts()}
    average = Average(state, cfg.ema_decay)
    while state.step < cfg.steps:
        due = [(number, update) for number, update in enumerate(updates) if state.step % update.every == 0]
        moved = [movers[update.part].move(update, number, state.step, draw) for number, update in due]
        losses, norms = [values.pop("loss") for values, _ in moved], [norm for _, norm in moved]
        check_finite([update for _, update in due], losses, norms, state.step)
        average.follow(state.step)
        state.step += 1
        yield {name: value for values, _ in moved for name, value in values.items()}


def check_finite(updates: Sequence[Update], losses: Sequence[Tensor], norms: Sequence[Tensor], step: int) -> None:
    """One look a step, since on a GPU each look waits for it."""
    named = [(what, update.part) for what in ("loss", "gradient") for update in updates]
    for (what, part), value in zip(named, torch.stack([*losses, *norms]).tolist(), strict=True):
        if not math.isfinite(value):
            raise FloatingPointError(f"{what} of part '{part}' is {value} at step {step}")
