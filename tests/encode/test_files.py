"""Weights files survive coding bit for bit; levels come back as levels; damage is refused."""

import json
import pickle

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tersenet.cli import main
from tersenet.codec import encode, inspect
from tersenet.core.files import load_tensors, save_tensors
from tersenet.encode.files import decode_file, encode_file
from tersenet.errors import FormatError, WeightsError
from tersenet.models import resnet
from tersenet.prune import L1, Channels
from tersenet.run import History, load, save


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "fc.weight": torch.randn(40, 30, generator=generator),
        "fc.bias": torch.randn(40, generator=generator),
        "count": torch.tensor(7),
        "none": torch.zeros(0, 3),
        "half": torch.randn(4, 5, generator=generator).bfloat16(),
        "tiny": torch.randn(9, generator=generator).to(torch.float8_e4m3fn),
        "flag": torch.tensor([True, False]),
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    raw = [
        {k: (v.dtype, v.shape, v.reshape(-1).view(torch.uint8).tolist()) for k, v in each.items()}
        for each in (one, other)
    ]
    return raw[0] == raw[1]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_weights_file_comes_back_bit_for_bit(suffix, tmp_path):
    source = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(weights(), source)
    else:
        save_tensors(source, weights())
    encode_file(source, tmp_path / "w.tnc")
    decode_file(tmp_path / "w.tnc", tmp_path / "back.safetensors")
    assert same(load_tensors(tmp_path / "back.safetensors")[0], weights())


def test_with_a_step_matrices_become_levels_and_the_rest_stays(tmp_path):
    save_tensors(tmp_path / "w.safetensors", weights())
    listing = encode_file(tmp_path / "w.safetensors", tmp_path / "w.tnc", step=0.3)
    assert [one.name for one in listing.entries if one.quantised] == ["fc.weight"]
    back = decode_file(tmp_path / "w.tnc", tmp_path / "b.safetensors")
    whole = weights()["fc.weight"].numpy()
    step = listing.entries[[e.name for e in listing.entries].index("fc.weight")].steps[0]
    assert step == pytest.approx(0.3 * whole.std(), rel=1e-6)
    assert 0 < np.abs(back["fc.weight"] - whole).max() < 3 * step
    np.testing.assert_array_equal(back["fc.bias"], weights()["fc.bias"].numpy())


def test_an_onnx_file_computes_the_same_again(tmp_path):
    matrix = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(matrix, "w")],
    )
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    encode_file(tmp_path / "m.onnx", tmp_path / "m.tnc")
    decode_file(tmp_path / "m.tnc", tmp_path / "back.onnx")
    back = onnx.load(tmp_path / "back.onnx")
    onnx.checker.check_model(back)
    np.testing.assert_array_equal(numpy_helper.to_array(back.graph.initializer[0]), matrix)
    assert back.graph.node == onnx.load(tmp_path / "m.onnx").graph.node


def test_a_pruned_network_comes_back_whole(tmp_path):
    from tersenet.core.types import Subject, Workbench

    torch.manual_seed(0)
    model = resnet(depth=8, in_channels=1, classes=5, width=6).eval()
    example = (torch.randn(2, 1, 12, 12),)
    subject = Subject(model=model, example=example)
    method = Channels(criterion=L1(), keep=0.5, multiple_of=None)
    pruned, edits = method.apply(model, method.plan(subject, Workbench()), subject, Workbench())
    options = {"depth": 8, "in_channels": 1, "classes": 5, "width": 6}
    history = History({"resnet": options}, ((2, 1, 12, 12),)).then(method, edits)
    (tmp_path / "saved").mkdir()
    save(tmp_path / "saved", pruned, history, {})
    encode_file(tmp_path / "saved", tmp_path / "m.tnc")
    decode_file(tmp_path / "m.tnc", tmp_path / "back")
    with torch.inference_mode():
        assert torch.equal(load(tmp_path / "back")(*example), pruned.eval()(*example))


@pytest.mark.parametrize(
    "steps", ["none", [1], [{"family": "prune", "edits": [{"site": "a", "kind": "slice"}]}]]
)
def test_a_manifest_that_only_claims_to_be_a_models_is_refused(steps, tmp_path, capsys):
    manifest = {"format": "tersenet-model", "model": {}, "steps": steps}
    path = tmp_path / "lie.tnc"
    path.write_bytes(encode({"w": np.arange(3)}, manifest=manifest))
    with pytest.raises(FormatError, match="not that of a saved model"):
        decode_file(path, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert main(["inspect", str(path)]) == 1
    assert "not that of a saved model" in capsys.readouterr().err
    decode_file(path, tmp_path / "back.safetensors")  # the tensors are as good as any


def test_what_was_done_is_shown(tmp_path, capsys):
    edits = [
        {"site": "fc.weight", "kind": "slice", "shape": [9, 4], "data": {"dim": 0, "keep": [1, 5]}},
        {"site": "\x1b[31m", "kind": "tune"},
    ]
    step = {"family": "prune", "name": "l1", "settings": {"keep": 0.2, "skip": []}, "edits": edits}
    manifest = {"format": "tersenet-model", "model": {"lenet5": {}}, "steps": [step] * 2}
    path = tmp_path / "m.tnc"
    path.write_bytes(encode({}, manifest=manifest))
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert f"manifest: {inspect(path.read_bytes()).manifest_bytes} B" in shown
    assert "2. prune l1 (keep 0.2)\n   slice fc.weight 9×4 → 2×4, tune \ufffd[31m\n" in shown
    assert main(["inspect", str(path), "--json"]) == 0
    (first, _) = json.loads(capsys.readouterr().out)["manifest"]["steps"]
    assert first["edits"][0]["after"] == "2×4"


def test_what_is_no_weights_file_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    torch.save({"a": [1, 2]}, tmp_path / "list.pt")
    (tmp_path / "noise.onnx").write_bytes(b"\xff" * 40)
    (tmp_path / "notes.txt").write_text("hello")
    for name, complaint in {
        "evil.pt": "without executing",
        "list.pt": "other things than tensors",
        "noise.onnx": "no ONNX file",
        "notes.txt": "of no kind",
        "nothing.pt": "cannot be read",
    }.items():
        with pytest.raises(WeightsError, match=complaint):
            encode_file(tmp_path / name, tmp_path / "out.tnc")
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "out.tnc").exists()


def test_what_a_target_needs_must_be_there(tmp_path):
    save_tensors(tmp_path / "w.safetensors", weights())
    encode_file(tmp_path / "w.safetensors", tmp_path / "w.tnc")
    for target, complaint in {
        "w.onnx": "not coded from an ONNX file",
        "folder": "no model",
        "w.zip": "neither",
    }.items():
        with pytest.raises(FormatError, match=complaint):
            decode_file(tmp_path / "w.tnc", tmp_path / target)


def test_the_commands(tmp_path, capsys):
    save_tensors(tmp_path / "w.safetensors", weights())
    source, coded = str(tmp_path / "w.safetensors"), tmp_path / "w.safetensors.tnc"
    assert main(["encode", source, "--step", "0.5", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["file_bytes"] == coded.stat().st_size
    overhead = inspect(coded.read_bytes()).overhead_bytes
    assert sum(one["bytes"] for one in shown["tensors"]) + overhead == shown["file_bytes"]
    assert main(["inspect", str(coded), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == shown
    assert main(["inspect", str(coded)]) == 0
    assert "fc.weight" in capsys.readouterr().out
    assert main(["decode", str(coded), "--out", str(tmp_path / "b.safetensors")]) == 0
    assert "7 tensors" in capsys.readouterr().out
    assert main(["encode", source, "--step", "0"]) == 1
    assert "must be above 0" in capsys.readouterr().err
    coded.write_bytes(coded.read_bytes()[:-3])
    assert main(["decode", str(coded), "--out", str(tmp_path / "c.safetensors")]) == 1
    assert "Offset" in capsys.readouterr().err
    assert not (tmp_path / "c.safetensors").exists()
