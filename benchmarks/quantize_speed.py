"""How much faster than eager PyTorch the int8 file of ResNet-20 is, on both runtimes.

    python benchmarks/quantize_speed.py
    python benchmarks/quantize_speed.py --nncf /path/to/its/python
    python benchmarks/quantize_speed.py --compile

Eager PyTorch in float, the float file and our int8 file in ONNX Runtime and in OpenVINO, and what
NNCF makes of the same float file with the same 512 calibration images, if a Python that has it is
given: all take turns in one process, on one thread. Each ratio is eager's time over theirs, with
its 95 % interval; the top-1 of the two int8 files, on all 10,000 test images in OpenVINO, stands
beside them. With `--compile` the same two networks as `torch.compile` makes them, weights frozen,
take their turns, too.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import copy
import functools
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from convention import Figure, arguments, publish
from quantize import METHODS, accuracy, size, subject
from torch import Tensor, nn
from torch._inductor import config
from torch.fx import GraphModule

from tersenet.core.types import Subject, Workbench
from tersenet.export import compiled, to_onnx
from tersenet.measure import open_session
from tersenet.measure.rounds import interleave
from tersenet.measure.statistics import ratio

PEER: Final = Path(__file__).with_name("quantize_peer.py")
EAGER: Final = "eager PyTorch"
TARGETS: Final = {("our int8 in onnxruntime", 64): 1.96, ("our int8 in openvino", 64): 2.8}
"""What the fastest peer was measured to reach against eager, on a processor without VNNI."""


def main() -> None:
    """Runs the comparison."""
    parser = arguments(__doc__)
    parser.add_argument("--nncf", metavar="PYTHON", help="a Python that has NNCF and OpenVINO")
    parser.add_argument("--compile", action="store_true", help="torch.compile of both as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    whole = subject("ResNet-20", quick=options.quick)
    with tempfile.TemporaryDirectory() as folder:
        files, graph = written(whole, Path(folder), options.nncf)
        own = graph if options.compile else None
        figures = [
            figure
            for batch in ((64,) if options.quick else (1, 8, 64))
            for figure in faster(files, whole.model, own, batch=batch, quick=options.quick)
        ]
        figures += [
            Figure(
                name=f"ResNet-20, {name}",
                value=accuracy(path, whole, runtime=runtime),
                unit="% top-1",
                against=None,
                detail=f"{size(path):,} B",
            )
            for name, (runtime, path) in files.items()
            if runtime == "openvino"
        ]
    publish("Quantised against eager", figures, json_file=options.json)


def written(
    whole: Subject, folder: Path, nncf: str | None
) -> tuple[dict[str, tuple[str, Path]], GraphModule]:
    """The files, by what they are, each with its runtime; and the graph that ours is of."""
    floats, ours = folder / "float.onnx", folder / "ours.onnx"
    to_onnx(whole.model, whole.example, floats)
    method = METHODS["W8A8 per channel"]
    plan = method.plan(whole, Workbench())
    graph, _ = method.apply(copy.deepcopy(whole.model), plan, whole, Workbench())
    to_onnx(graph, whole.example, ours)
    files = {
        "float in onnxruntime": ("onnxruntime", floats),
        "our int8 in onnxruntime": ("onnxruntime", ours),
        "float in openvino": ("openvino", floats),
        "our int8 in openvino": ("openvino", ours),
    }
    if nncf:
        samples, theirs = folder / "samples.npy", folder / "theirs.xml"
        np.save(samples, torch.cat([x for x, _ in whole.calibration])[:512].numpy())
        subprocess.run([nncf, PEER, floats, theirs, samples], check=True)
        files["NNCF's int8 in openvino"] = ("openvino", theirs)
    return files, graph


def faster(
    files: dict[str, tuple[str, Path]],
    model: nn.Module,
    graph: GraphModule | None,
    *,
    batch: int,
    quick: bool,
) -> list[Figure]:
    """Times of eager over those of each file and, where given, of the compiled, all in turns."""
    x = torch.randn(batch, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    calls: dict[str, Callable[[], object]] = {EAGER: functools.partial(eager, model.eval(), x)}
    for name, (runtime, path) in files.items():
        session = open_session(path, runtime=runtime, threads=1)
        calls[name] = functools.partial(session, x.numpy())
    if graph is not None:
        torch.compiler.reset()  # else the second batch size is compiled for any
        calls["float in torch.compile"] = functools.partial(frozen, torch.compile(model), x)
        calls["our int8 in torch.compile"] = functools.partial(compiled(graph), x)
    rounds = interleave(
        calls, iterations=20 if quick else 200, seconds=0.2 if quick else 4.0, warmup=3
    )
    figures = []
    for name in list(calls)[1:]:
        middle, low, high = ratio(rounds.slices_ms[EAGER], rounds.slices_ms[name])
        figures.append(
            Figure(
                name=f"ResNet-20, batch {batch}: {name}",
                value=middle,
                unit="x",
                against=EAGER,
                target=TARGETS.get((name, batch)),
                detail=f"95 %: {low:.2f} to {high:.2f}",
            )
        )
        publish("so far", figures[-1:], json_file=None)
    return figures


@torch.inference_mode()
def eager(model: nn.Module, x: Tensor) -> Tensor:
    """One call as PyTorch runs it."""
    return model(x)


@torch.inference_mode()
def frozen(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """One call of what torch.compile made, the weights being constants as they are in a file."""
    with config.patch(freezing=True):
        return model(x)


if __name__ == "__main__":
    main()
