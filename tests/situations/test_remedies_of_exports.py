"""A network or a file is refused: what is said names the place and fits what was done before."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tersenet.core.types import Device, Subject, Workbench
from tersenet.errors import ExportError, ParityError, StructureError
from tersenet.export import check_parity, to_onnx, trace
from tersenet.quantize import Static

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))


class _Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x.unsqueeze(1) * x.unsqueeze(2))


class _Without(nn.Module):
    """An operator that ONNX has not, two modules deep."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.spectrum = nn.Linear(6, 6), _Spectrum()

    def forward(self, x: Tensor) -> Tensor:
        return self.spectrum(self.first(x))


class _Counts(nn.Module):
    """An operator that ONNX has, called in a way that it has not."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.histc(x, 8).sum()


def test_a_missing_operator_is_named_with_its_module_and_line(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as told:
        to_onnx(_Without().eval(), (X[:2],), tmp_path / "x.onnx")
    text = str(told.value)
    assert "has no operator for aten._linalg_eigh, in spectrum, at situations/" in text
    assert "return torch.linalg.eigvalsh(x.unsqueeze(1) * x.unsqueeze(2))" in text
    assert "\x1b" not in text
    assert "step 3/3" not in text


def test_a_call_that_cannot_be_translated_says_why(tmp_path: Path) -> None:
    text = r"aten\.histc, at situations/.*histc\(x, 8\).* as it is called here \(.*min == max"
    with pytest.raises(ExportError, match=text):
        to_onnx(_Counts().eval(), (X[:2],), tmp_path / "x.onnx")


class _Four(nn.Module):
    """Written for four samples."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(4, 3, 2).sum(1)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # PyTorch's own, of programs
def test_a_program_of_a_fixed_batch_is_to_be_exported_with_a_dynamic_one() -> None:
    for samples in (4, 1):  # one sample would be tried as two
        program = torch.export.export(nn.Linear(6, 6).eval(), (X[:samples],))
        text = rf"batches of {samples} alone.*export the program again with a dynamic batch"
        with pytest.raises(StructureError, match=text):
            trace(program.module(), (X[:samples],))
    with pytest.raises(StructureError, match=r"batches of 4 alone.*write forward\(\) for any"):
        trace(_Four().eval(), (X[:4],))
    dims = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(nn.Linear(6, 6).eval(), (X[:4],), dynamic_shapes=dims)
    module = program.module()
    with torch.inference_mode():
        assert torch.equal(trace(module, (X[:4],))(X), module(X))


@pytest.mark.parametrize(
    ("isa", "reduced", "advised"),
    [((), False, True), ((), True, False), (("avx512_vnni",), False, False)],
)
def test_reduce_range_is_advised_where_it_is_off_and_sums_overflow(
    isa: tuple[str, ...],
    reduced: bool,
    advised: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    whole = Subject(model=model, example=(X[:2],), calibration=[(X, X)])
    method = Static(reduce_range=reduced)
    plan = method.plan(whole, Workbench())
    graph, _ = method.apply(copy.deepcopy(model), plan, whole, Workbench())
    converted = to_onnx(graph, whole.example, tmp_path / "x.onnx")
    device = Device(cpu="made up", cores=1, memory_bytes=1, isa=isa, system="Linux")
    monkeypatch.setattr("tersenet.export.parity.describe_device", lambda: device)
    with pytest.raises(ParityError) as told:
        check_parity(
            graph,
            tmp_path / "x.onnx",
            X,
            predict=lambda x: -model(x),
            kind="int8",
            converted=converted,
        )
    assert ("quantise with reduce_range" in str(told.value)) == advised
