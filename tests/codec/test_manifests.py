"""Packed manifests: the same JSON in few bytes, and nothing larger than the head says."""

import io
import json
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet.codec import Reader, Writer, decode, encode, inspect, stream, with_manifest
from tersenet.codec.container.manifests import MAX_TEXT
from tersenet.codec.container.records import (
    MANIFEST,
    PACKED,
    Buffer,
    read_records,
    read_varint,
    varint,
    write_preamble,
)
from tersenet.codec.container.words import WORDS
from tersenet.errors import FormatError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=[]), max_size=9),  # half surrogate pairs, too
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=20,
)  # fmt: skip
INDICES = st.lists(st.integers(0, 900), max_size=60, unique=True).map(sorted)


def read(data: bytes) -> dict:
    return dict(inspect(data).manifest)


def kind_of(data: bytes) -> bytes:
    return next(record.kind for record, _ in read_records(Buffer(data)) if record.kind != b"T")


@given(value=JSON, indices=st.lists(INDICES, max_size=4))
@settings(max_examples=150)
def test_any_json_comes_back(value, indices):
    manifest = {"value": value, "keep": indices}
    data = encode({}, manifest=manifest)
    assert kind_of(data) == PACKED
    # As JSON itself gives it back, of the same types and in the same order.
    assert json.dumps(read(data)) == json.dumps(json.loads(json.dumps(manifest)))


@given(units=INDICES, block=st.integers(1, 50))
@settings(max_examples=60)
def test_indices_in_blocks_come_back(units, block):
    indices = [block * unit + i for unit in units for i in range(block)]
    assert read(encode({}, manifest={"keep": indices}))["keep"] == indices


@pytest.mark.parametrize(
    "text",
    ["[1,2,3,4,5,6,7,08]", "[3,3,3,3,3,3,3,3,3]", "[9,8,7,6,5,4,3,2,1]", "[" + "9," * 9 + "9]",
     "[1,2,3,4,5,6,7,999999999]", "[1,2,3,4,5,6,7," + "9" * 5000 + "]", "\x01\x01\x02\xff\xff"],
)  # fmt: skip
def test_what_only_looks_like_indices_comes_back(text):
    assert read(encode({}, manifest={"text": text}))["text"] == text


def test_lists_of_kept_units_take_a_bit_each():
    generator = np.random.default_rng(0)
    kept = sorted(map(int, generator.choice(500, 160, replace=False)))
    filters = sorted(map(int, generator.choice(50, 40, replace=False)))
    flat = [16 * one + i for one in filters for i in range(16)]
    bare = len(encode({}, manifest={}))
    for lists, most in {
        "a bit for each of 500": ([kept], 500 / 8 + 12),
        "the same again in a reference": ([kept] * 4, 500 / 8 + 12 + 3 * 5),
        "blocks of 16 as the filters they stem from": ([filters, flat], 50 / 8 + 20),
    }.values():
        assert len(encode({}, manifest={"keep": lists})) - bare < most


def test_a_manifest_stands_anywhere_and_gives_way_to_another():
    tensors = {"w": np.arange(9)}
    with Writer(file := io.BytesIO()) as writer:
        writer.write("w", np.arange(9))
        writer.write_manifest({"v": 1})
    data = file.getvalue()
    assert (kind_of(data), read(data)) == (PACKED, {"v": 1})
    assert with_manifest(data, {"v": 2}) == encode(tensors, manifest={"v": 2})
    with Writer(file := io.BytesIO()):
        pass
    assert decode(file.getvalue()) == {}


def test_a_manifest_too_long_for_packing_is_written_as_ever():
    manifest = {"text": "x" * MAX_TEXT[PACKED]}
    data = encode({}, manifest=manifest)
    assert kind_of(data) == MANIFEST
    assert read(data) == manifest


def test_the_words_do_not_change():
    """A change here gives every packed manifest another text: it needs a new kind of record."""
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
    assert f"{len(WORDS):,} bytes, CRC-32 `{zlib.crc32(WORDS):08X}`" in page
    assert read(bytes.fromhex(GOLDEN)) == {
        "format": "tersenet-model", "version": 1, "model": {"lenet5": {"classes": 10}},
        "steps": [{"family": "prune", "name": "l1", "edits": [
            {"site": "conv1.weight", "kind": "slice", "shape": [20, 1, 5, 5],
             "data": {"dim": 0, "keep": [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19]}},
            {"site": "conv1.bias", "kind": "slice", "shape": [20],
             "data": {"dim": 0, "keep": [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19]}},
        ]}],
    }  # fmt: skip


GOLDEN = (
    "89544e430d0a1a0a01000000cf21844609d8022323b93e4454d868953291f51591d1417239c8c8c2"
    "285a8b3de3e331948071c0a0ab05003b5c132b170053456004000e6ed7c0"
)


# Hostile files.


@pytest.fixture(scope="module")
def small() -> bytes:
    manifest = {"keep": list(range(0, 90, 2)), "steps": [{"family": "prune", "name": "l1"}] * 12}
    data = encode({"w": np.arange(5, dtype=np.uint8)}, manifest=manifest)
    assert kind_of(data) == PACKED
    return data


def readings(data: bytes):
    """Every way to read a file."""
    yield lambda: decode(data)
    yield lambda: dict(stream(io.BytesIO(data)))
    yield lambda: Reader(data)


def test_a_file_cut_at_any_byte_is_refused(small):
    for length in range(len(small)):
        for reading in readings(small[:length]):
            with pytest.raises(FormatError, match=r"^Offset \d+: "):
                reading()


def test_any_flipped_bit_is_noticed(small):
    for position in range(8 * len(small)):
        damaged = bytearray(small)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(FormatError, match=r"^Offset \d+: "):
            decode(damaged)


def forged(length: int, payload: bytes, *, head: bytes = b"") -> bytes:
    """A file with one packed manifest, whose checksums are right."""
    head = varint(length) + head
    front = varint(4 * len(head) + 1) + head + varint(len(payload))
    check = zlib.crc32(front + payload).to_bytes(4, "little")
    end = bytes((4 * 5 + 3, 0)) + zlib.crc32(check + front).to_bytes(4, "little") + b"\0"
    end += zlib.crc32(end).to_bytes(4, "little")
    return write_preamble() + front + payload + check + end


def deflated(text: bytes) -> bytes:
    encoder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, WORDS)
    return encoder.compress(text) + encoder.flush()


def test_damage_behind_right_checksums_gives_json_or_is_refused(small):
    record, payload = next(read_records(Buffer(small)))
    length, _ = read_varint(Buffer(record.head))
    assert read(forged(length, bytes(payload))) == read(small)
    for position in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[position // 8] ^= 1 << position % 8
        try:
            text = json.dumps(read(forged(length, bytes(damaged))), separators=(",", ":"))
        except FormatError:
            continue
        else:
            assert len(text) <= 6 * length  # characters beyond ASCII are escaped
    for end in range(len(payload)):
        with pytest.raises(FormatError, match="Offset"):
            read(forged(length, bytes(payload[:end])))


def bitmap(unit: int, bits: bytes) -> bytes:
    return b'{"a":\x01' + varint(unit) + varint(len(bits)) + bits + b"}"


MOST = MAX_TEXT[PACKED]
LIES = {
    "10 MB where 5 bytes are stated": (5, deflated(b"0" * 10_000_000)),
    "10 MB where 1 MiB is allowed": (MOST, deflated(b"0" * 10_000_000)),
    "a text of 2^60 bytes": (2**60, deflated(b"{}")),
    "a text of a byte too many": (MOST + 1, deflated(b"{}")),
    "less text than stated": (300, deflated(b"{}")),
    "more text than stated": (2, deflated(b'{"a":1}')),
    "noise": (300, b"\xff\xffnoise"),
    "nothing": (2, b""),
    "bytes behind the text": (2, deflated(b"{}") + b"x"),
    "2^60 indices": (MOST, deflated(bitmap(2**60, b"\x01"))),
    "2^20 indices in one block": (MOST, deflated(bitmap(2**20, b"\x01"))),
    "2^18 indices, whose digits are too many": (MOST, deflated(bitmap(2**18, b"\x01"))),
    "2^23 indices": (MOST, deflated(bitmap(1, b"\xff" * (MOST - 20)))),
    "a bitmap of 2^60 bytes": (MOST, deflated(b'{"a":\x01\x01' + varint(2**60) + b"\x01}")),
    "a bitmap that ends early": (300, deflated(b'{"a":\x01\x01\x09\xff}')),
    "a bitmap of nothing": (300, deflated(bitmap(1, b""))),
    "a bitmap of zeros": (300, deflated(bitmap(9, b"\0"))),
    "blocks of none": (300, deflated(bitmap(0, b"\xff"))),
    "a bitmap that is too long": (24, deflated(bitmap(1, b"\xff\0"))),
    "a bitmap of few indices": (20, deflated(bitmap(1, b"\x7f"))),
    "bitmaps, one after the other": (9_000, deflated(b"{" + b"\x01\x01\x01\xff" * 2**10)),
    "a mark at the end": (2, deflated(b"{\x01")),
    "a mark that is none of ours": (2, deflated(b"{\x02")),
    "a number in too many bytes": (24, deflated(b'{"a":\x01\x81\x00\x01\xff}')),
    "brackets without end": (200_000, deflated(b"[" * 200_000)),
    "a list": (17, deflated(b"\x01\x01\x01\xff")),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_manifest_is_refused_in_little_memory(lie):
    data = forged(*LIES[lie])
    decode(encode({"warm": np.arange(9)}))  # compiled code is not what is measured
    tracemalloc.start()
    for reading in readings(data):
        with pytest.raises(FormatError, match=r"^Offset \d+: "):
            reading()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_heads_are_held_to():
    assert read(forged(2, deflated(b"{}"))) == {}
    for reading in readings(forged(2, deflated(b"{}"), head=b"x")):
        with pytest.raises(FormatError, match="Offset 17: a manifest's head"):
            reading()
