"""Our coded levels against peers that run in Pythons of their own; `codec.py` asks for it."""

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from convention import Figure
from numpy.typing import NDArray

from tersenet.codec import encode, inspect
from tersenet.codec.container.tensors import code_levels

__all__ = ["against_nncodec", "against_others", "lossless"]

PEER: Final = Path(__file__).parents[1] / "tests" / "interop" / "nncodec_peer.py"
OTHERS: Final = Path(__file__).with_name("codec_peers.py")

Levels = Mapping[str, NDArray[np.int32]]


def against_nncodec(
    name: str, levels: Levels, payloads: list[int], file: bytes, python: str
) -> list[Figure]:
    """Its C++ coder with the search for initial states, on the same levels."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.npz"), Path(folder, "out.npz")
        flag: dict[str, Any] = {"?dependent": False}
        np.savez(source, **levels, **flag)
        command = [python, str(PEER), "levels", str(source), str(target)]
        subprocess.run(command, check=True)
        found = dict(np.load(target))
    count = sum(one.size for one in levels.values())
    theirs = [int(found[key][0]) for key in levels]
    total, encoding, decoding, units = np.sum([found[key] for key in levels], axis=0)
    chosen = [
        len(code_levels(one, dependent=False, effort="normal").payload) for one in levels.values()
    ]
    larger = sum(p > t for p, t in zip(chosen, theirs, strict=True))
    held = {entry.name: entry.file_bytes for entry in inspect(file).entries}
    records = sum(held.values())
    longer = sum(held[key] > int(found[key][3]) for key in levels)
    detail = (
        f"{8 * total / count:.3f} bit/w, encodes {count / encoding / 1e6:.2f}, "
        f"decodes {count / decoding / 1e6:.2f} Mw/s"
    )
    return [
        Figure(
            name=f"{name}: our records over its units",
            value=records / units,
            unit="x",
            against="NNCodec",
            target=1.0,
            at_most=True,
            detail="name, shape and code; ours with step and checksums, 10 bytes a tensor",
        ),
        Figure(
            name=f"{name}: our CABAC over its payloads",
            value=sum(payloads) / total,
            unit="x",
            against="NNCodec",
            target=1.0,
            at_most=True,
            detail=detail,
        ),
        Figure(
            name=f"{name}: tensors whose code is larger than its payload",
            value=larger,
            unit=f"of {len(theirs)}",
            against="NNCodec",
            target=0,
            at_most=True,
            detail="by the coder that our file chose",
        ),
        Figure(
            name=f"{name}: tensors whose record is larger than its unit",
            value=longer,
            unit=f"of {len(theirs)}",
            against="NNCodec",
            target=0,
            at_most=True,
        ),
    ]


def through_peers(job: str, arrays: Mapping[str, NDArray[Any]], python: str) -> Mapping[str, Any]:
    """What `codec_peers.py` measures: by peer, bytes and seconds to encode and decode."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.npz"), Path(folder, "out.npz")
        named: dict[str, Any] = dict(arrays)
        np.savez(source, **named)
        subprocess.run([python, str(OTHERS), job, str(source), str(target)], check=True)
        return dict(np.load(target))


def against_others(name: str, levels: Levels, file_bytes: int, python: str) -> list[Figure]:
    """Static ANS with each tensor's exact histogram, whose tables are not counted."""
    count = sum(one.size for one in levels.values())
    return [
        Figure(
            name=f"{name}: our file over {peer}",
            value=file_bytes / size,
            unit="x",
            against=peer,
            target=1.0,
            at_most=True,
            detail=f"{8 * size / count:.3f} bit/w, encodes {count / encoding / 1e6:.1f}, "
            f"decodes {count / decoding / 1e6:.1f} Mw/s",
        )
        for peer, (size, encoding, decoding) in through_peers("levels", levels, python).items()
    ]


def lossless(network: str, weights: Mapping[str, NDArray[np.float32]], python: str) -> list[Figure]:
    """The weights bit for bit, as 32-bit floats."""
    raw = sum(one.nbytes for one in weights.values())
    data = encode(dict(weights))
    return [
        Figure(
            name=f"{network}: lossless file over {peer}",
            value=len(data) / size,
            unit="x",
            against=peer,
            target=1.0,
            at_most=True,
            detail=f"{size / raw:.3f} of the floats, ours {len(data) / raw:.3f}",
        )
        for peer, (size, _, _) in through_peers("floats", weights, python).items()
    ]
