"""Averaged weights, dropout, bf16 and devices: exact where it must be, refused where it cannot."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from tersenet.core.types import Device, Workbench
from tersenet.errors import RunError
from tersenet.models import resnet
from tersenet.train import TrainingOptions, fit, hardware
from tersenet.train.average import Average
from tersenet.train.parallel import Ranks

OPTIONS = TrainingOptions(epochs=2, learning_rate=0.05, ema=0.9, checkpoint_seconds=0)


@dataclasses.dataclass(frozen=True)
class Noise:
    """Batches of noise with random labels."""

    steps_per_epoch: int = 6

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(8, 1, 8, 8, generator=generator)
        return inputs, torch.randint(0, 3, (8,), generator=generator)


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(resnet(depth=8, in_channels=1, classes=9, width=4), nn.Dropout(0.5))


def cross_entropy(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(model(inputs), targets)


def test_the_average_is_the_sum_written_out() -> None:
    """w̄ = Σ_t (1 − d_t) w_t Π_{u>t} d_u + w_0 Π d_u, with d_t = min(d, (1 + t) / (10 + t))."""
    model = nn.Linear(1, 1, bias=False)
    values = [3.0, 1.0, 4.0, 1.5, 9.0]
    model.weight.data.fill_(values[0])
    average = Average(model, decay=0.2)
    expected = values[0]
    for step, value in enumerate(values[1:]):
        model.weight.data.fill_(value)
        average.follow_(model, step=step)
        decay = [0.1, 2 / 11, 0.2, 0.2][step]
        expected = decay * expected + (1 - decay) * value
    average.put_in_(model)
    assert model.weight.item() == pytest.approx(expected)


def test_training_hands_back_the_average_of_its_steps() -> None:
    seen: list[dict[str, torch.Tensor]] = []
    model = fresh()
    start = {name: value.clone() for name, value in model.state_dict().items()}

    def keep(model: nn.Module, rate: float) -> None:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})

    fit(model, Noise(), cross_entropy, OPTIONS, after_step=keep)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            expected = start[name].double()
            for step, state in enumerate(seen):
                decay = min(0.9, (1 + step) / (10 + step))
                expected = decay * expected + (1 - decay) * state[name]
            torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(value, seen[-1][name])


class StopError(Exception):
    """Raised by a test to end a training at a step."""


@pytest.mark.parametrize("last", [2, 5, 8])
def test_averages_dropout_and_losses_resume_bit_for_bit(tmp_path: Path, last: int) -> None:
    def run(bench: Workbench, losses: list[float]) -> nn.Module:
        told = lambda epoch, loss, model: losses.append(loss)  # noqa: E731
        return fit(fresh(), Noise(), cross_entropy, OPTIONS, bench=bench, after_epoch=told)

    def stop(text: str, done: int, total: int) -> None:
        if done == last + 1:
            raise StopError

    whole_losses: list[float] = []
    whole = run(Workbench(), whole_losses)
    losses: list[float] = []
    with pytest.raises(StopError):
        run(Workbench(tmp_path, stop), losses)
    torch.manual_seed(99)  # another process would start elsewhere
    resumed = run(Workbench(tmp_path), losses)
    assert losses == whole_losses
    for (name, value), other in zip(
        whole.state_dict().items(), resumed.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name


def test_a_checkpoint_without_averages_is_of_another_training(tmp_path: Path) -> None:
    plain = dataclasses.replace(OPTIONS, ema=0.0)
    fit(fresh(), Noise(), cross_entropy, plain, bench=Workbench(tmp_path))
    with pytest.raises(RunError, match="checkpoint of another training"):
        fit(fresh(), Noise(), cross_entropy, OPTIONS, bench=Workbench(tmp_path))


def device(*isa: str) -> Device:
    return Device(cpu="made up", cores=1, memory_bytes=1, isa=isa, system="test")


def test_bf16_multiplies_in_bf16_where_the_hardware_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[torch.dtype] = []

    def objective(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = model(inputs)
        seen.append(logits.dtype)
        return functional.cross_entropy(logits.float(), targets)

    half = dataclasses.replace(OPTIONS, precision="bf16", epochs=0.2)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(hardware, "describe_device", lambda: device("avx512f"))
    with pytest.raises(RunError, match=r"precision is bf16, which this cpu does not compute in"):
        fit(fresh(), Noise(), objective, half)
    fit(fresh(), Noise(), objective, dataclasses.replace(half, precision="auto"))
    assert set(seen) == {torch.float32}
    monkeypatch.setattr(hardware, "describe_device", lambda: device("avx512f", "avx512_bf16"))
    for precision in ("bf16", "auto"):
        seen.clear()
        model = fit(fresh(), Noise(), objective, dataclasses.replace(half, precision=precision))
        assert set(seen) == {torch.bfloat16}
        assert {one.dtype for one in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("cap", "bf16"),
    [
        ("", True),
        ("ALL", True),
        ("AVX512_CORE_BF16", True),
        ("AVX512_CORE_VNNI", False),
        ("avx2", False),
    ],
)
def test_auto_asks_for_no_bf16_where_onednn_may_not_use_it(
    cap: str, bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", cap)
    monkeypatch.setattr(hardware, "describe_device", lambda: device("avx512f", "avx512_bf16"))
    options = dataclasses.replace(OPTIONS, precision="auto")
    with hardware.products_of(options, torch.device("cpu")):
        assert torch.is_autocast_enabled("cpu") == bf16


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told() -> None:
    asked = dataclasses.replace(OPTIONS, device="cuda")
    with pytest.raises(RunError, match="PyTorch finds no GPU here: set it to auto or cpu"):
        fit(fresh(), Noise(), cross_entropy, asked)
    fit(fresh(), Noise(), cross_entropy, dataclasses.replace(OPTIONS, device="auto", epochs=0.2))


def test_uneven_shares_are_refused() -> None:
    inputs, targets = torch.arange(8.0), torch.arange(8)
    parts = [Ranks(rank, 2).share((inputs, targets))[1].tolist() for rank in (0, 1)]
    assert sorted(parts[0] + parts[1]) == list(range(8))
    with pytest.raises(RunError, match="batches of 8 do not split evenly over 3 processes"):
        Ranks(0, 3).share((inputs, targets))
