"""What goes into a container comes out, and nothing else gets in."""

import io
import json
import tracemalloc
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tersenet.codec import (
    Coder,
    Quantised,
    Reader,
    Writer,
    decode,
    encode,
    inspect,
    stream,
)
from tersenet.codec.container.records import Buffer, read_records, varint, write_preamble
from tersenet.codec.elements import DTYPES
from tersenet.codec.iso import encode_nnc, step_of
from tersenet.codec.levels.steps import rd_levels
from tersenet.errors import FormatError

NUMPY_DTYPES = [np.dtype(name) for name in DTYPES[:14]]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
ARRAYS = st.sampled_from(NUMPY_DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@given(tensors=st.dictionaries(NAMES, ARRAYS, max_size=5), effort=st.sampled_from(["fast", "best"]))
@settings(max_examples=150)
def test_arrays_of_every_type_and_shape_come_back_bit_for_bit(tensors, effort):
    data = encode(tensors, effort=effort)
    for back in (decode(data), dict(Reader(data)), dict(stream(io.BytesIO(data)))):
        assert list(back) == list(tensors)
        assert all(same_bits(back[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("name", DTYPES[-3:])
def test_types_beyond_numpy_come_back(name):
    values = np.linspace(-3, 3, 50).astype(getattr(ml_dtypes, name))
    assert same_bits(decode(encode({"w": values}))["w"], values)


def test_byte_order_and_strides_of_the_input_do_not_matter():
    values = np.arange(24.0).reshape(4, 6)
    for view in (values.astype(">f8"), values.T, values[::2, ::-1]):
        np.testing.assert_array_equal(decode(encode({"w": view}))["w"], view)


@given(
    levels=hnp.arrays(np.int32, SHAPES, elements=st.integers(-(2**31), 2**31 - 1)),
    step=st.floats(2.0**-60, 2.0**60, width=32),
    effort=st.sampled_from(["fast", "normal", "best"]),
)
def test_levels_come_back_as_level_times_step(levels, step, effort):
    back = decode(encode({"w": Quantised(levels=levels, step=step)}, effort=effort))["w"]
    assert same_bits(back, (levels * np.float64(step)).astype(np.float32))


def test_steps_per_row_and_other_types_come_back():
    levels = np.random.default_rng(0).integers(-128, 128, (6, 5, 2)).astype(np.int8)
    steps = np.linspace(0.01, 0.02, 6, dtype=np.float32)
    weights = Quantised(levels=levels, step=steps, dtype="float16")
    back = decode(encode({"w": weights}))["w"]
    expected = (levels * steps.astype(float)[:, None, None]).astype(np.float16)
    assert same_bits(back, expected)


def test_a_path_through_the_trellis_comes_back():
    weights = np.random.default_rng(0).laplace(size=(50, 60)).astype(np.float32)
    step = np.float32(0.1)
    tensor = Quantised(
        levels=rd_levels(weights, float(step), dependent=True), step=float(step), dependent=True
    )
    data = encode({"w": tensor})
    assert inspect(data).entries[0].dependent
    np.testing.assert_array_equal(decode(data)["w"], tensor.weights())


def structured() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    scale = np.repeat([0.1, 8], 150)[:, None]
    levels = np.rint(scale * generator.laplace(size=(300, 300))).astype(np.int32)
    return {
        "cabac": levels,
        "lzma": np.tile(generator.integers(-100, 100, 997), 100).astype(np.int32),
        "raw": generator.integers(0, 256, 1000).astype(np.uint8),
        "ans": generator.normal(size=100_000).astype(np.float32),
        "same": levels.copy(),
    }


def test_each_tensor_takes_the_coder_that_suits_it():
    tensors = structured()
    data = encode(tensors)
    coders = {entry.name: entry.coder.name.lower() for entry in inspect(data).entries}
    assert coders == {name: name for name in tensors}
    assert all(same_bits(array, tensors[name]) for name, array in decode(data).items())
    assert all(same_bits(array, tensors[name]) for name, array in stream(io.BytesIO(data)))
    assert all(same_bits(Reader(data)[name], tensors[name]) for name in tensors)


def test_the_listing_adds_up_to_the_size_of_the_file(tmp_path: Path):
    path = tmp_path / "net.tnc"
    path.write_bytes(encode(structured(), manifest={"edits": [1, 2, {"site": "ünï"}]}))
    listing = Reader(path).listing
    entries = sum(entry.file_bytes for entry in listing.entries)
    assert entries + listing.overhead_bytes == listing.file_bytes == path.stat().st_size
    assert listing.manifest == {"edits": [1, 2, {"site": "ünï"}]}
    assert [entry.shape for entry in listing.entries][:2] == [(300, 300), (99_700,)]


def test_one_tensor_is_read_without_the_others():
    tensors = structured()
    data = bytearray(encode(tensors))
    first = inspect(data).entries[0]
    data[first.offset + first.file_bytes // 2] ^= 1
    reader = Reader(data)  # the damage lies in a payload that nobody has asked for
    assert same_bits(reader["lzma"], tensors["lzma"])
    with pytest.raises(FormatError, match=r"Offset \d+: a record does not agree"):
        reader["cabac"]
    with pytest.raises(KeyError):
        reader["nobody"]


class OneWay(io.RawIOBase):
    """A pipe: no seeking, a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, 100) if size >= 0 else 100)


def test_a_pipe_is_enough():
    tensors = structured()
    data = encode(tensors)
    got = dict(stream(OneWay(data)))  # type: ignore[arg-type]
    assert all(same_bits(got[name], tensors[name]) for name in tensors)


def test_names_that_begin_alike_are_not_repeated():
    tensors = {f"encoder.layers.7.attention.{i}": np.array([i]) for i in range(50)}
    assert len(encode(tensors)) < 50 * 21 + 60
    assert list(decode(encode(tensors))) == list(tensors)


def test_names_come_back_however_they_end():
    names = [
        "a.weight", "a.bias", "a.weighted", ".weight", "weight", "a.", "a", ".bias.bias",
        "bn.running_mean", "bn.running_var", "bn.num_batches_tracked", "bn.num", "ü.bias", "ö.bias",
        "x" * 4089 + ".weight",
    ]  # fmt: skip
    data = encode({name: np.array([i]) for i, name in enumerate(names)})
    assert list(decode(data)) == names
    reader = Reader(data)
    assert [int(reader[name][0]) for name in names] == list(range(len(names)))


@given(
    steps=st.lists(st.floats(2.0**-120, 2.0**120, width=32), min_size=1, max_size=5),
    cut=st.booleans(),
)
def test_steps_take_two_bytes_where_these_are_enough(steps, cut):
    exact = np.array(steps, np.float32)
    if cut:
        exact = (exact.view(np.uint32) & 0xFFFF0000).view(np.float32)
    short = not (exact.view(np.uint32) & 0xFFFF).any()
    levels = np.ones((len(steps), 1), np.int32)
    data = encode({"w": Quantised(levels=levels, step=exact)})
    np.testing.assert_array_equal(decode(data)["w"][:, 0], exact)
    longer = np.full(len(steps), 1 + 2.0**-20, np.float32)
    most = len(encode({"w": Quantised(levels=levels, step=longer)}))
    assert len(data) == most - 2 * short * len(steps)


def test_no_record_is_larger_than_the_unit_of_nnc():
    """On a network as PyTorch names it, checksums and all, with the same levels and payloads."""
    generator = np.random.default_rng(0)
    shapes = {
        "conv1.weight": (20, 1, 5, 5), "conv1.bias": (20,), "conv2.weight": (50, 20, 5, 5),
        "conv2.bias": (50,), "layers.1.fc.weight": (500, 100), "layers.1.fc.bias": (500,),
        "layers.2.bn.weight": (500,), "layers.2.bn.bias": (500,), "head.bias": (10,),
        "head.weight": (10, 500), "other.bias": (1200,),
    }  # fmt: skip
    step = step_of(-20)
    tensors = {
        name: Quantised(levels=np.rint(generator.laplace(0, 2, shape)).astype(np.int32), step=step)
        for name, shape in shapes.items()
    }
    alone = {name: len(encode_nnc({name: one})) for name, one in tensors.items()}
    nothing = len(encode_nnc({}))
    for entry in inspect(encode(tensors)).entries:
        assert entry.file_bytes <= alone[entry.name] - nothing


def test_writing_refuses_what_cannot_be_read():
    with pytest.raises(ValueError, match="elements of type"):
        encode({"w": np.array(["text"])})
    with pytest.raises(ValueError, match="1 to 4096 bytes"):
        encode({"": np.zeros(1)})
    writer = Writer(io.BytesIO())
    writer.write("w", np.zeros(1))
    with pytest.raises(ValueError, match="already holds a tensor named 'w'"):
        writer.write("w", np.zeros(1))
    with pytest.raises(ValueError, match="positive"):
        Quantised(levels=np.zeros(3, np.int32), step=0.0)
    with pytest.raises(ValueError, match="steps for levels"):
        Quantised(levels=np.zeros((3, 2), np.int32), step=np.ones(2, np.float32))
    with pytest.raises(ValueError, match="32-bit integers"):
        Quantised(levels=np.array([2**40]), step=1.0)


# Hostile files.


@pytest.fixture(scope="module", params=["normal", "fast"])
def small(request) -> bytes:
    """Files with, between them, every kind of record and coder."""
    generator = np.random.default_rng(0)
    if request.param == "fast":
        return encode({"w": generator.integers(-1, 2, 90)}, effort="fast")
    levels = np.rint(generator.laplace(0, 2, (12, 9))).astype(np.int32)
    return encode(
        {
            "a.weight": Quantised(levels=levels, step=0.5),
            "a.again": Quantised(levels=levels, step=0.5),
            "a.repeats": np.tile(np.arange(7), 90),
            "b.raw": generator.integers(0, 256, 20).astype(np.uint8),
            "b.flag": np.array(True),
        },
        manifest={"name": "small"},
    )


def readings(data: bytes):
    """Every way to read a file."""
    yield lambda: decode(data)
    yield lambda: dict(stream(io.BytesIO(data)))
    yield lambda: dict(Reader(data))


def test_a_file_cut_at_any_byte_is_refused(small):
    for length in range(len(small)):
        for read in readings(small[:length]):
            with pytest.raises(FormatError, match=r"^Offset \d+: "):
                read()


def test_any_flipped_bit_is_noticed(small):
    for position in range(8 * len(small)):
        damaged = bytearray(small)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(FormatError, match=r"^Offset \d+: "):
            decode(damaged)


def test_a_flipped_bit_in_a_head_is_noticed_without_reading_payloads(small):
    payloads = set()
    for entry in inspect(small).entries:
        end = entry.offset + entry.file_bytes
        payloads |= set(range(end - 4 - payload_bytes(small, entry.offset), end - 4))
    manifest = range(16, inspect(small).entries[0].offset)
    for byte in sorted(set(range(len(small))) - payloads - set(manifest)):
        for bit in range(8):
            damaged = bytearray(small)
            damaged[byte] ^= 1 << bit
            with pytest.raises(FormatError, match=r"^Offset \d+: "):
                inspect(damaged)


def payload_bytes(data: bytes, offset: int) -> int:
    from tersenet.codec.container.records import Buffer, read_record

    return read_record(Buffer(data, offset))[0].payload_bytes


@given(data=st.binary(max_size=300))
@settings(max_examples=300)
def test_random_bytes_are_refused(data):
    for start in (b"", write_preamble()):
        for read in readings(start + data):
            with pytest.raises(FormatError, match=r"^Offset \d+: "):
                read()


def forged(*records: tuple[bytes, bytes, bytes]) -> bytes:
    """A file whose checksums are right, whatever its records say."""
    data, chain, tensors = write_preamble(), 0, 0
    for kind, head, payload in records:
        front = front_of(kind, head, payload)
        check = zlib.crc32(front + payload).to_bytes(4, "little")
        data += front + payload + check
        chain = zlib.crc32(check + front, chain)
        tensors += kind == b"T"
    end = varint(tensors) + chain.to_bytes(4, "little")
    front = front_of(b"E", end, b"")
    return data + front + zlib.crc32(front).to_bytes(4, "little")


def front_of(kind: bytes, head: bytes, payload: bytes) -> bytes:
    return varint(4 * len(head) + b"MPTE".index(kind)) + head + varint(len(payload))


def head(*, shape=(3,), dtype=10, flags=0, extra=b"", name=b"w", shared=0) -> bytes:
    sides = varint(len(shape)) + b"".join(map(varint, shape)) + extra
    form = flags & 0x3F | (flags & 0xC0) << 1 | (dtype ^ 10) << 10
    return varint(shared) + varint(len(name) << 3) + name + varint(form) + sides


HALF = np.float32(0.5).tobytes()
LIES = {
    "2^60 weights in 3 bytes": (head(shape=(2**30, 2**30), flags=0x11, extra=HALF), b"abc"),
    "2^50 zeros in a skipped row": (
        head(shape=(2**25, 2**25), flags=0x11, extra=HALF),
        b"\xff" * 9,
    ),
    "raw bytes missing": (head(), b"abc"),
    "raw bytes too many": (head(), b"abc" * 5),
    "LZMA of nothing": (head(flags=2, extra=b"\x04"), b""),
    "LZMA of noise": (head(flags=2, extra=b"\x04"), b"noise"),
    "LZMA of another width": (head(flags=2, extra=b"\x02"), b"noise"),
    "ANS of nothing": (head(flags=3, extra=b"\x04"), b""),
    "ANS of noise": (head(flags=3, extra=b"\x04"), b"\x01" + b"\x05" + b"\0" * 7 + b"noise"),
    "ANS plane of 2^63 bytes": (head(flags=3, extra=b"\x04"), b"\x01" + b"\xff" * 8),
    "CABAC of floats": (head(flags=1), b"noise"),
    "CABAC of noise": (head(flags=0x11, extra=HALF), b"noise"),
    "unknown coder": (head(flags=9), b""),
    "unknown type": (head(dtype=99), b""),
    "an update without its base": (head(flags=0x80, extra=b"\0" * 4), b"\0" * 12),
    "a trellis for raw bytes": (head(flags=0x30, extra=HALF), b"\0" * 12),
    "rows of a scalar": (head(shape=(), flags=0x51, extra=HALF), b""),
    "levels for integers": (head(dtype=7, flags=0x11, extra=HALF), b""),
    "a step of zero": (head(flags=0x11, extra=b"\0\0\0\0"), b""),
    "a step of NaN": (head(flags=0x11, extra=b"\xff\xff\xff\x7f"), b""),
    "2^40 steps": (head(shape=(2**40, 0), flags=0x51, extra=HALF), b""),
    "33 dimensions": (head(shape=(1,) * 33), b"\0" * 4),
    "an empty giant": (head(shape=(0, 2**61, 2**61)), b""),
    "a head that goes on": (head(extra=b"more"), b"\0" * 12),
    "a repeat of itself": (head(flags=4, extra=b"\0"), b""),
    "a name of no bytes": (head(name=b""), b"\0" * 12),
    "a name that is not UTF-8": (head(name=b"\xff"), b"\0" * 12),
    "a name that begins before the first": (head(shared=3), b"\0" * 12),
    "a truth value of two": (head(dtype=0), b"\0\1\2"),
    "an unknown ending": (b"\0\x0ew\0\1\3", b"\0" * 12),
    "an ending beyond the longest name": (
        b"\0" + varint(4096 << 3 | 1) + b"w" * 4096 + b"\0\1\3",
        b"\0" * 12,
    ),
    "half an ending in the name before": (b"\3\1\0\1\3", b"\0" * 12),
    "a form of 2^60": (b"\0\x08w" + varint(2**60) + b"\1\3", b"\0" * 12),
    "short steps without levels": (b"\0\x08w\x40\1\3\0\x3f", b"\0" * 12),
    "a short step of zero": (b"\0\x08w\x51\1\3\0\0", b"noise"),
    "a short step of NaN": (b"\0\x08w\x51\1\3\xff\x7f", b"noise"),
    "half a short step": (b"\0\x08w\x51\1\3\0", b"noise"),
    "2^40 short steps": (
        b"\0\x08w" + varint(0xD1) + b"\2" + varint(2**40) + b"\0\0\x3f",
        b"",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_head_is_refused_in_little_memory(lie):
    data = forged((b"T", *LIES[lie]))
    decode(encode({"warm": np.arange(9)}))  # compiled code is not what is measured
    tracemalloc.start()
    for read in readings(data):
        with pytest.raises(FormatError, match=r"^Offset \d+: "):
            read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 << 20  # the LZMA window of 8 MiB is the largest


def test_contradictions_between_records_are_refused():
    raw = b"\0" * 12
    one, two = (b"T", head(name=b"a"), raw), (b"T", head(name=b"b"), raw)
    assert list(decode(forged(one, two))) == ["a", "b"]
    bad = {
        "duplicate names": forged(one, one),
        "repeat of another shape": forged(
            one, (b"T", head(name=b"b", shape=(4,), flags=4, extra=b"\0"), b"")
        ),
        "repeat of a later one": forged(
            (b"T", head(name=b"a", flags=4, extra=b"\1"), b""),
            (b"T", head(name=b"b", flags=4, extra=b"\0"), b""),
        ),
        "trailing bytes": forged(one) + b"x",
    }
    for text, payload in {
        varint(5): zlib.compress(b"0" * 10_000_000),
        varint(2**60): zlib.compress(b"{}"),
        varint(200_000): zlib.compress(b"[" * 200_000),
        varint(2): zlib.compress(b"[]"),
        varint(3): b"noise",
    }.items():
        bad[f"manifest {text.hex()}"] = forged((b"M", text, payload))
    for data in bad.values():
        for read in readings(data):
            with pytest.raises(FormatError, match=r"^Offset \d+: "):
                read()


@pytest.mark.parametrize("alike", [False, True])
def test_records_cannot_be_left_out_doubled_or_swapped(alike):
    # Without payloads, too: those of tensors that repeat the first.
    data = encode({name: np.full(3, 0 if alike else i) for i, name in enumerate("abc")})
    entries = inspect(data).entries
    parts = [data[e.offset : e.offset + e.file_bytes] for e in entries]
    front, end = data[:16], data[entries[-1].offset + entries[-1].file_bytes :]
    for order in ((0, 1), (0, 1, 2, 2), (1, 0, 2), (0, 2, 1), ()):
        for read in (decode, inspect):
            with pytest.raises(FormatError, match="Offset"):
                read(front + b"".join(parts[i] for i in order) + end)


def test_a_later_version_says_what_to_do():
    later = bytearray(write_preamble())
    later[8] = 2
    later[12:] = zlib.crc32(later[:12]).to_bytes(4, "little")
    with pytest.raises(FormatError, match=r"Offset 8: .* version 2.* update tersenet"):
        decode(later)


def test_memory_is_bounded_by_what_the_caller_allows():
    data = encode({"a": np.zeros(1000), "b": np.zeros(1000)})
    assert len(decode(data, max_bytes=16_000)) == 2
    with pytest.raises(FormatError, match=r"'b' takes 8000 bytes of which 7999 are allowed"):
        decode(data, max_bytes=15_999)
    with pytest.raises(FormatError, match="'a' takes"):
        Reader(data, max_bytes=7_999)["a"]


def test_nothing_in_a_file_is_executed():
    # The manifest is JSON: an object that pickle would run is text to it.
    text = {"edits": "cos\nsystem\n(S'false'\ntR."}
    assert inspect(encode({}, manifest=text)).manifest == json.loads(json.dumps(text))


TENSORS = {
    "conv.weight": Quantised(levels=np.array([[3, 0, -1], [0, 0, 2]]), step=0.25),
    "conv.bias": np.array([1.0, -2.0], np.float32),
    "other": Quantised(levels=np.array([[3, 0, -1], [0, 0, 2]]), step=0.1),
}


def test_the_bytes_of_version_1_do_not_change():
    """A change here breaks every file written so far: it needs a new version."""
    data = encode(TENSORS, manifest={"v": 1})
    assert data.hex() == GOLDEN
    assert [one.kind for one, _ in read_records(Buffer(data))] == [b"P", b"T", b"T", b"T"]
    assert {e.name: e.coder for e in inspect(data).entries} == {
        "conv.weight": Coder.CABAC,
        "conv.bias": Coder.RAW,
        "other": Coder.CABAC,
    }


def test_levels_of_an_update_lie_in_the_order_of_its_base():
    base = np.array([[1, 0], [0, 2]], np.float32)
    levels = np.array([1, 2, 3, 4], "<i4").tobytes()
    extra = HALF + zlib.crc32(base.tobytes()).to_bytes(4, "little")
    record = (b"T", head(shape=(2, 2), flags=0x90, extra=extra), levels)
    found = decode(forged(record), base={"w": base})["w"]
    np.testing.assert_array_equal(found, np.array([[2.5, 0.5], [1, 4]], np.float32))


GOLDEN = (
    "89544e430d0a1a0a01000000cf218446050708ab562a03e6c25a000c360a34320021636f6e7651"
    "020203803e0646800b5e54606f791ef3160402000102080000803f000000c0d026bd103e00286f74"
    "68657211020203cdcccc3d0646800b5e54605d1b95a917030de440f50076855d01"
)
