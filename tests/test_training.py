"""The loop: what it computes, against the same by hand."""

import json
import math
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genpipe import devices, modalities, training
from genpipe.config import Choice, parse
from genpipe.curve import Curve
from genpipe.data.arrays import Arrays, DataSpec
from genpipe.data.batches import Batches
from genpipe.devices import Compute
from genpipe.errors import ConfigError, DivergedError
from genpipe.generators import Update, gan, vae
from genpipe.stages import train
from genpipe.training import Average, Config, Mover, Optimizer, State

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def batches(digits: Path, size: int = 32, micro_batches: int = 1, updates: int = 1, **options) -> Batches:
    return Batches(
        Arrays(digits / "train"),
        "image",
        modalities.load("image").Augmentation(),
        size=size,
        micro_batches=micro_batches,
        updates=updates,
        seed=0,
        device=torch.device("cpu"),
        **options,
    )


class Line(nn.Module):
    """One weight w that is pulled to the mean brightness; its loss (w − x)² has the gradient 2 (w − x)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.network.weight)
        self.network.register_buffer("seen", torch.zeros(()))
        self.network.register_buffer("count", torch.zeros((), dtype=torch.long))

    def parts(self) -> dict[str, nn.Module]:
        return {"line": self.network}

    def updates(self) -> list[Update]:
        return [Update("line", self.loss)]

    def sampler(self) -> nn.Module:
        return self.network

    def loss(self, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        brightness = batch["image"].mean((1, 2, 3))
        self.network.seen += 1
        self.network.count += 1
        return (self.network.weight[0, 0] - brightness).square().mean(), {"brightness": brightness.mean()}


def line(cfg: Config) -> State:
    model, average = Line(), Line().requires_grad_(False)
    optimizer = torch.optim.SGD(model.network.parameters(), cfg.optimizer.lr)
    return State(model, average, {"line": optimizer}, {"line": torch.amp.GradScaler("cpu", enabled=False)})


def test_a_step_by_hand(digits: Path) -> None:
    cfg = Config(steps=1, max_norm=0, optimizer=Optimizer(lr=0.1))
    state, draw = line(cfg), batches(digits)
    brightness = draw(0, 0, 0)["image"].mean()
    (logged,) = training.fit(state, draw, cfg, Compute())
    torch.testing.assert_close(state.model.network.weight, 1 - 0.1 * 2 * (1 - brightness).view(1, 1))
    torch.testing.assert_close(logged["brightness"], brightness)


def test_micro_batches_add_up_to_the_batch(digits: Path) -> None:
    ends = []
    for count in (1, 4):
        cfg = Config(steps=5, micro_batches=count, max_norm=0, optimizer=Optimizer(lr=0.1))
        state = line(cfg)
        logged = list(training.fit(state, batches(digits, 32 // count, count), cfg, Compute()))
        ends.append((state.model.network.weight, logged[-1]["brightness"]))
    torch.testing.assert_close(ends[0], ends[1], **CLOSE)


def test_a_long_gradient_is_cut(digits: Path) -> None:
    cfg = Config(steps=1, max_norm=0.5, optimizer=Optimizer(lr=0.1))
    state = line(cfg)
    (logged,) = training.fit(state, batches(digits), cfg, Compute())
    assert logged["line_gradient_norm"] > 0.5
    assert state.model.network.weight.item() == pytest.approx(1 - 0.1 * 0.5, abs=1e-5)


def test_the_average_by_hand() -> None:
    cfg = Config()
    state = line(cfg)
    average = Average(state, decay=0.25)
    state.model.network.weight.data.fill_(3)
    state.model.network.seen.fill_(5)
    state.model.network.count.fill_(7)
    average.follow(step=0)  # decay 1/10 while young: 0.1 · 1 + 0.9 · 3
    mean = state.average.sampler()
    assert mean.weight.item() == pytest.approx(2.8)
    assert mean.seen.item() == pytest.approx(4.5)
    assert mean.count.item() == 7
    average.follow(step=100)  # 0.25 · 2.8 + 0.75 · 3
    assert mean.weight.item() == pytest.approx(2.95)


def test_schedules_by_hand() -> None:
    warm = {name: Optimizer(schedule=name, warmup_steps=10) for name in ("constant", "linear", "cosine")}
    at = {name: [training.rate(cfg, step, 110) for step in (0, 4, 9, 10, 60, 110)] for name, cfg in warm.items()}
    assert at["constant"] == pytest.approx([0.1, 0.5, 1, 1, 1, 1])
    assert at["linear"] == pytest.approx([0.1, 0.5, 1, 1, 0.5, 0])
    assert at["cosine"] == pytest.approx([0.1, 0.5, 1, 1, 0.5, 0])
    assert training.rate(Optimizer(schedule="cosine"), 25, 100) == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))


def test_the_schedule_reaches_the_optimizer(digits: Path) -> None:
    cfg = Config(steps=4, optimizer=Optimizer(lr=0.1, schedule="linear"))
    state = line(cfg)
    rates = [
        state.optimizers["line"].param_groups[0]["lr"] for _ in training.fit(state, batches(digits), cfg, Compute())
    ]
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025])


def generator(kind: str = "gan", **options) -> Choice:
    module = {"gan": gan, "vae": vae}[kind]
    return Choice("genpipe.generators", kind, module.Config(hidden_dim=16, **options))


DIGITS = DataSpec("image", (1, 8, 8), tuple("0123456789"))


def test_a_loss_that_is_not_finite_names_part_and_step(digits: Path) -> None:
    cfg = Config(steps=5)
    state = training.new_state(generator("vae"), DIGITS, cfg, Compute())
    running = training.fit(state, batches(digits), cfg, Compute())
    next(running)
    state.model.parts()["autoencoder"]["decoder"][0].weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="loss of part 'autoencoder' is nan at step 1"):
        next(running)


class Broken(Line):
    """Its loss is 0 and finite, the gradient 0 · ∞: that of the square root at 0, times 0."""

    def loss(self, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return (self.network.weight * 0).abs().sqrt().sum(), {}


@pytest.mark.parametrize("max_norm", [0, 1])
def test_a_gradient_that_is_not_finite_ends_the_training(max_norm: float, digits: Path) -> None:
    cfg = Config(steps=5, max_norm=max_norm)
    state = line(cfg)
    state.model.loss = Broken.loss.__get__(state.model)
    with pytest.raises(FloatingPointError, match="gradient of part 'line' is nan at step 0"):
        next(training.fit(state, batches(digits), cfg, Compute()))
    assert state.average.sampler().weight.isfinite()


def test_divergence_is_told_with_what_comes_of_each_remedy() -> None:
    told = r"nan at step 3; lower train\.optimizer\.lr, .* start from step 0; .* goes on from its last checkpoint"
    with pytest.raises(DivergedError, match=told), train.remedies(train.Config()):
        raise FloatingPointError("loss of part 'line' is nan at step 3")


def test_parts_depart_from_the_optimizer() -> None:
    cfg = Config(optimizer=Optimizer(lr=0.1, betas=(0.5, 0.9)), parts={"critic": {"lr": 0.2}})
    assert training.optimizer_of(cfg, "critic") == Optimizer(lr=0.2, betas=(0.5, 0.9))
    assert training.optimizer_of(cfg, "painter") == cfg.optimizer


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train.parts.critc is no part of 'gan'; its parts: critic, painter"):
        training.new_state(generator(), DIGITS, Config(parts={"critc": {}}), Compute())


def test_an_unknown_key_of_a_part_is_refused_with_the_settings() -> None:
    with pytest.raises(ConfigError, match=r"train.parts.critic.rate is not a key; known keys: name, lr"):
        train.Config(parts={"critic": {"rate": 0.1}})


def test_a_batch_that_can_not_be_cut_is_refused() -> None:
    told = r"train\.batch_size is 100; it must be a multiple of train\.micro_batches, 3"
    with pytest.raises(ConfigError, match=told):
        train.Config(batch_size=100, micro_batches=3)


def test_faults_of_parts_stand_beside_all_others() -> None:
    given = {
        "batch_size": 100,
        "micro_batches": 3,
        "parts": {"critic": {"rate": 0.1}, "painter": {"lr": math.inf, "betas": [0.5]}},
        "generator": {"kind": "gan", "latent": 3},
    }
    with pytest.raises(ConfigError) as caught:
        parse(train.Config, given, "train")
    message = str(caught.value)
    assert "train.parts.critic.rate is not a key; known keys: name, lr" in message
    assert "train.parts.painter.lr is inf; it must be a finite number" in message
    assert "train.parts.painter.betas is [0.5]; it must be a list of 2 values" in message
    assert "train.batch_size is 100" in message
    assert "train.generator.latent is not a key" in message
    assert message.endswith("5 faults; nothing was run")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"lr": math.inf}, "x.lr is inf; it must be a finite number"),
        ({"betas": [0.5, 2]}, "x.betas.1 is 2; it must be less than 1.0"),
        ({"betas": [-0.5, 0.9]}, "x.betas.0 is -0.5; it must be at least 0.0"),
        ({"betas": []}, "x.betas is []; it must be a list of 2 values"),
        ({"betas": [0.5, 0.9, 0.1]}, "x.betas is [0.5, 0.9, 0.1]; it must be a list of 2 values"),
        ({"betas": 0.5}, "x.betas is 0.5; it must be a list of 2 values"),
    ],
)
def test_an_optimizer_that_can_not_work_is_refused(given: dict, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Optimizer, given, "x")
    assert caught.value.faults == (f"params.yaml: {told}",)


def test_micro_batches_are_shared_out_evenly(digits: Path) -> None:
    cfg = Config(micro_batches=3)
    with pytest.raises(
        ConfigError, match=r"train\.micro_batches is 3; it must be a multiple of the number of processes, 2"
    ):
        next(training.fit(line(cfg), batches(digits), cfg, Compute(world=2)))


def test_a_lazy_update_runs_at_its_steps_only(digits: Path) -> None:
    cfg = Config(steps=5)
    state = line(cfg)
    ran = []

    def loss(batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        ran.append(step)
        return state.model.loss(batch, step)

    state.model.updates = lambda: [Update("line", state.model.loss), Update("line", loss, every=2)]
    list(training.fit(state, batches(digits, updates=2), cfg, Compute()))
    assert ran == [0, 2, 4]


def test_no_gradient_reaches_another_part(digits: Path) -> None:
    cfg = Config(steps=1)
    state = training.new_state(generator(), DIGITS, cfg, Compute())
    _, painter = state.model.updates()
    Mover("painter", state, cfg, Compute()).move(painter, 1, 0, batches(digits, updates=2))
    assert all(param.grad is None for param in state.model.critic.parameters())


def test_every_example_is_seen_once_an_epoch(digits: Path) -> None:
    draw = batches(digits, size=50, updates=2)
    rows = torch.cat([draw.rows_of(step, update, 0) for step in range(40) for update in range(2)])
    first, second = rows[:1257], rows[1257 : 2 * 1257]
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(1257))
    assert first.tolist() != second.tolist()


def test_a_batch_may_be_larger_than_the_data() -> None:
    columns = {"image": np.zeros((3, 1, 8, 8), np.uint8)}
    none = modalities.load("image").Augmentation()
    draw = Batches(columns, "image", none, size=8, micro_batches=1, updates=1, seed=0, device=torch.device("cpu"))
    assert draw.rows_of(0, 0, 0).bincount().tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_mapped_and_resident_columns_give_equal_batches(digits: Path) -> None:
    resident, mapped = batches(digits)(3, 0, 0), batches(digits, resident_bytes=0)(3, 0, 0)
    assert resident.keys() == mapped.keys() == {"image", "label"}
    assert all(torch.equal(resident[name], mapped[name]) for name in resident)
    assert resident["image"].min() == -1
    assert resident["label"].dtype == torch.int64


def test_compiled_parts_keep_their_names(digits: Path) -> None:
    state = training.new_state(generator(), DIGITS, Config(), Compute())
    before = list(state.model.state_dict())
    state.model.painter.compile()
    assert list(state.model.state_dict()) == before


def test_the_curve_goes_on_where_it_stopped(tmp_path: Path) -> None:
    values = [{"loss": torch.tensor(float(n) / 3)} for n in range(7)]
    whole, first, second = Curve(3), Curve(3), Curve(3)
    for step, value in enumerate(values, 1):
        whole.add(step, value, last=step == 7)
        if step <= 4:
            first.add(step, value)
    second.restore(json.loads(json.dumps(first.plain())))
    for step, value in list(enumerate(values, 1))[4:]:
        second.add(step, value, last=step == 7)
    assert second.rows == whole.rows
    assert [row["step"] for row in whole.rows] == [3, 6, 7]
    whole.write(tmp_path / "curves.csv")
    assert (tmp_path / "curves.csv").read_text().splitlines()[0] == "step,loss"


def test_precision_is_what_pays() -> None:
    cpu = torch.device("cpu")
    assert devices.choose_precision("auto", cpu, weights=1000) == torch.float32
    assert devices.choose_precision("bf16", cpu, weights=1000) == torch.bfloat16
    with pytest.raises(ConfigError, match="'fp16' on cpu; use bf16 or fp32 there"):
        devices.choose_precision("fp16", cpu, weights=1000)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train.device is 'cuda'; devices of this machine: auto, cpu"):
        devices.choose_device("cuda")


def test_equal_seeds_give_equal_weights(digits: Path) -> None:
    ends = []
    for _ in range(2):
        cfg = Config(steps=10)
        state = training.new_state(generator(), DIGITS, cfg, Compute())
        list(islice(training.fit(state, batches(digits, updates=2), cfg, Compute()), 3))
        ends.append(state.average.sampler().state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
