"""Our coders against xz, zstd, bzip2, deflate and NNCodec, on real trained weights.

    python benchmarks/codec.py
    python benchmarks/codec.py more.safetensors net.pt --nncodec /path/to/its/python

Each network is quantised to identical levels for all (int8 by the largest weight; 0.33, 1 and
2.5 standard deviations), tensor by tensor. Peers get the levels as bytes, one stream per
network; we write a whole container with names, shapes, steps and checksums, and NNCodec its
payloads alone. Speeds are per second of one thread's processor time, the better of two turns,
compilation excluded.
Two threads against one are timed by the clock, where two cores are free to this process.
NNCodec runs in a Python that has it (`--nncodec`), constriction, ZipNN and Zstandard in one that
has these (`--peers`), each if it is there.
"""

import os

# Before the libraries are loaded: they read it once.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import bz2
import lzma
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from codec_against import against_nncodec, against_others, lossless
from convention import Figure, arguments, publish
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tersenet.codec import (
    Quantised,
    decode,
    decode_levels,
    encode,
    encode_levels,
    nearest,
    rd_levels,
)

ROOT: Final = Path(__file__).parents[1]
POINTS: Final = {"int8": 0.0, "4b": 0.33, "2b": 1.0, "sparse": 2.5}
"""Steps in standard deviations; 0 takes the largest weight / 127."""

Levels = dict[str, NDArray[np.int32]]


def main() -> None:
    """Runs the comparison."""
    parser = arguments(__doc__)
    parser.add_argument("files", nargs="*", type=Path, help=".safetensors or state dicts")
    parser.add_argument("--nncodec", metavar="PYTHON", help="a Python that has NNCodec")
    parser.add_argument(
        "--peers", metavar="PYTHON", help="a Python with constriction, ZipNN and zstandard"
    )
    parser.add_argument("--together", metavar="NAME", help="all files are this one network")
    options = parser.parse_args()
    files = options.files or sorted((ROOT / "weights").glob("*.safetensors"))
    if not files:
        sys.exit("No weights: name a file, or put one into weights/.")
    networks = {path.stem: load(path) for path in files[: 1 if options.quick else None]}
    if options.together:
        parts = [(f"{stem}.{key}", w) for stem, one in networks.items() for key, w in one.items()]
        networks = {options.together: dict(parts)}
    figures: list[Figure] = []
    for name, weights in networks.items():
        for point in ["4b"] if options.quick else POINTS:
            figures += compare(name, point, weights, options.nncodec, options.peers)
        if options.peers:
            figures += lossless(name, weights, options.peers)
        figures += equal_distortion(name, weights)
        figures += quantiser_speed(name, weights)
        figures += two_threads(name, weights)
    notes = [
        f"{name}: {sum(w.size for w in one.values())} weights" for name, one in networks.items()
    ]
    publish("Entropy coding", figures, json_file=options.json, notes=notes)


def load(path: Path) -> dict[str, NDArray[np.float32]]:
    """The tensors of two and more dimensions in a file; nothing in it is executed."""
    if path.suffix == ".safetensors":
        state: Mapping[str, Any] = load_file(path)
    else:
        state = {k: v.numpy() for k, v in torch.load(path, weights_only=True).items()}
    return {k: v.astype(np.float32) for k, v in state.items() if v.ndim > 1 and v.std() > 0}


def quantise(weights: Mapping[str, NDArray[np.float32]], point: str) -> tuple[Levels, list[float]]:
    """The levels of each tensor, and their steps."""
    steps = [
        float(np.float32(POINTS[point] * w.std() or np.abs(w).max() / 127))
        for w in weights.values()
    ]
    return {
        name: nearest(w, step) for (name, w), step in zip(weights.items(), steps, strict=True)
    }, steps


def seconds(call: Callable[[], Any], turns: int = 2) -> tuple[Any, float]:
    """The result, and the time of the faster turn."""
    best, result = float("inf"), None
    for _ in range(turns):
        begin = time.process_time()
        result = call()
        best = min(best, time.process_time() - begin)
    return result, best


def compare(
    network: str,
    point: str,
    weights: Mapping[str, NDArray[np.float32]],
    python: str | None,
    others: str | None,
) -> list[Figure]:
    """Bytes and speeds on identical levels."""
    levels, steps = quantise(weights, point)
    count = sum(one.size for one in levels.values())
    name = f"{network} {point}"
    narrow = b"".join(
        one.astype(np.int8 if np.abs(one).max() < 128 else np.int16).tobytes()
        for one in levels.values()
    )
    entropy = sum(map(order0_bits, levels.values())) / count
    tensors = {
        key: Quantised(levels=one, step=step)
        for (key, one), step in zip(levels.items(), steps, strict=True)
    }
    decode(encode(tensors))  # compiled now
    data, encoding = seconds(lambda: encode(tensors))
    back, decoding = seconds(lambda: decode(data))
    if any(not np.array_equal(back[key], tensors[key].weights()) for key in tensors):
        sys.exit(f"{name}: what was decoded is not what was encoded.")
    fast, fast_encoding = seconds(lambda: encode(tensors, effort="fast"))
    _, fast_decoding = seconds(lambda: decode(fast))
    cabac, cabac_encoding = seconds(lambda: [encode_levels(one) for one in levels.values()])
    pairs = list(zip(cabac, levels.values(), strict=True))
    _, cabac_decoding = seconds(lambda: [decode_levels(p, one.shape) for p, one in pairs])
    peers = {
        "xz -9": lambda: lzma.compress(narrow, preset=9),
        "bzip2 -9": lambda: bz2.compress(narrow, 9),
        "deflate -9": lambda: zlib.compress(narrow, 9),
    }
    ours = 8 * len(data) / count
    figures = [
        Figure(name=f"{name}: file", value=ours, unit="bit/w", against=None),
        Figure(
            name=f"{name}: file over entropy",
            value=ours / entropy,
            unit="x",
            against=f"order-0 entropy, {entropy:.3f} bit/w",
        ),
        speed(f"{name}: encode", count, encoding, None),
        speed(f"{name}: decode", count, decoding, None),
        speed(f"{name}: CABAC encode", count, cabac_encoding, 4),
        speed(f"{name}: CABAC decode", count, cabac_decoding, 5),
        Figure(name=f"{name}: ANS file", value=8 * len(fast) / count, unit="bit/w", against=None),
        speed(f"{name}: ANS encode", count, fast_encoding, 40),
        speed(f"{name}: ANS decode", count, fast_decoding, 30),
    ]
    for peer, compress in peers.items():
        packed, taken = seconds(compress, 1)
        figures.append(
            Figure(
                name=f"{name}: file over {peer}",
                value=len(data) / len(packed),
                unit="x",
                against=peer,
                target=1.0,
                at_most=True,
                detail=f"{8 * len(packed) / count:.3f} bit/w, {count / taken / 1e6:.2f} Mw/s",
            )
        )
    if python:
        figures += against_nncodec(name, levels, [len(one) for one in cabac], data, python)
    if others:
        figures += against_others(name, levels, len(data), others)
    return figures


def speed(name: str, count: int, taken: float, target: float | None) -> Figure:
    """Millions of weights per second."""
    return Figure(
        name=name, value=count / taken / 1e6, unit="Mw/s", against="target", target=target
    )


def two_threads(network: str, weights: Mapping[str, NDArray[np.float32]]) -> list[Figure]:
    """How much sooner a file in two parts is decoded by two threads, by the clock."""
    levels, steps = quantise(weights, "4b")
    data = encode(
        {
            key: Quantised(levels=one, step=step)
            for (key, one), step in zip(levels.items(), steps, strict=True)
        },
        parts=2,
    )
    free = len(os.sched_getaffinity(0)) > 1
    taken: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(10 if free else 0):
        for threads, found in taken.items():
            begin = time.perf_counter()
            decode(data, threads=threads)
            if turn:  # the first compiles
                found.append(time.perf_counter() - begin)
    return [
        Figure(
            name=f"{network}: decoded by two threads",
            value=float(np.median(taken[1]) / np.median(taken[2])) if free else None,
            unit="x as fast",
            against="one thread",
            target=None,
            detail="" if free else "one core alone is free",
        )
    ]


def order0_bits(levels: NDArray[np.int32]) -> float:
    """The entropy of a tensor's own histogram, for all of it."""
    counts = np.unique(levels, return_counts=True)[1]
    return float(-(counts * np.log2(counts / levels.size)).sum())


def equal_distortion(network: str, weights: Mapping[str, NDArray[np.float32]]) -> list[Figure]:
    """Bits at equal signal-to-noise ratio: the trellis with rates against rounding."""
    names = [name for name, w in weights.items() if w.size > 1000]
    curves: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    signal = sum(float((weights[name] ** 2).sum()) for name in names)
    overall = float(np.sqrt(signal / sum(weights[name].size for name in names)))
    for exponent in np.arange(-4.5, 1.6, 0.25):
        for trellis in (False, True):
            step = overall * 2.0**exponent * (0.6 if trellis else 1)
            bits, noise = 0, 0.0
            for name in names:
                w = weights[name]
                levels = rd_levels(w, step, dependent=True) if trellis else nearest(w, step)
                bits += 8 * len(encode_levels(levels, dependent=trellis))
                noise += float(((levels * step - w) ** 2).sum())
            curves[trellis].append((10 * np.log10(signal / noise), bits))
    figures = []
    for decibel, target in ((14, -10.0), (26, -4.0)):
        plain, ours = (
            np.interp(decibel, *np.array(sorted(curves[trellis])).T) for trellis in (False, True)
        )
        figures.append(
            Figure(
                name=f"{network}: trellis and rates at {decibel} dB",
                value=100 * (float(ours / plain) - 1),
                unit="% bytes",
                against="rounding at equal SNR",
                target=target,
                at_most=True,
            )
        )
    return figures


def quantiser_speed(network: str, weights: Mapping[str, NDArray[np.float32]]) -> list[Figure]:
    """The trellis with rates, at about 3.5 bits."""
    largest = max(weights.values(), key=lambda w: w.size)
    step = 0.33 * float(largest.std())
    rd_levels(largest[:1], step, dependent=True)
    _, taken = seconds(lambda: rd_levels(largest, step, dependent=True))
    return [speed(f"{network}: trellis and rates", largest.size, taken, 3)]


if __name__ == "__main__":
    main()
