"""Fashion-MNIST: 60,000 training and 10,000 test images of 28x28 grey pixels, 10 classes.

Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
Learning Algorithms", 2017, arXiv:1708.07747. Files are in LeCun's idx format.
"""

import gzip
import hashlib
import http.client
import logging
import os
import struct
import urllib.request
import zlib
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch

from tersenet.core.files import write_atomically
from tersenet.data.images import Images
from tersenet.errors import DataError

__all__ = ["FILES", "download", "find", "load"]

# SHA-256 of the *decompressed* idx content: distributors recompress the files.
FILES: Final[dict[str, tuple[int, str]]] = {
    "train-images-idx3-ubyte": (
        47_040_016,
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    "train-labels-idx1-ubyte": (
        60_008,
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    "t10k-images-idx3-ubyte": (
        7_840_016,
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    "t10k-labels-idx1-ubyte": (
        10_008,
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
PUBLIC_URL: Final = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
DEBIAN_FOLDER: Final = Path("/usr/share/datasets/fashion-mnist")
HOME: Final = "TERSENET_DATA"

# Mean and standard deviation of the training pixels, scaled to [0, 1].
MEAN: Final = 0.2860
STD: Final = 0.3530

_log = logging.getLogger(__name__)


def user_folder() -> Path:
    """Returns the folder that `download` fills: $TERSENET_DATA, else ~/.cache/tersenet."""
    root = os.environ.get(HOME)
    return (Path(root) if root else Path.home() / ".cache" / "tersenet") / "fashion-mnist"


def find(folder: Path | None = None) -> Path:
    """Returns the folder that holds the four files.

    Looks in `folder` alone when it is given, else in $TERSENET_DATA and in the folder of
    the Debian package `dataset-fashion-mnist`.

    Raises:
        DataError: if no folder holds all four.
    """
    candidates = [folder] if folder else [user_folder(), DEBIAN_FOLDER]
    for candidate in candidates:
        if all(_path(candidate, name) for name in FILES):
            return candidate
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise DataError(
        f"Fashion-MNIST is not in {looked}: run 'make data', install the Debian package "
        f"dataset-fashion-mnist, or set ${HOME}."
    )


def load(split: Literal["train", "test"], folder: Path | None = None) -> Images:
    """Returns one split, checked against its known size and SHA-256.

    Raises:
        DataError: if a file is missing, truncated or has the wrong checksum.
    """
    root = find(folder)
    stem = "train" if split == "train" else "t10k"
    pixels = _read(root, f"{stem}-images-idx3-ubyte")
    labels = _read(root, f"{stem}-labels-idx1-ubyte")
    count = len(labels) - 8
    return Images(
        pixels=torch.from_numpy(np.frombuffer(pixels, np.uint8, offset=16).copy()).view(
            count, 1, 28, 28
        ),
        labels=torch.from_numpy(np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)),
        mean=(MEAN,),
        std=(STD,),
        name=f"Fashion-MNIST {split}",
    )


def download(folder: Path | None = None, *, url: str = PUBLIC_URL) -> Path:
    """Downloads what is missing or damaged, checks it, and returns the folder.

    Each file is checked before it takes its name, so an interrupted download leaves nothing
    that `load` would accept.

    Raises:
        DataError: if the server cannot be reached or sends something else.
        RunError: if the folder is not writable or the disk is full.
    """
    folder = folder or user_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot make the folder {folder} ({error.strerror}): set ${HOME} to one that can be "
            "written."
        ) from error
    for name in FILES:
        target = folder / f"{name}.gz"
        if _whole(folder, name):
            continue
        packed = _fetch(f"{url}/{name}.gz")
        _check(_unpack(packed, target), name, target)
        write_atomically(target, packed)
        _log.info("%s: %s bytes, checksum right", target, f"{len(packed):,}")
    return folder


def _fetch(address: str) -> bytes:
    _log.info("downloading %s", address)
    try:
        with urllib.request.urlopen(address, timeout=60) as response:  # noqa: S310 - checksummed
            return response.read()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DataError(
            f"cannot download {address} ({error}): check the connection, or install "
            "the Debian package dataset-fashion-mnist."
        ) from error


def _whole(folder: Path, name: str) -> bool:
    try:
        _read(folder, name)
    except DataError:
        return False
    return True


def _path(folder: Path, name: str) -> Path | None:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    return None


def _read(folder: Path, name: str) -> bytes:
    path = _path(folder, name)
    if path is None:
        raise DataError(f"{folder / name}.gz is missing: run 'make data'.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): make it readable.") from error
    content = _unpack(content, path) if path.suffix == ".gz" else content
    _check(content, name, path)
    return content


def _unpack(packed: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is truncated or not gzip ({error}): fetch it again.") from error


def _check(content: bytes, name: str, path: Path) -> None:
    size, digest = FILES[name]
    if len(content) != size:
        raise DataError(
            f"{path} holds {len(content)} bytes where {size} are due: it is truncated or another "
            "file; fetch it again."
        )
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise DataError(
            f"{path} has SHA-256 {found[:12]}… where {digest[:12]}… is due: it is damaged or "
            "another data set; fetch it again."
        )
    dimensions = 3 if "images" in name else 1
    magic = struct.unpack(">I", content[:4])[0]
    if magic != 0x0800 + dimensions:
        raise DataError(f"{path} is not an idx file of {dimensions} dimensions; fetch it again.")
