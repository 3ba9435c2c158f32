"""Is unstructured sparsity slower without an accelerator?

A deck's claim after Liu et al., "Rethinking the Value of Network Pruning", 2018, arXiv:1810.05270:
weights cut one by one make a network smaller on paper and no faster. Here the same layer is timed
as dense, dense with its zeros in place, in compressed rows of two libraries, and in the format
that `tersenet.formats` chooses, in turns, on one thread.
"""

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from torch.nn import functional

from tersenet.core.findings import Findings, LineChart, Series, Table, Verdict
from tersenet.core.types import Tick
from tersenet.errors import MeasureError
from tersenet.formats import Dense, Levels, Matrix, Network, NetworkStep, best_format
from tersenet.formats.network.operations import Convolution, Linear, Operation
from tersenet.measure import describe_device, interleave
from tersenet.measure.statistics import ratio
from tersenet.study.folder import open_study
from tersenet.study.one_thread import one_thread

__all__ = ["LAYERS", "Layer", "measure", "unstructured_speed", "verdicts"]

Point = Mapping[str, Any]

ZEROS: Final = (0.30, 0.60, 0.90, 0.95, 0.99)
BATCHES: Final = (1, 8, 64)
VALUES: Final = 31
"""Of the weights that are kept: 5 bits, zero among them."""
DENSE, MASKED, OURS = "dense", "dense with zeros", "our formats"


@final
@dataclass(frozen=True, kw_only=True)
class Layer:
    """A linear layer, or a convolution of odd `kernel` that keeps an image's size."""

    name: str
    outputs: int
    inputs: int
    kernel: int = 0
    """0 is a linear layer."""
    pixels: int = 1


LAYERS: Final = (
    Layer(name="linear 1024×1024", outputs=1024, inputs=1024),
    Layer(name="linear 4096×4096", outputs=4096, inputs=4096),
    Layer(name="convolution 64→64, 3×3 at 14×14", outputs=64, inputs=64, kernel=3, pixels=14),
)


def unstructured_speed(
    *,
    folder: Path,
    tick: Tick,
    layers: Sequence[Layer] = LAYERS,
    zeros: Sequence[float] = ZEROS,
    batches: Sequence[int] = BATCHES,
    seconds: float = 0.5,
) -> Findings:
    """Times every layer at every sparsity and batch; each point is kept as soon as it is there.

    Args:
        folder: Of the study; goes on with what it holds.
        tick: Told what is measured, its number, and of how many.
        layers: What is timed.
        zeros: Shares of weights that are zero.
        batches: Samples of one product.
        seconds: For each candidate of a point.

    Raises:
        MeasureError: If `seconds` is no time.
        RunError: If the folder holds another study, or cannot be written.
    """
    if not seconds > 0:
        raise MeasureError(f"seconds is {seconds:g}, and a product takes time: give 0.25 or more.")
    plan = [(layer, share, batch) for layer in layers for share in zeros for batch in batches]
    settings = {
        "layers": [asdict(layer) for layer in layers],
        "zeros": list(zeros),
        "batches": list(batches),
        "seconds": seconds,
    }
    points = []
    with (
        open_study(folder, name="unstructured-speed", settings=settings) as study,
        one_thread() as call,
    ):
        for number, (layer, share, batch) in enumerate(plan):
            key = f"{layer.name}, {100 * share:g} % zeros, batch {batch}"
            tick(key, number, len(plan))
            found = study.point(key, partial(call, measure, layer, share, batch, seconds))
            points.append({"layer": layer.name, "zeros": share, "batch": batch, **found})
    return _findings(points, seconds)


def measure(layer: Layer, zeros: float, batch: int, seconds: float) -> dict[str, Any]:
    """Times one layer's candidates in turns: medians in ms, and times faster than dense."""
    torch.set_num_threads(1)
    calls, formats = candidates(layer, zeros, batch)
    rounds = interleave(calls, iterations=20, seconds=seconds, warmup=3)
    slices = rounds.slices_ms
    return {
        "format": formats,
        "ms": {name: float(np.median(rounds.samples_ms(name))) for name in calls},
        "speedup": {name: list(ratio(slices[DENSE], slices[name])) for name in calls},
    }


def candidates(layer: Layer, zeros: float, batch: int) -> tuple[dict[str, Callable[[], Any]], str]:
    """What is timed, by name, and the format that was chosen."""
    rng = np.random.default_rng(0)
    columns = layer.inputs * max(1, layer.kernel) ** 2
    dense = rng.standard_normal((layer.outputs, columns)).astype(np.float32)
    sparse = pruned(dense, zeros)
    image = (layer.inputs, layer.pixels, layer.pixels) if layer.kernel else (layer.inputs,)
    x = np.maximum(rng.standard_normal((batch, *image)), 0).astype(np.float32)
    levels = Levels.of(sparse)
    matrix = best_format(levels, batch * layer.pixels**2).matrix
    network = Network(image, (NetworkStep(operation=_operation(layer, matrix), reads=(0,)),))
    tensor = torch.from_numpy(x)
    calls: dict[str, Callable[[], Any]] = {
        # Copies, as PyTorch allocates weights: NumPy's may or may not lie in huge pages, and that
        # alone is worth a tenth of the time.
        DENSE: _dense(layer, torch.from_numpy(dense).clone(), tensor),
        MASKED: _dense(layer, torch.from_numpy(sparse).clone(), tensor),
        OURS: lambda: network(x),
    }
    if torch.backends.mkl.is_available():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR", category=UserWarning)
            rows = torch.from_numpy(sparse).to_sparse_csr()
        calls["PyTorch CSR"] = lambda: rows @ _columns(layer, tensor)
    if importlib.util.find_spec("scipy"):
        from scipy.sparse import csr_matrix

        held = csr_matrix(sparse)
        calls["SciPy CSR"] = lambda: held @ _columns(layer, tensor).numpy()
    name = "dense" if isinstance(matrix, Dense) else type(matrix).__name__
    return calls, name


def pruned(dense: np.ndarray, zeros: float) -> np.ndarray:
    """The smallest weights cut, the others rounded to 30 values beside zero."""
    sizes = np.abs(dense)
    kept = sizes > np.quantile(sizes, zeros)
    half = VALUES // 2
    step = np.float32(sizes.max() / half)
    levels = np.clip(np.rint(dense / step), -half, half)
    levels = np.where(levels == 0, np.sign(dense), levels)  # what is kept does not join the zeros
    return (levels * step * kept).astype(np.float32)


def _operation(layer: Layer, matrix: Matrix) -> Operation:
    if not layer.kernel:
        return Linear(matrix=matrix)
    kernel, padding = layer.kernel, layer.kernel // 2
    return Convolution(matrix=matrix, kernel=(kernel, kernel), padding=(padding, padding))


def _dense(layer: Layer, weight: torch.Tensor, x: torch.Tensor) -> Callable[[], Any]:
    if not layer.kernel:
        return lambda: functional.linear(x, weight)
    shaped = weight.view(layer.outputs, layer.inputs, layer.kernel, layer.kernel)
    return lambda: functional.conv2d(x, shaped, padding=layer.kernel // 2)


def _columns(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """What a sparse matrix multiplies: samples, or patches, as columns."""
    if not layer.kernel:
        return x.T if len(x) > 1 else x.view(-1, 1)
    patches = functional.unfold(x, layer.kernel, padding=layer.kernel // 2)
    return patches.transpose(0, 1).reshape(patches.shape[1], -1)


def _findings(points: Sequence[Point], seconds: float) -> Findings:
    device = describe_device()
    names = list(points[0]["ms"])
    rows = tuple(
        (
            *(point["layer"], 100 * point["zeros"], point["batch"], point["format"]),
            *(point["ms"][name] for name in names),
            *(point["speedup"][name][0] for name in names[1:]),
        )
        for point in points
    )
    columns = (
        *("layer", "zeros, %", "batch", "our format"),
        *(f"{name}, ms" for name in names),
        *(f"{name}, times faster" for name in names[1:]),
    )
    return Findings(
        name="unstructured-speed",
        question="Is unstructured sparsity slower without an accelerator?",
        verdicts=verdicts(points),
        charts=tuple(_charts(points, names[1:])),
        tables=(Table(name="points", title="Every point", columns=columns, rows=rows),),
        conditions={
            "device": device.cpu,
            "threads": "1",
            "timing": f"in turns, {seconds:g} s each; ratios by round, with 95 % intervals",
            "weights": "normal, the smallest cut, the others rounded to 30 values (our formats "
            "need few values; the time of the others does not depend on them)",
            "inputs": "normal, negative ones zero",
            "PyTorch": str(torch.__version__),
        },
        notes=(
            "Sparse rows multiply patches, and laying these out is timed with them.",
            "'dense' among our formats is our own dense product: of patches, in a convolution.",
        ),
    )


def _charts(points: Sequence[Point], names: Sequence[str]) -> Iterator[LineChart]:
    for layer, batch in dict.fromkeys((point["layer"], point["batch"]) for point in points):
        own = [one for one in points if (one["layer"], one["batch"]) == (layer, batch)]
        series = []
        for name in names:
            middle, low, high = zip(*(one["speedup"][name] for one in own), strict=True)
            zeros = tuple(100 * one["zeros"] for one in own)
            series.append(Series(name=name, x=zeros, y=middle, low=low, high=high))
        yield LineChart(
            title=f"{layer}, batch {batch}",
            x_label="zeros, %",
            y_label="times faster than dense",
            series=tuple(series),
            y_log=True,
        )


def verdicts(points: Sequence[Point]) -> tuple[Verdict, ...]:
    """The claim in three parts: zeros alone, compressed rows, and sparsity at all."""
    return (_zeros_alone(points), _compressed_rows(points), _any_format(points))


def _zeros_alone(points: Sequence[Point]) -> Verdict:
    """Outside where a whole interval lies beyond 10 %."""
    ratios = [point["speedup"][MASKED] for point in points]
    outside = sum(low > 1.1 or high < 0.9 for _, low, high in ratios)
    inside = all(low >= 0.9 and high <= 1.1 for _, low, high in ratios)
    middle = [one[0] for one in ratios]
    return Verdict(
        claim="Zeros left in a dense layer make it neither faster nor slower, within 10 %.",
        found="does not hold" if outside else "holds" if inside else "undecided",
        evidence=f"Between {min(middle):.2f} and {max(middle):.2f} times as fast in"
        f" {len(ratios)} points; in {outside} surely more than 10 % apart.",
    )


def _compressed_rows(points: Sequence[Point]) -> Verdict:
    """Slower where the best library's whole interval lies below 1."""
    few = [point for point in points if point["zeros"] <= 0.6]
    slower = [point for point in few if _best(point, "CSR")[2] < 1]
    faster = [point for point in few if _best(point, "CSR")[1] > 1]
    from_where = _breaks_even(points, "CSR")
    return Verdict(
        claim="In compressed rows, unstructured sparsity of up to 60 % is slower than dense.",
        found="undecided"
        if not few or not (slower or faster)
        else "holds"
        if len(slower) == len(few)
        else "does not hold"
        if faster
        else "undecided",
        evidence=f"The faster library is slower than dense in {len(slower)} of {len(few)} points of"
        f" up to 60 % zeros and faster in {len(faster)}. Faster than dense from: {from_where}.",
    )


def _any_format(points: Sequence[Point]) -> Verdict:
    faster = [point for point in points if point["speedup"][OURS][1] > 1]
    slower = [point for point in points if point["speedup"][OURS][2] < 0.95]
    return Verdict(
        claim="Unstructured sparsity is slower than dense without an accelerator.",
        found="does not hold" if faster else "holds" if len(slower) == len(points) else "undecided",
        evidence=f"In the format chosen for it, a layer is faster than dense in {len(faster)} of"
        f" {len(points)} points, and more than 5 % slower in {len(slower)}. Faster from:"
        f" {_breaks_even(points, OURS)}.",
    )


def _best(point: Point, kind: str) -> Sequence[float]:
    """(ratio, low, high) of the fastest candidate whose name has `kind` in it."""
    return max((one for name, one in point["speedup"].items() if kind in name), key=lambda o: o[0])


def _breaks_even(points: Sequence[Point], kind: str) -> str:
    """By layer, then batch: the fewest zeros from which on all points are surely faster."""
    told: dict[str, dict[str, list[str]]] = {}
    for layer, batch in dict.fromkeys((point["layer"], point["batch"]) for point in points):
        own = [one for one in points if (one["layer"], one["batch"]) == (layer, batch)]
        least = None
        for point in sorted(own, key=lambda one: -one["zeros"]):
            if _best(point, kind)[1] <= 1:
                break
            least = point["zeros"]
        where = "nowhere" if least is None else f"{100 * least:g} % zeros"
        told.setdefault(layer, {}).setdefault(where, []).append(str(batch))
    return "; ".join(
        ", ".join(f"{where} at batch {'/'.join(own)}" for where, own in found.items())
        + f" ({layer})"
        for layer, found in told.items()
    )
