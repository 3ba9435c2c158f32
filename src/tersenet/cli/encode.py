"""`tersenet encode`, `tersenet decode`: weights files to coded files and back."""

import json as json_module
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from rich.console import Console
from rich.table import Table

from tersenet.core.manifest import NO_MODEL, whole
from tersenet.errors import FormatError, TersenetError

__all__ = ["decode", "encode", "is_coded", "show_listing"]

DONE: Final = 0
SHOWN: Final = 8
"""Edits of a step that are shown; --json gives all."""


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
            Which tensors stay bit for bit all the same is told, and why.
        base: Weights that the coded file is an update to: only what changed is written.
        effort: fast codes about ten times as fast into larger files, best tries every coder.
        json: Print one JSON object instead of a table.
    """
    from tersenet.encode.files import encode_file

    if step is not None and not 0 < step < float("inf"):
        raise TersenetError(f"--step is {step}: it must be above 0, as 0.3 is.")
    target = out or source.with_name(source.name + ".tnc")
    kept: dict[str, list[str]] = {}
    encode_file(
        source,
        target,
        step=step,
        effort=effort,
        base=base,
        exact=lambda name, reason: kept.setdefault(reason, []).append(name),
    )
    code = show_listing(target, json=json)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    for reason, names in kept.items():
        told = ", ".join(names[:SHOWN]) + (f", {len(names) - SHOWN} more" * (len(names) > SHOWN))
        console.print(f"bit for bit, without --step: {told} (each {reason})", markup=False)
    return code


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


def is_coded(path: Path) -> bool:
    """Whether `path` is a coded file, by its name or, whatever that is, by how it begins."""
    if path.suffix == ".tnc":
        return True
    if path.suffix in (".yaml", ".yml") or not path.is_file():
        return False
    from tersenet.codec.container.records import MAGIC

    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def show_listing(path: Path, *, json: bool) -> int:
    """Prints what a coded file holds: what lies where, by which coder, and what was done before."""
    from tersenet import codec

    if not path.is_file():
        raise FormatError(f"{path} does not exist: give a coded file.")
    listing = codec.Reader(path).listing
    model = listing.manifest.get("format") == "tersenet-model"
    manifest = whole(listing.manifest) if model else dict(listing.manifest)
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
        value = {
            "file": str(path),
            "file_bytes": listing.file_bytes,
            "manifest_bytes": listing.manifest_bytes,
            "tensors": rows,
            "manifest": manifest,
        }
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
    console = Console(soft_wrap=True, highlight=False)
    if listing.manifest_bytes:
        console.print(f"manifest: {listing.manifest_bytes:,} B")
    for line in _told(manifest) if model else ():
        console.print("".join(c if c.isprintable() else "\ufffd" for c in line), markup=False)
    return DONE


def _told(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What was done to a network, a step a line, with its edits below."""
    try:
        yield f"what was done to {_options(manifest['model'])}:"
        for number, step in enumerate(manifest["steps"], 1):
            yield f"{number}. {step['family']} {step['name']} ({_options(step['settings'])})"
            done = [
                f"{edit['kind']} {edit['site']}"
                + (f" {edit['before']} → {edit['after']}" if edit["after"] else "")
                for edit in step["edits"]
            ]
            more = [f"{len(done) - SHOWN} more"] if len(done) > SHOWN else []
            if done:
                yield f"   {', '.join(done[:SHOWN] + more)}"
    except (AttributeError, KeyError, TypeError) as error:
        raise FormatError(NO_MODEL) from error


def _options(settings: Mapping[str, Any]) -> str:
    """The options that say something, as JSON has them."""
    said = {name: value for name, value in settings.items() if value not in (None, [], {})}
    return ", ".join(
        f"{name} {json_module.dumps(value, ensure_ascii=False)}" for name, value in said.items()
    )
