"""Whole networks from their file: as exact as dense, in how much memory, how fast."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from convention import Figure
from format_races import in_turns
from pruned_layers import image_batches
from shipped_networks import layers, rounded_channels
from torch import nn

from tersenet.export import to_formats
from tersenet.formats import Network, load_network
from tersenet.measure import network_memory

__all__ = ["measure_network"]

BATCH = 8
"""Images of the process whose memory is read."""


def measure_network(
    name: str, model: nn.Module, turns: int, figures: list[Figure], notes: list[str]
) -> None:
    """Its file in the smallest formats against dense storage; 8 bits by channel if it has more."""
    if max(len(torch.unique(weight)) for weight in layers(model).values()) > 256:
        model, name = rounded_channels(model), f"{name}, 8 bits"
    ((images, _),) = image_batches("test", steps=1, batch=BATCH)
    with tempfile.TemporaryDirectory() as folder:
        files = {choose: Path(folder) / f"{choose}.tnn" for choose in ("smallest", "dense")}
        to_formats(model, (images,), files["smallest"], choose="smallest")
        to_formats(model, (images,), files["dense"], choose="dense")
        networks = {choose: load_network(path) for choose, path in files.items()}
        add_error(name, model, networks["smallest"], images, figures)
        add_memory(name, files, networks, figures, notes)
        one = images[:1].numpy()
        with torch.no_grad():
            samples = in_turns(
                {
                    "ours": lambda: networks["smallest"](one),
                    "dense": lambda: networks["dense"](one),
                    "PyTorch": lambda: model(images[:1]),
                },
                turns,
            )
        for peer, against in (("dense", "our own dense storage"), ("PyTorch", "PyTorch dense")):
            ratio = float(np.median(samples[peer] / samples["ours"]))
            ms = f"{1e3 * float(np.median(samples['ours'])):.3g} ms"
            label = f"{name}: one image against {peer}"
            figures.append(Figure(name=label, value=ratio, unit="×", against=against, detail=ms))


def add_error(
    name: str, model: nn.Module, network: Network, images: torch.Tensor, figures: list[Figure]
) -> None:
    """Adds the largest difference from PyTorch's outputs, as a share of the largest output."""
    with torch.no_grad():
        expected = model(images).numpy()
    error = np.abs(network(images.numpy()) - expected).max() / np.abs(expected).max()
    figures.append(
        Figure(
            name=f"{name}: largest difference",
            value=float(error),
            unit="of the largest output",
            against="PyTorch dense",
            target=1e-5,
            at_most=True,
        )
    )


def add_memory(
    name: str,
    files: dict[str, Path],
    networks: dict[str, Network],
    figures: list[Figure],
    notes: list[str],
) -> None:
    """Adds bytes of weights, and of the process that runs one batch, without an idle one's."""
    small, dense = (networks[choose].memory_bytes for choose in ("smallest", "dense"))
    kinds = [type(matrix).__name__ for matrix in networks["smallest"].matrices]
    figures.append(
        Figure(
            name=f"{name}: weights in memory",
            value=small / dense,
            unit="×",
            against="float32",
            detail=f"{small:,} of {dense:,} bytes",
        )
    )
    notes.append(f"{name}: {', '.join(f'{kinds.count(k)} {k}' for k in dict.fromkeys(kinds))}")
    peaks = {choose: network_memory(path, batch=BATCH) for choose, path in files.items()}
    idle = network_memory(None)
    counts = {key: one for key, one in {**peaks, "idle": idle}.items() if isinstance(one, int)}
    if len(counts) < 3:
        notes.append(f"{name}: memory of the process was not measured")
        return
    ours, theirs = ((counts[key] - counts["idle"]) / 1e6 for key in ("smallest", "dense"))
    idle_mb = counts["idle"] / 1e6
    figures.append(
        Figure(
            name=f"{name}: memory of the process over an idle one",
            value=ours,
            unit="MB",
            against="dense storage",
            detail=f"dense {theirs:.4g} MB; an idle one {idle_mb:.4g} MB; batch {BATCH}",
        )
    )
