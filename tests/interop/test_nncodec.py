"""Files go both ways between tersenet and NNCodec, the reference for ISO/IEC 15938-17.

`golden/` holds what NNCodec 2.1.3 wrote (dependent quantisation, skipped rows, integers,
codebooks, scans in blocks, and a layer as one BLOCK)
and the digests of the tensors it decoded from it. Where the variable
TERSENET_NNCODEC_PYTHON names a Python that has NNCodec, it is run as well.
"""

import contextlib
import hashlib
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet.codec.iso import LayerUnit, decode_nnc, encode_nnc, nearest_qp, step_of
from tersenet.codec.levels.quantised import Quantised
from tersenet.codec.levels.steps import nearest, rd_levels
from tersenet.errors import FormatError

HERE = Path(__file__).parent
GOLDEN = (HERE / "golden" / "dependent.nnc").read_bytes()
PEER = os.environ.get("TERSENET_NNCODEC_PYTHON")


def network() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    weights = generator.laplace(0, 0.03, (40, 64)).astype(np.float32)
    weights[::5] = 0
    return {
        "conv.weight": generator.laplace(0, 0.05, (16, 3, 3, 3)).astype(np.float32),
        "conv.bias": generator.normal(0, 0.1, 16).astype(np.float32),
        "bn.running_var": generator.uniform(0.5, 2, 16).astype(np.float32),
        "fc.weight": weights,
        "count": np.array([7, 2**20, -5], np.int32),
        "raw": generator.normal(size=(3, 2)).astype(np.float32),
    }


def quantised(*, dependent: bool) -> dict[str, Quantised | np.ndarray]:
    tensors: dict[str, Quantised | np.ndarray] = {}
    for name, weights in network().items():
        step = step_of(-32 if weights.ndim > 1 else -75)
        if name in ("count", "raw"):
            tensors[name] = weights
        elif dependent:
            levels = rd_levels(weights, step, dependent=True)
            tensors[name] = Quantised(levels=levels, step=step, dependent=True)
        else:
            tensors[name] = Quantised(levels=nearest(weights, step), step=step)
    return tensors


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["dependent", "codebook", "scan", "block"])
def test_a_file_of_nncodec_is_read_bit_for_bit(name, threads):
    tensors = decode_nnc((HERE / "golden" / f"{name}.nnc").read_bytes(), threads=threads)
    expected = json.loads((HERE / "golden" / f"{name}.json").read_text())
    assert {
        name: {
            "shape": list(tensor.shape),
            "dtype": tensor.dtype.name,
            "sha256": hashlib.sha256(tensor.tobytes()).hexdigest(),
        }
        for name, tensor in tensors.items()
    } == expected


@pytest.mark.parametrize("dependent", [False, True])
def test_what_is_written_is_read(dependent):
    tensors = quantised(dependent=dependent)
    back = decode_nnc(encode_nnc(tensors))
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        expected = tensor.weights() if isinstance(tensor, Quantised) else tensor
        np.testing.assert_array_equal(back[name], expected)


BLOCK = LayerUnit(weight="conv.weight", bias="conv.bias", norm=("beta", "gamma", "mean", "var"))


def layer(*, dependent: bool, scan: int, codebook: bool = False) -> dict[str, Quantised]:
    """A convolution with all that a block can hold beside its weight."""
    generator = np.random.default_rng(1)
    kernel = generator.laplace(0, 0.05, (20, 3, 3, 3)).astype(np.float32)
    tensors, step = {}, step_of(-60)
    for name in ("conv.bias", *(BLOCK.norm or ())):
        vector = generator.normal(0, 0.3, 20).astype(np.float32)
        levels = rd_levels(vector, step, lam=0, dependent=dependent) if dependent else None
        levels = nearest(vector, step) if levels is None else levels
        tensors[name] = Quantised(levels=levels, step=step, dependent=dependent)
    step = step_of(-24)
    if codebook:
        levels = np.clip(nearest(kernel, step), -2, 3).astype(np.int32)
        book = np.array([-7, -2, 0, 1, 4, 90], np.float32)
        tensors["conv.weight"] = Quantised(levels=levels, step=step, codebook=book)
    else:
        levels = rd_levels(kernel, step, dependent=dependent, scan=scan)
        tensors["conv.weight"] = Quantised(levels=levels, step=step, dependent=dependent)
    return tensors


LAYERS = [
    {"dependent": False, "scan": 0}, {"dependent": True, "scan": 0},
    {"dependent": False, "scan": 1}, {"dependent": True, "scan": 1},
    {"dependent": False, "scan": 0, "codebook": True},
]  # fmt: skip


@pytest.mark.parametrize("options", LAYERS)
@pytest.mark.parametrize("block", [True, False])
def test_blocks_scans_and_codebooks_are_read(options, block):
    tensors = layer(**options)
    data = encode_nnc(tensors, blocks=[BLOCK] if block else [], scan=options["scan"])
    for threads in (1, 2):
        back = decode_nnc(data, threads=threads)
        assert set(back) == set(tensors)
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(back[name], tensor.weights())


@pytest.mark.parametrize("values", [[0, 1], [-1, 0, 1], [0, 2, 5, 9], list(range(-40, 60))])
def test_codebooks_of_every_width_are_read(values):
    book = np.array(values, np.float32)
    levels = (np.arange(90) % len(values) - values.index(0)).astype(np.int32).reshape(9, 10)
    tensor = Quantised(levels=levels, step=step_of(-10), codebook=book)
    np.testing.assert_array_equal(decode_nnc(encode_nnc({"w": tensor}))["w"], tensor.weights())


@pytest.mark.skipif(PEER is None, reason="TERSENET_NNCODEC_PYTHON names no Python with NNCodec")
@pytest.mark.parametrize("options", LAYERS)
def test_nncodec_reads_blocks_scans_and_codebooks(options, tmp_path):
    tensors = layer(**options)
    (tmp_path / "a.nnc").write_bytes(encode_nnc(tensors, blocks=[BLOCK], scan=options["scan"]))
    peer("decompress", tmp_path / "a.nnc", tmp_path / "a.npz")
    found = np.load(tmp_path / "a.npz")
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor.weights())


@given(qp=st.integers(-300, 300))
def test_steps_and_their_parameters_agree(qp):
    assert nearest_qp(step_of(qp)) == qp
    assert step_of(qp + 4) == 2 * step_of(qp)


def test_a_quarter_of_an_octave_is_a_parameter():
    assert [step_of(qp) for qp in (-32, -31, -30, -29, -28)] == [
        2.0**-8 * factor for factor in (1, 1.25, 1.5, 1.75, 2)
    ]


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"w": Quantised(levels=np.ones(3, np.int32), step=0.3)}, "none of the format's"),
        ({"w": Quantised(levels=np.ones(2, np.int32), step=np.ones(2))}, "one step per tensor"),
        ({"w": np.ones(3)}, "int32 and float32"),
        ({"w": np.ones((), np.int32)}, "no shape"),
        ({"w_H": np.ones(3, np.int32)}, "'_H'"),
        (
            {
                "a": Quantised(levels=np.ones(3, np.int32), step=step_of(-200)),
                "b": Quantised(levels=np.ones(3, np.int32), step=step_of(100)),
            },
            "too far apart",
        ),
    ],
)
def test_what_the_format_cannot_take_is_refused(tensors, complaint):
    with pytest.raises(ValueError, match=complaint):
        encode_nnc(tensors)


def test_steps_that_lie_far_apart_share_a_file():
    tensors = {
        name: Quantised(levels=np.arange(-3, 4), step=step_of(qp))
        for name, qp in {"a": -200, "b": 0, "c": 55}.items()
    }
    back = decode_nnc(encode_nnc(tensors))
    assert all(np.array_equal(back[name], tensors[name].weights()) for name in tensors)


def test_a_unit_of_more_than_64_kib_is_written():
    levels = np.random.default_rng(0).integers(-(2**30), 2**30, (130, 130)).astype(np.int32)
    data = encode_nnc({"n": levels})
    assert len(data) > 1 << 16
    np.testing.assert_array_equal(decode_nnc(data)["n"], levels)


def test_a_file_cut_at_any_byte_is_refused_or_ends_between_tensors():
    whole = decode_nnc(GOLDEN)
    for length in range(len(GOLDEN)):
        try:
            part = decode_nnc(GOLDEN[:length])
        except FormatError as error:
            assert str(error).startswith("Offset ")  # noqa: PT017 - both ends are right
        else:  # the format does not say how many units there are
            assert all(np.array_equal(part[name], whole[name]) for name in part)


@given(st.lists(st.integers(0, 8 * len(GOLDEN) - 1), min_size=1, max_size=4), st.binary(max_size=8))
@settings(max_examples=300)
def test_damage_is_refused_or_decoded_but_never_worse(flips, extra):
    damaged = bytearray(GOLDEN)
    for flip in flips:
        damaged[flip // 8] ^= 1 << flip % 8
    with contextlib.suppress(FormatError):
        tensors = decode_nnc(damaged + extra, max_bytes=1 << 20)
        assert sum(tensor.nbytes for tensor in tensors.values()) <= 1 << 20


def peer(*arguments: str | Path) -> None:
    script = HERE / "nncodec_peer.py"
    subprocess.run([str(PEER), str(script), *map(str, arguments)], check=True, timeout=280)


@pytest.mark.skipif(PEER is None, reason="TERSENET_NNCODEC_PYTHON names no Python with NNCodec")
@pytest.mark.parametrize("dependent", [False, True])
def test_both_ways_with_nncodec_itself(dependent, tmp_path):
    theirs, ours = tmp_path / "theirs.nnc", tmp_path / "ours.nnc"
    tensors = {name: tensor for name, tensor in network().items() if name != "raw"}
    options = {"use_dq": dependent, "qp": -32, "nonweight_qp": -75, "row_skipping": True}
    np.savez(tmp_path / "in.npz", **tensors, **{f"?{key}": v for key, v in options.items()})
    peer("compress", tmp_path / "in.npz", theirs)
    peer("decompress", theirs, tmp_path / "theirs.npz")
    read = decode_nnc(theirs.read_bytes())
    for name, expected in np.load(tmp_path / "theirs.npz").items():
        np.testing.assert_array_equal(read[name], expected)
    written = quantised(dependent=dependent)
    ours.write_bytes(encode_nnc(written))
    peer("decompress", ours, tmp_path / "ours.npz")
    decoded = np.load(tmp_path / "ours.npz")
    for name, tensor in written.items():
        expected = tensor.weights() if isinstance(tensor, Quantised) else tensor
        np.testing.assert_array_equal(decoded[name], expected)


@pytest.mark.skipif(PEER is None, reason="TERSENET_NNCODEC_PYTHON names no Python with NNCodec")
@pytest.mark.parametrize("dependent", [False, True])
def test_blocks_of_nncodec_itself_are_read(dependent, tmp_path):
    generator = np.random.default_rng(2)
    kinds = {"w": "weight", "b": "bias", "beta": "bn.beta", "gamma": "bn.gamma"}
    kinds |= {"mean": "bn.mean", "var": "bn.var"}
    tensors = {name: generator.normal(0, 0.3, 20).astype(np.float32) for name in kinds}
    tensors["w"] = generator.laplace(0, 0.05, (20, 3, 3, 3)).astype(np.float32)
    blocks = {"block_identifier": dict.fromkeys(kinds, "layer.0"), "parameter_type": kinds}
    options = {"use_dq": dependent, "qp": -24, "nonweight_qp": -60, "row_skipping": True}
    options["block_id_and_param_type"] = json.dumps(blocks)
    np.savez(tmp_path / "in.npz", **tensors, **{f"?{key}": v for key, v in options.items()})
    peer("compress", tmp_path / "in.npz", tmp_path / "a.nnc")
    peer("decompress", tmp_path / "a.nnc", tmp_path / "a.npz")
    read, expected = decode_nnc((tmp_path / "a.nnc").read_bytes()), np.load(tmp_path / "a.npz")
    assert set(read) == set(expected) == set(kinds)
    for name in kinds:
        np.testing.assert_array_equal(read[name], expected[name])
