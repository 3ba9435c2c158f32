"""Tucker-2 by tensorly-torch and by musco, in a process of its own.

    PYTHONPATH=DIR python benchmarks/decompose_peers.py < request.json

`decompose.py` starts it with the peers on the path; nothing of tersenet imports them. Each factors
the layers named at the ranks named, as its own documentation does it, and the network is written
as ONNX with the layers that the peer makes.
"""

import copy
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from tersenet.core.files import load_weights
from tersenet.export import to_onnx
from tersenet.models import MODELS


def by_tensorly_torch(conv: nn.Conv2d, name: str, ranks: tuple[int, int]) -> nn.Module:
    """A FactorizedConv that runs factor by factor."""
    del name
    peer = importlib.import_module("tltorch")
    reads, makes = ranks
    return peer.FactorizedConv.from_conv(
        conv,
        rank=(makes, reads, *conv.kernel_size),
        factorization="tucker",
        decompose_weights=True,
        implementation="factorized",
        fixed_rank_modes="spatial",
    )


def by_musco(conv: nn.Conv2d, name: str, ranks: tuple[int, int]) -> nn.Module:
    """Its three convolutions."""
    for gone, now in GONE.items():
        setattr(np, gone, now)
    peer = importlib.import_module("musco.pytorch.compressor.decompositions.tucker2")
    reads, makes = ranks
    found = peer.Tucker2DecomposedLayer(conv, name, "manual", ranks=[makes, reads])
    return found.new_layers


GONE: Final = {"float": float, "int": int, "complex": complex, "in1d": np.isin}
"""Names that NumPy dropped and musco uses."""
PEERS: Final[dict[str, tuple[str, Callable[[nn.Conv2d, str, tuple[int, int]], nn.Module]]]] = {
    "tensorly-torch": ("tltorch", by_tensorly_torch),
    "musco": ("musco", by_musco),
}
"""What is imported, and how it factors a layer."""


def main() -> None:
    """Factors the network of the request once by each peer, and says how it went."""
    request: dict[str, Any] = json.load(sys.stdin)
    ((key, options),) = request["model"].items()
    whole = MODELS[key](**options)
    load_weights(whole, Path(request["weights"]))
    example = (torch.zeros(2, *request["sample"]),)
    for peer, (package, factored) in PEERS.items():
        if importlib.util.find_spec(package) is None:
            continue
        model = copy.deepcopy(whole).eval()
        try:
            for name, ranks in request["ranks"].items():
                parent, _, own = name.rpartition(".")
                conv = model.get_submodule(name)
                assert isinstance(conv, nn.Conv2d)
                chain = factored(conv, name.replace(".", "-"), tuple(ranks))
                setattr(model.get_submodule(parent), own, chain.float())
            to_onnx(model.eval(), example, Path(request["folder"]) / f"{peer}.onnx")
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the peer's result)
            first = (str(error).splitlines() or [""])[0]
            print(f"{peer}: {type(error).__name__}: {first}", file=sys.stderr)


if __name__ == "__main__":
    main()
