"""Inputs that fuzzing found worth keeping: every reader still keeps its promise on them."""

import importlib.util
from pathlib import Path

import numpy as np

from tersenet.codec import Quantised, decode, encode, inspect
from tersenet.codec.container.records import Buffer, read_records

ROOT = Path(__file__).parents[2]
CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())

spec = importlib.util.spec_from_file_location("fuzz_codec", ROOT / "scripts" / "fuzz_codec.py")
assert spec is not None
assert spec.loader is not None
fuzz = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz)


def test_the_corpus_reaches_every_reader_and_breaks_none():
    seen = set()
    for path in CORPUS:
        data = path.read_bytes()
        fuzz.one_input(data)
        seen.add(fuzz.READERS[data[0] % len(fuzz.READERS)])
    assert seen == set(fuzz.READERS)


def test_checksums_that_are_put_right_open_the_container():
    levels = np.arange(-6, 6).reshape(3, 4)
    tensors = {"a": Quantised(levels=levels, step=0.5), "b": np.arange(5)}
    records = b"".join(
        one.kind
        + bytes((len(one.head),))
        + len(payload).to_bytes(2, "little")
        + one.head
        + bytes(payload)
        for one, payload in read_records(Buffer(encode(tensors)))
    )
    assert fuzz.put_right(records) == encode(tensors)
    assert list(decode(fuzz.put_right(records))) == ["a", "b"]


def test_containers_of_the_corpus_are_read():
    for path in CORPUS:
        data = path.read_bytes()
        reader = fuzz.READERS[data[0] % len(fuzz.READERS)]
        if reader in ("container", "forged"):
            whole = data[1:] if reader == "container" else fuzz.put_right(data[1:])
            assert inspect(whole).entries
