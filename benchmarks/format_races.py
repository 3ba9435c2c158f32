"""Products in turns: our formats against their peers, their floor and each other."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import scipy.sparse
import torch
from convention import Figure
from numba import njit

from tersenet.formats import Dense, FastMatrix, Levels, Matrix, best_format, predicted_us
from tersenet.formats.choice import FAST
from tersenet.formats.fast.base import align

__all__ = [
    "add_best",
    "add_choice",
    "against_peers",
    "in_turns",
    "inputs",
    "measure_dense",
    "measure_sparse",
    "peers",
    "product",
]

Product = Callable[[], Any]

CACHE_BYTES: Final = 32 << 20
"""The last-level cache: dense float32 matrices above this have a target for the floor."""
FLUSH: Final = np.ones(64 << 20, np.uint64)[: 24 << 20]  # 192 MiB that push all else out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Race:
    """Who was fastest on either side, and by how much."""

    best: str
    rival: str
    ratio: float
    """The rival's time over ours."""
    ms: float
    """Ours."""


def measure_sparse(
    name: str, levels: Levels, turns: int, figures: list[Figure], *, target: float | None
) -> None:
    """Batch 1 against all peers and the floor, batch 64 against all peers, and the choice."""
    weights = levels.dense()
    for batch, due in ((1, target), (64, None)):
        x = inputs(weights.shape[1], batch)
        ours = candidates(levels, batch)
        race = against_peers(
            {key: product(matrix, x) for key, matrix in ours.items()}, peers(weights, x), turns
        )
        best = add_best(f"{name}, batch {batch}", race, figures, target=due)
        if batch == 1:
            add_floor(name, ours[best], x, turns, figures, due=target is not None)
        add_choice(f"{name}, batch {batch}", levels, batch, turns, figures)


def measure_dense(
    name: str, levels: Levels, turns: int, figures: list[Figure], *, target: float | None
) -> None:
    """Batch 1 of a matrix that is not sparse, against dense products."""
    weights = levels.dense()
    x = inputs(weights.shape[1], 1)
    ours = candidates(levels, 1)
    race = against_peers(
        {key: product(matrix, x) for key, matrix in ours.items()},
        peers(weights, x, dense_only=True),
        turns,
    )
    best = add_best(f"{name}, batch 1", race, figures, target=target)
    add_floor(name, ours[best], x, turns, figures, due=False)
    for batch in (1, 64):
        add_choice(f"{name}, batch {batch}", levels, batch, turns, figures)


def candidates(levels: Levels, batch: int) -> dict[str, FastMatrix]:
    """The two formats predicted fastest."""
    predicted = predicted_us(levels, batch)
    kinds = {kind.__name__: kind for kind in FAST}
    order = sorted((key for key in predicted if key in kinds), key=lambda key: predicted[key])
    return {key: kinds[key].encode(levels) for key in order[:2]}


def peers(weights: np.ndarray, x: np.ndarray, *, dense_only: bool = False) -> dict[str, Product]:
    """What others offer for the same product."""
    tensor, operand = torch.from_numpy(weights), torch.from_numpy(x)
    found: dict[str, Product] = {
        "NumPy dense": lambda: weights @ x,
        "PyTorch dense": lambda: tensor @ operand,
    }
    if dense_only:
        return found
    csr = scipy.sparse.csr_matrix(weights)
    bsr = csr.tobsr((4, 4))
    torch_csr = tensor.to_sparse_csr()
    columns = operand if operand.ndim == 2 else operand[:, None]
    torch_bsr = tensor.to_sparse_bsr((16, 16))
    return found | {
        "SciPy CSR": lambda: csr @ x,
        "SciPy BSR 4×4": lambda: bsr @ x,
        "PyTorch CSR": lambda: torch_csr @ operand,
        "PyTorch BSR 16×16": lambda: torch_bsr @ columns,
    }


def against_peers(ours: Mapping[str, Product], others: Mapping[str, Product], turns: int) -> Race:
    """Our fastest format against the fastest peer."""
    samples = in_turns({**ours, **others}, turns)
    best = min(ours, key=lambda key: float(np.median(samples[key])))
    rival = min(others, key=lambda key: float(np.median(samples[key])))
    ratio = float(np.median(samples[rival] / samples[best]))
    return Race(best=best, rival=rival, ratio=ratio, ms=float(np.median(samples[best])) * 1e3)


def in_turns(products: Mapping[str, Product], turns: int) -> dict[str, np.ndarray]:
    """Seconds of each product in each turn: the median of some calls, caches warm for it."""
    samples: dict[str, list[float]] = {key: [] for key in products}
    calls = {}
    for key, call in products.items():
        call()  # compiles
        calls[key] = int(np.clip(2e-3 / max(timed(call), 1e-7), 2, 40))
    for _ in range(turns):
        for key, call in products.items():
            call()
            samples[key].append(float(np.median([timed(call) for _ in range(calls[key])])))
    return {key: np.array(values) for key, values in samples.items()}


def timed(call: Product) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def add_best(name: str, race: Race, figures: list[Figure], *, target: float | None) -> str:
    """Adds the speed-up of our fastest format; returns its name."""
    figures.append(
        Figure(
            name=f"{name}: speed-up",
            value=race.ratio,
            unit="×",
            against=race.rival,
            target=target,
            detail=f"{race.best}, {race.ms:.4g} ms",
        )
    )
    return race.best


def add_floor(
    name: str, matrix: FastMatrix, x: np.ndarray, turns: int, figures: list[Figure], *, due: bool
) -> None:
    """Adds the product's time over reading its bytes; if `due`, large matrices have a target.

    Copies of the matrix that fill the last-level cache three times are gone through one after
    the other, as a network goes through its layers: each comes from memory. Beside it stands a
    single product after other data filled all caches, so that even the interpreter's own
    code has to be fetched.
    """
    count = 1 + 3 * CACHE_BYTES // matrix.memory_bytes
    layers = [copied(matrix) for _ in range(count)]
    streams = [align(np.ones(max(1, matrix.stream_bytes // 8), np.uint64)) for _ in layers]
    passes = in_turns(
        {
            "products": lambda: [layer @ x for layer in layers],
            "reads": lambda: [read_all(stream) for stream in streams],
        },
        turns,
    )
    alone = []
    for _ in range(turns):
        read_all(FLUSH)
        ours = timed(lambda: matrix @ x)
        read_all(FLUSH)
        alone.append(ours / timed(lambda: read_all(streams[0])))
    large = 4 * matrix.shape[0] * matrix.shape[1] > CACHE_BYTES
    bits = 8 * matrix.stream_bytes / (matrix.shape[0] * matrix.shape[1])
    reads = float(np.median(passes["reads"])) / count
    figures += [
        Figure(
            name=f"{name}: time over the floor",
            value=float(np.median(passes["products"] / passes["reads"])),
            unit="×",
            against="reading its bytes from memory",
            target=2.0 if due and large else None,
            at_most=True,
            detail=f"{type(matrix).__name__}, {bits:.2f} bits an element,"
            f" {matrix.stream_bytes / reads / 1e9:.0f} GB/s",
        ),
        Figure(
            name=f"{name}: alone, with cold code, over the floor",
            value=float(np.median(alone)),
            unit="×",
            against="reading its bytes from memory",
        ),
    ]


def copied(matrix: FastMatrix) -> FastMatrix:
    """The same matrix in memory of its own."""
    fields = {field.name: getattr(matrix, field.name) for field in dataclasses.fields(matrix)}  # type: ignore[arg-type]
    arrays = {key: align(one) for key, one in fields.items() if isinstance(one, np.ndarray)}
    return type(matrix)(**fields | arrays)


def add_choice(name: str, levels: Levels, batch: int, turns: int, figures: list[Figure]) -> None:
    """Adds the chosen format's time over dense storage's, measured anew; and the prediction's."""
    choice = best_format(levels, batch)
    predicted = best_format(levels, batch, measure=False)
    x = inputs(levels.shape[1], batch)
    samples = in_turns(
        {
            "chosen": product(choice.matrix, x),
            "predicted": product(predicted.matrix, x),
            "dense": product(Dense.encode(levels), x),
        },
        turns,
    )
    over = {key: float(np.median(samples[key] / samples["dense"])) for key in samples}
    figures += [
        Figure(
            name=f"{name}: chosen format's time",
            value=over["chosen"],
            unit="×",
            against="dense storage",
            target=1.05,
            at_most=True,
            detail=choice.name,
        ),
        Figure(
            name=f"{name}: predicted format's time",
            value=over["predicted"],
            unit="×",
            against="dense storage",
            detail=f"{predicted.name}, not measured before",
        ),
    ]


def product(matrix: Matrix, x: np.ndarray) -> Product:
    """The call that is timed."""
    return lambda: matrix @ x


def inputs(columns: int, batch: int) -> np.ndarray:
    """Activations after a ReLU: half of them zero."""
    x = np.random.default_rng(0).standard_normal((columns, batch)).astype(np.float32)
    x = np.maximum(x, 0)
    return x[:, 0].copy() if batch == 1 else x


@njit(cache=True)
def read_all(words):
    """The floor: every word is read once and added."""
    total = np.uint64(0)
    for at in range(len(words)):
        total += words[at]
    return total
