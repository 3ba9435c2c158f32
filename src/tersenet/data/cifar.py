"""CIFAR-10 and CIFAR-100: 50,000 training and 10,000 test images of 32x32 colour pixels.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. Read from the folders
that the archives unpack to, the binary version or the Python one. The latter are pickles, which
can execute code: they are read by a machine that knows a handful of harmless names, and their
arrays are rebuilt here from bytes.
"""

import io
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, final

import numpy as np
import torch

from tersenet.data.images import Images, statistics
from tersenet.errors import DataError

__all__ = ["load"]

PIXELS: Final = 3 * 32 * 32
"""Bytes of an image: red, green and blue planes, each by rows."""


@final
@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where a data set's files lie, and how their records look."""

    python: str
    binary: str
    files: dict[str, tuple[str, ...]]
    """The files of each split, by its name in the Python version; the binary one adds .bin."""
    label: bytes
    """Its key in the pickles."""
    labels: int
    """Bytes of labels before each image of the binary version; the last is the one asked for."""
    classes: int


_LAYOUTS: Final = {
    10: _Layout(
        python="cifar-10-batches-py",
        binary="cifar-10-batches-bin",
        files={
            "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
            "test": ("test_batch",),
        },
        label=b"labels",
        labels=1,
        classes=10,
    ),
    100: _Layout(
        python="cifar-100-python",
        binary="cifar-100-binary",
        files={"train": ("train",), "test": ("test",)},
        label=b"fine_labels",
        labels=2,
        classes=100,
    ),
}


def load(classes: Literal[10, 100], folder: Path) -> tuple[Images, Images]:
    """Returns the training and the test images, normalised by the training images' statistics.

    Args:
        classes: 10 or 100 (the fine labels).
        folder: what the archive was unpacked in, or to.

    Raises:
        DataError: if a file is missing, truncated, not of this data set, or a pickle that asks
            for more than arrays.
    """
    layout = _LAYOUTS[classes]
    splits: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split, names in layout.files.items():
        parts = [_read(layout, folder, name) for name in names]
        splits[split] = (
            np.concatenate([pixels for pixels, _ in parts]),
            np.concatenate([labels for _, labels in parts]),
        )
    mean, std = statistics(torch.from_numpy(splits["train"][0]))
    train, test = (
        Images(
            pixels=torch.from_numpy(pixels),
            labels=torch.from_numpy(labels),
            mean=mean,
            std=std,
            name=f"CIFAR-{classes} {split}",
        )
        for split, (pixels, labels) in splits.items()
    )
    return train, test


def _read(layout: _Layout, folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    looked = []
    for below, suffix in ((layout.binary, ".bin"), (layout.python, "")):
        for root in (folder / below, folder):
            path = root / f"{name}{suffix}"
            looked.append(str(path))
            if path.is_file():
                read = _binary if suffix else _read_pickles
                pixels, labels = read(path, layout)
                if len(labels) and not 0 <= labels.min() <= labels.max() < layout.classes:
                    raise DataError(
                        f"{path} has labels of {layout.classes} classes or more: it is damaged "
                        "or another data set; fetch it again."
                    )
                return pixels, labels
    raise DataError(
        f"CIFAR-{layout.classes} is not in {folder}: unpack its archive there (looked for "
        f"{', '.join(looked)})."
    )


def _binary(path: Path, layout: _Layout) -> tuple[np.ndarray, np.ndarray]:
    content, record = path.read_bytes(), layout.labels + PIXELS
    if not content or len(content) % record:
        raise DataError(
            f"{path} holds {len(content)} bytes, no multiple of the {record} of an image: it is "
            "truncated or another file; fetch it again."
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = rows[:, layout.labels - 1].astype(np.int64)
    return rows[:, layout.labels :].reshape(-1, 3, 32, 32).copy(), labels


def _read_pickles(path: Path, layout: _Layout) -> tuple[np.ndarray, np.ndarray]:
    try:
        found = _Reader(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        pixels, labels = found[b"data"], found[layout.label]
    except DataError as error:
        raise DataError(f"{path} {error}") from None
    except Exception as error:  # a hostile or torn pickle raises whatever it likes
        raise DataError(
            f"{path} is no CIFAR-{layout.classes} batch ({type(error).__name__}): fetch it again."
        ) from error
    whole = isinstance(pixels, _Array) and isinstance(labels, list)
    if (
        not whole
        or pixels.shape != (len(labels), PIXELS)
        or not all(isinstance(label, int) for label in labels)
    ):
        raise DataError(
            f"{path} does not hold one label and {PIXELS:,} pixels for each image: it is damaged "
            "or another data set; fetch it again."
        )
    return pixels.bytes.reshape(-1, 3, 32, 32), np.array(labels, np.int64)


@final
class _Array:
    """Stands for numpy.ndarray while a pickle is read: takes the state, rebuilds bytes alone."""

    shape: tuple[int, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, content = state
        if not isinstance(kind, _Kind) or kind.name not in ("u1", b"u1") or by_columns:
            raise DataError("holds an array of something else than bytes in rows: fetch it again.")
        content = content.encode("latin1") if isinstance(content, str) else content
        if not isinstance(content, bytes) or math.prod(shape) != len(content):
            raise DataError("holds an array that is cut short: fetch it again.")
        self.shape = tuple(shape)
        self.bytes = np.frombuffer(content, np.uint8).reshape(shape).copy()


@final
class _Kind:
    """Stands for numpy.dtype."""

    def __init__(self, name: object, *_: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Byte order and the like say nothing of single bytes."""


def _rebuilt(*_: object) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """Stands for _codecs.encode, by which newer pickles of old protocols write bytes."""
    if encoding != "latin1":
        raise DataError("names an encoding that arrays do not need: it may be hostile.")
    return text.encode("latin1")


@final
class _Reader(pickle.Unpickler):
    """Reads pickles of dictionaries, lists, texts, numbers and arrays of bytes; nothing else."""

    KNOWN: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Kind,
        ("numpy.core.multiarray", "_reconstruct"): _rebuilt,
        ("numpy._core.multiarray", "_reconstruct"): _rebuilt,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module_name: str, global_name: str) -> Any:
        """Returns the stand-in of a harmless name."""
        if (module_name, global_name) not in self.KNOWN:
            raise DataError(
                f"asks for {module_name}.{global_name}, which no array needs: it may be hostile, "
                "nothing of it was executed; fetch it again from its authors."
            )
        return self.KNOWN[module_name, global_name]
