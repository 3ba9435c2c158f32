"""`tersenet encode`, `tersenet decode`: weights files to coded files and back."""

import json as json_module
from pathlib import Path
from typing import Final, Literal

from rich.console import Console
from rich.table import Table

from tersenet.errors import FormatError, TersenetError

__all__ = ["decode", "encode", "show_listing"]

DONE: Final = 0


def encode(
    source: Path,
    /,
    *,
    out: Path | None = None,
    step: float | None = None,
    base: Path | None = None,
    effort: Literal["fast", "normal", "best"] = "normal",
    json: bool = False,
) -> int:
    """Code weights in as few bytes as they have information: losslessly, or in levels.

    Args:
        source: A .safetensors, .onnx, .pt or .pth file, or the folder of a saved model.
        out: The coded file; by default SOURCE with .tnc.
        step: Of a level, in standard deviations of its tensor; without it nothing is lost.
        base: Weights that the coded file is an update to: only what changed is written.
        effort: fast codes about ten times as fast into larger files, best tries every coder.
        json: Print one JSON object instead of a table.
    """
    from tersenet.encode.files import encode_file

    if step is not None and not 0 < step < float("inf"):
        raise TersenetError(f"--step is {step}: it must be above 0, as 0.3 is.")
    target = out or source.with_name(source.name + ".tnc")
    encode_file(source, target, step=step, effort=effort, base=base)
    return show_listing(target, json=json)


def decode(source: Path, /, *, out: Path, base: Path | None = None, json: bool = False) -> int:
    """Decode a .tnc or .nnc file.

    Args:
        source: The coded file.
        out: A .safetensors or .onnx file, or a folder for a saved model.
        base: The weights that an update was made for.
        json: Print one JSON object instead of a line.
    """
    from tersenet.encode.files import decode_file

    tensors = decode_file(source, out, base=base)
    values = sum(one.size for one in tensors.values())
    if json:
        print(json_module.dumps({"file": str(out), "tensors": len(tensors), "values": values}))
    else:
        console = Console(soft_wrap=True, highlight=False)
        console.print(f"{len(tensors)} tensors, {values:,} values: {out}", markup=False)
    return DONE


def show_listing(path: Path, *, json: bool) -> int:
    """Prints what a coded file holds: what lies where, by which coder, in how many bytes."""
    from tersenet import codec

    if not path.is_file():
        raise FormatError(f"{path} does not exist: give a coded file.")
    listing = codec.Reader(path).listing
    rows = [
        {
            "name": one.name.replace("\0", ""),
            "dtype": one.dtype,
            "shape": list(one.shape),
            "coder": one.coder.name.lower(),
            "steps": list(one.steps[:1]),
            "bytes": one.file_bytes,
        }
        for one in listing.entries
    ]
    if json:
        value = {"file": str(path), "file_bytes": listing.file_bytes, "tensors": rows}
        print(json_module.dumps(value))
        return DONE
    table = Table(title=f"{path}: {listing.file_bytes:,} B", title_justify="left")
    for heading in ("tensor", "type", "shape", "coder", "step", "bytes"):
        table.add_column(heading, justify="right" if heading in ("step", "bytes") else "left")
    for row in rows:
        step = f"{row['steps'][0]:.4g}" if row["steps"] else ""
        shape = "×".join(map(str, row["shape"]))
        table.add_row(row["name"], row["dtype"], shape, row["coder"], step, f"{row['bytes']:,}")
    Console().print(table)
    return DONE
