"""Networks on compressed matrices: each operation by its definition, and files that attack."""

import itertools
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet.errors import FormatError
from tersenet.formats import (
    Cer,
    Dense,
    Even,
    Grouped,
    Network,
    NetworkStep,
    Packed,
    Panels,
    Sliced,
    Tiled,
    load_network,
    network_bytes,
    read_network,
)
from tersenet.formats.network.operations import (
    AdaptiveAveragePool,
    Add,
    AveragePool,
    ChannelRange,
    Clip,
    Concatenate,
    Convolution,
    Depthwise,
    Flatten,
    HardSigmoid,
    Linear,
    MaxPool,
    Multiply,
    PerChannel,
    Relu,
)

HELD = [Dense, Even, Packed, Grouped, Tiled, Sliced, Panels]


def levels(shape, *, kinds=5, zeros=0.6, seed=0):
    rng = np.random.default_rng(seed)
    drawn = rng.integers(-(kinds // 2), kinds - kinds // 2, shape) * np.float32(0.25)
    return np.where(rng.random(shape) < zeros, 0, drawn).astype(np.float32)


def windows(x, kernel, stride, padding, dilation=(1, 1), fill=0.0):
    """(sample, channel, row, column, kernel row, kernel column), element by element."""
    n, c, height, width = x.shape
    framed = np.full((n, c, height + 2 * padding[0], width + 2 * padding[1]), fill)
    framed[:, :, padding[0] : padding[0] + height, padding[1] : padding[1] + width] = x
    sizes = [
        (framed.shape[2 + a] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1 for a in (0, 1)
    ]
    out = np.empty((n, c, *sizes, *kernel))
    for r, q, i, j in itertools.product(*map(range, (*sizes, *kernel))):
        place = (r * stride[0] + i * dilation[0], q * stride[1] + j * dilation[1])
        out[:, :, r, q, i, j] = framed[:, :, place[0], place[1]]
    return out


def run(operation, x):
    """A network of one operation, so that layouts are turned as they are in a network."""
    return Network(x.shape[1:], (NetworkStep(operation=operation, reads=(0,)),))(x)


@settings(max_examples=40)
@given(
    kind=st.sampled_from(HELD),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 20)),
    size=st.tuples(st.integers(5, 11), st.integers(5, 11)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    samples=st.integers(1, 3),
)
def test_convolutions_by_their_definition(
    kind, channels, size, kernel, stride, padding, dilation, samples
):
    rng = np.random.default_rng(0)
    weight = levels((channels[1], channels[0], *kernel))
    scale, bias = (rng.standard_normal(channels[1]).astype(np.float32) for _ in range(2))
    x = rng.standard_normal((samples, channels[0], *size)).astype(np.float32)
    operation = Convolution(
        matrix=kind.encode(weight.reshape(channels[1], -1)),
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        scale=scale,
        bias=bias,
    )
    seen = windows(x, kernel, stride, padding, dilation)
    expected = np.einsum("ncrqij,ocij->norq", seen, weight.astype(float))
    expected = expected * scale[:, None, None] + bias[:, None, None]
    np.testing.assert_allclose(run(operation, x), expected, atol=2e-5)


@settings(max_examples=30)
@given(
    kind=st.sampled_from([Dense, Even, Packed, Sliced]),
    channels=st.integers(1, 5),
    multiple=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
)
def test_depthwise_convolutions_by_their_definition(
    kind, channels, multiple, kernel, stride, padding, dilation
):
    rng = np.random.default_rng(0)
    weight = levels((multiple * channels, *kernel))
    scale, bias = (rng.standard_normal(len(weight)).astype(np.float32) for _ in range(2))
    x = rng.standard_normal((2, channels, 7, 6)).astype(np.float32)
    operation = Depthwise(
        matrix=kind.encode(weight.reshape(len(weight), -1)),
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        scale=scale,
        bias=bias,
    )
    seen = windows(x, kernel, stride, padding, dilation).repeat(multiple, axis=1)
    expected = np.einsum("ncrqij,cij->ncrq", seen, weight.astype(float))
    expected = expected * scale[:, None, None] + bias[:, None, None]
    np.testing.assert_allclose(run(operation, x), expected, atol=1e-5)


def test_clips_gates_channels_and_joins_survive_a_file(tmp_path):
    steps = (
        NetworkStep(operation=Clip(low=-0.5, high=1.25), reads=(0,)),
        NetworkStep(operation=ChannelRange(span=(1, 3)), reads=(1,)),
        NetworkStep(operation=HardSigmoid(), reads=(2,)),
        NetworkStep(operation=Multiply(), reads=(2, 3)),
        NetworkStep(operation=Concatenate(), reads=(4, 0, 2)),
        NetworkStep(operation=AdaptiveAveragePool(size=(1, 1)), reads=(5,)),
        NetworkStep(operation=Multiply(), reads=(5, 6)),
    )
    path = tmp_path / "network.tnn"
    path.write_bytes(network_bytes(Network((3, 2, 4), steps)))
    x = 3 * np.random.default_rng(0).standard_normal((5, 3, 2, 4))
    part = np.clip(x, -0.5, 1.25)[:, 1:3]
    joined = np.concatenate([part * np.clip(part / 6 + 0.5, 0, 1), x, part], axis=1)
    expected = joined * joined.mean(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(load_network(path)(x), expected, atol=1e-5)


def test_a_convolution_whose_patches_do_not_fit_at_once():
    weight = levels((4, 32, 3, 3))
    x = np.random.default_rng(0).standard_normal((2, 32, 70, 70)).astype(np.float32)
    operation = Convolution(
        matrix=Packed.encode(weight.reshape(4, -1)), kernel=(3, 3), padding=(1, 1)
    )
    expected = np.einsum("ncrqij,ocij->norq", windows(x, (3, 3), (1, 1), (1, 1)), weight)
    np.testing.assert_allclose(run(operation, x), expected, atol=2e-4)
    many = np.repeat(x[:, :, :6, :6], 200, axis=0)  # many small samples: several at once
    expected = np.einsum("ncrqij,ocij->norq", windows(many, (3, 3), (1, 1), (1, 1)), weight)
    np.testing.assert_allclose(run(operation, many), expected, atol=2e-4)


@settings(max_examples=40)
@given(
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    part=st.sampled_from([0, 1]),
)
def test_pooling_by_its_definition(size, kernel, stride, part):
    x = np.random.default_rng(1).standard_normal((2, 3, *size)).astype(np.float32)
    padding = (part * (kernel[0] // 2), part * (kernel[1] // 2))
    pooled = run(MaxPool(kernel=kernel, stride=stride, padding=padding), x)
    seen = windows(x, kernel, stride, padding, fill=-np.inf)
    np.testing.assert_array_equal(pooled, seen.max(axis=(4, 5)))
    average = AveragePool(kernel=kernel, stride=stride, padding=padding)
    seen = windows(x, kernel, stride, padding)
    np.testing.assert_allclose(run(average, x), seen.mean(axis=(4, 5)), atol=1e-6)
    inside = windows(np.ones_like(x), kernel, stride, padding).sum(axis=(4, 5))
    uncounted = AveragePool(kernel=kernel, stride=stride, padding=padding, count_padding=False)
    np.testing.assert_allclose(run(uncounted, x), seen.sum(axis=(4, 5)) / inside, atol=1e-6)


def test_adaptive_pooling_shares_rows_and_columns():
    x = np.arange(2 * 7 * 5, dtype=np.float32).reshape(1, 2, 7, 5)
    found = run(AdaptiveAveragePool(size=(3, 2)), x)
    rows, columns = [(0, 3), (2, 5), (4, 7)], [(0, 3), (2, 5)]  # floor and ceil of i 7/3, i 5/2
    for (r, (top, bottom)), (c, (left, right)) in itertools.product(
        enumerate(rows), enumerate(columns)
    ):
        expected = x[0, :, top:bottom, left:right].mean(axis=(1, 2))
        np.testing.assert_allclose(found[0, :, r, c], expected)
    np.testing.assert_allclose(
        run(AdaptiveAveragePool(size=(1, 1)), x)[0, :, 0, 0], x[0].mean((1, 2))
    )


def residual():
    """Input → convolution → ReLU → scaled → added to the input → flat → linear."""
    weight = levels((3, 27))
    ones = np.ones(3, np.float32)
    steps = (
        NetworkStep(operation=Convolution(matrix=Even.encode(weight), kernel=(3, 3),
                                          padding=(1, 1)),
             reads=(0,)),
        NetworkStep(operation=Relu(), reads=(1,)),
        NetworkStep(operation=PerChannel(scale=2 * ones, bias=ones), reads=(2,)),
        NetworkStep(operation=Add(), reads=(0, 3)),
        NetworkStep(operation=Flatten(), reads=(4,)),
        NetworkStep(operation=Linear(matrix=Tiled.encode(levels((10, 75))),
                                     bias=np.ones(10, np.float32)),
             reads=(5,)),
    )  # fmt: skip
    return Network((3, 5, 5), steps), weight


def test_a_residual_network_by_its_definition():
    network, weight = residual()
    x = np.random.default_rng(0).standard_normal((4, 3, 5, 5))
    seen = windows(x, (3, 3), (1, 1), (1, 1))
    inner = np.einsum("ncrqij,ocij->norq", seen, weight.reshape(3, 3, 3, 3))
    value = x + 2 * np.maximum(inner, 0) + 1
    expected = value.reshape(4, -1) @ levels((10, 75)).T.astype(float) + 1
    np.testing.assert_allclose(network(x), expected, atol=1e-5)
    assert network.shapes()[-1] == (10,)
    assert network.dense_bytes == 4 * (3 * 27 + 10 * 75) + 4 * (3 + 3 + 10)
    np.testing.assert_allclose(network(x[:1]), expected[:1], atol=1e-5)
    assert network(x[:0]).shape == (0, 10)


def test_a_network_prints_as_one_line():
    network, _ = residual()
    assert repr(network) == (
        f"Network((3, 5, 5) → (10,), 6 steps, {network.memory_bytes} bytes of weights)"
    )


def test_the_input_is_left_as_it_was():
    x = np.random.default_rng(0).standard_normal((1, 4)).astype(np.float32)
    kept = x.copy()
    vector = np.full(4, 3, np.float32)
    run(PerChannel(scale=vector, bias=vector), x)
    run(Relu(), x)
    np.testing.assert_array_equal(x, kept)


@pytest.mark.parametrize("kind", HELD)
def test_files_hold_each_format_and_compute_the_same(kind, tmp_path):
    matrix = levels((70, 150), zeros=0.9)
    steps = (NetworkStep(operation=Linear(matrix=kind.encode(matrix)), reads=(0,)),)
    network = Network((150,), steps)
    path = tmp_path / "network.tnn"
    path.write_bytes(network_bytes(network))
    back = load_network(path)
    (held,) = back.matrices
    assert type(held) is kind
    np.testing.assert_array_equal(held.dense(), matrix)
    x = np.random.default_rng(0).standard_normal((3, 150))
    np.testing.assert_array_equal(back(x), network(x))
    assert held.memory_bytes <= len(network_bytes(network))
    assert network_bytes(back) == network_bytes(network)


def test_a_mapped_file_is_not_copied(tmp_path):
    path = tmp_path / "network.tnn"
    path.write_bytes(network_bytes(residual()[0]))
    first = load_network(path).matrices[0]
    assert isinstance(first, Even)
    assert not first.words.flags.owndata
    assert not first.words.flags.writeable


def test_a_format_that_only_counts_has_no_place_in_a_network_file():
    steps = (NetworkStep(operation=Linear(matrix=Cer.encode(levels((4, 4)))), reads=(0,)),)
    with pytest.raises(FormatError, match="cannot hold a Cer matrix"):
        network_bytes(Network((4,), steps))


@pytest.mark.parametrize(
    ("operation", "shape"),
    [
        (Linear(matrix=Dense.encode(np.ones((2, 3)))), (4,)),
        (Linear(matrix=Dense.encode(np.ones((2, 4))), bias=np.ones(3, np.float32)), (4,)),
        (Convolution(matrix=Dense.encode(np.ones((2, 9))), kernel=(3, 3)), (1, 2, 2)),
        (Convolution(matrix=Dense.encode(np.ones((2, 9))), kernel=(3, 3)), (9,)),
        (Convolution(matrix=Dense.encode(np.eye(1)), kernel=(1, 1), stride=(0, 1)), (1, 2, 2)),
        (MaxPool(kernel=(2, 2), stride=(2, 2), padding=(2, 0)), (1, 4, 4)),
        (AdaptiveAveragePool(size=(0, 1)), (1, 4, 4)),
        (PerChannel(scale=np.ones(2, np.float32), bias=np.ones(2, np.float32)), (3, 1, 1)),
        (Add(), (3,)),
        (Depthwise(matrix=Dense.encode(np.ones((4, 9))), kernel=(3, 3)), (3, 5, 5)),
        (Depthwise(matrix=Dense.encode(np.ones((4, 9))), kernel=(3, 2)), (4, 5, 5)),
        (ChannelRange(span=(1, 4)), (3, 5, 5)),
        (ChannelRange(span=(1, 1)), (3,)),
        (Clip(low=1.0, high=0.0), (3,)),
    ],
)  # fmt: skip
def test_a_step_that_does_not_fit_is_refused_before_anything_runs(operation, shape):
    with pytest.raises(FormatError, match=type(operation).__name__):
        Network(shape, (NetworkStep(operation=operation, reads=(0,)),))


def test_inputs_and_steps_that_do_not_fit_are_refused():
    network, _ = residual()
    for bad in (np.ones((1, 3, 5, 4)), np.ones((3, 5, 5)), np.ones((1, 3, 5, 5), complex), 1.0):
        with pytest.raises(FormatError, match="takes real numbers of shape"):
            network(bad)
    with pytest.raises(FormatError, match="not there yet"):
        Network((3,), (NetworkStep(operation=Relu(), reads=(1,)),))
    with pytest.raises(FormatError, match="no steps"):
        Network((3,), ())


def test_files_that_are_none_are_refused(tmp_path):
    path = tmp_path / "network.tnn"
    with pytest.raises(FormatError, match="cannot be read"):
        load_network(path)
    path.write_bytes(b"")
    with pytest.raises(FormatError, match="is empty"):
        load_network(path)
    path.write_bytes(b"TNF1 and some more bytes")
    with pytest.raises(FormatError, match="no network file"):
        load_network(path)


def test_flipped_bytes_and_truncations_are_found():
    data = network_bytes(residual()[0])
    for at in range(0, len(data), 7):
        broken = bytearray(data)
        broken[at] ^= 0x10
        with pytest.raises(FormatError):
            read_network(bytes(broken))
        with pytest.raises(FormatError):
            read_network(data[:at])


def sealed(body):
    return bytes(body) + struct.pack("<I", zlib.crc32(body))


def survives(forged):
    """FormatError, or a network whose matrices decode and multiply: never a crash."""
    try:
        network = read_network(forged)
    except FormatError:
        return False
    x = np.ones((1, *network.input_shape), np.float32)
    with np.errstate(all="ignore"):
        network(x)
    for matrix in network.matrices:
        assert matrix.dense().shape == matrix.shape
    return True


@pytest.mark.parametrize("kind", HELD)
@settings(max_examples=120)
@given(data=st.data())
def test_forged_arrays_are_refused_or_are_a_matrix(kind, data):
    matrix = levels((20, 70), kinds=5, zeros=0.5)
    layer = Linear(matrix=kind.encode(matrix), bias=np.ones(20, np.float32))
    network = Network((70,), (NetworkStep(operation=layer, reads=(0,)),))
    body = bytearray(network_bytes(network)[:-4])
    first = 8 + struct.unpack("<I", body[4:8])[0]
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(first, len(body) - 1))] = data.draw(st.integers(0, 255))
    survives(sealed(body))


@pytest.mark.parametrize("kind", HELD)
@settings(max_examples=120)
@given(data=st.data())
def test_forged_descriptions_are_refused_or_are_a_network(kind, data):
    layer = Linear(matrix=kind.encode(levels((20, 70), zeros=0.5)))
    network = Network((70,), (NetworkStep(operation=layer, reads=(0,)),))
    body = network_bytes(network)[:-4]
    length = struct.unpack("<I", body[4:8])[0]
    description = json.loads(body[8 : 8 + length])
    (step,) = description["steps"]
    target = data.draw(st.sampled_from([description, step, step["matrix"]]))
    key = data.draw(st.sampled_from(sorted(target)))
    junk = st.none() | st.booleans() | st.integers(-5, 2**70) | st.text(max_size=3)
    array = st.tuples(st.sampled_from(["uint8", "float32", "x"]), st.lists(st.integers(-1, 99)),
                      st.integers(-64, 1 << 40)).map(lambda a: {"array": list(a)})  # fmt: skip
    target[key] = data.draw(
        junk | array | st.lists(st.integers(-3, 99), max_size=3) | st.sampled_from([{}, 1.5])
    )
    text = json.dumps(description).encode()
    arrays = body[-(-(8 + length) // 64) * 64 :]
    head = b"TNN1" + struct.pack("<I", len(text)) + text
    survives(sealed(head + bytes(-len(head) % 64) + arrays))


def test_a_description_that_is_no_json_or_too_long_is_refused():
    for text in (b"{", b"[" * 100_000, b"\xff", b"[]", b"{}", b'{"input":[1],"steps":[7]}'):
        with pytest.raises(FormatError):
            read_network(sealed(b"TNN1" + struct.pack("<I", len(text)) + text + bytes(64)))
    with pytest.raises(FormatError, match="beyond its end"):
        read_network(sealed(b"TNN1" + struct.pack("<I", 1 << 31) + bytes(64)))
