"""The idx loader and the download: what is right is read, what is wrong is named."""

import gzip
import hashlib
import http.server
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tersenet.data import fashion_mnist
from tersenet.data.__main__ import main
from tersenet.errors import DataError

STEMS = {"train": 30, "t10k": 10}


def idx(array: np.ndarray) -> bytes:
    """The idx format, written from its definition: magic, sizes as big-endian, bytes."""
    return struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def contents(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A small data set in the same format, which `FILES` describes for the time of a test."""
    generator = np.random.default_rng(1)
    contents = {}
    for stem, count in STEMS.items():
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = generator.integers(0, 10, (count,), dtype=np.uint8)
        contents[f"{stem}-images-idx3-ubyte"] = idx(pixels)
        contents[f"{stem}-labels-idx1-ubyte"] = idx(labels)
    described = {
        name: (len(content), hashlib.sha256(content).hexdigest())
        for name, content in contents.items()
    }
    monkeypatch.setattr(fashion_mnist, "FILES", described)
    return contents


def pack(contents: dict[str, bytes], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
    return folder


def test_pixels_and_labels_are_those_of_the_file(
    contents: dict[str, bytes], tmp_path: Path
) -> None:
    images = fashion_mnist.load("train", pack(contents, tmp_path / "data"))
    raw = contents["train-images-idx3-ubyte"]
    assert images.pixels.shape == (30, 1, 28, 28)
    assert images.pixels.dtype == torch.uint8
    assert images.pixels[7, 0, 3, 5].item() == raw[16 + 7 * 784 + 3 * 28 + 5]
    assert images.labels.tolist() == list(contents["train-labels-idx1-ubyte"][8:])


def test_uncompressed_files_are_accepted(contents: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert fashion_mnist.find(tmp_path) == tmp_path
    assert len(fashion_mnist.load("test", tmp_path)) == 10


def test_a_recompressed_file_is_accepted(contents: dict[str, bytes], tmp_path: Path) -> None:
    pack(contents, tmp_path)
    name = "t10k-images-idx3-ubyte"
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(contents[name], compresslevel=1))
    assert len(fashion_mnist.load("test", tmp_path)) == 10


def test_a_missing_file_names_the_folder_and_the_remedy(
    contents: dict[str, bytes], tmp_path: Path
) -> None:
    pack(contents, tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=rf"not in {tmp_path}: run 'make data'"):
        fashion_mnist.load("test", tmp_path)


@pytest.mark.parametrize("left", [0, 5, 0.5, 0.99, -1])
def test_a_truncated_archive(contents: dict[str, bytes], tmp_path: Path, left: float) -> None:
    path = pack(contents, tmp_path) / "train-images-idx3-ubyte.gz"
    packed = path.read_bytes()
    count = int(left * len(packed)) if isinstance(left, float) else left % len(packed)
    path.write_bytes(packed[:count])
    with pytest.raises(DataError, match=rf"{path} (is truncated|holds 0 bytes)"):
        fashion_mnist.load("train", tmp_path)


def test_damage_inside_the_archive(contents: dict[str, bytes], tmp_path: Path) -> None:
    path = pack(contents, tmp_path) / "train-images-idx3-ubyte.gz"
    packed = bytearray(path.read_bytes())
    packed[len(packed) // 2] ^= 0xFF
    path.write_bytes(packed)
    with pytest.raises(DataError, match=rf"{path}"):
        fashion_mnist.load("train", tmp_path)


def change_a_pixel(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_a_pixel, "has SHA-256 .* where .* is due"),
        (lambda content: content[:-1], "holds .* bytes where .* are due"),
        (lambda content: content + b"\0", "holds .* bytes where .* are due"),
    ],
)
def test_whole_archives_of_the_wrong_bytes(
    contents: dict[str, bytes],
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
    message: str,
) -> None:
    name = "t10k-images-idx3-ubyte"
    pack(contents | {name: damage(contents[name])}, tmp_path)
    with pytest.raises(DataError, match=message):
        fashion_mnist.load("test", tmp_path)


def test_labels_where_images_are_due(
    contents: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The format's own magic number is checked too, whatever the checksums say."""
    wrong = struct.pack(">I", 0x0D03) + contents["t10k-images-idx3-ubyte"][4:]
    described = fashion_mnist.FILES | {
        "t10k-images-idx3-ubyte": (len(wrong), hashlib.sha256(wrong).hexdigest())
    }
    monkeypatch.setattr(fashion_mnist, "FILES", described)
    pack(contents | {"t10k-images-idx3-ubyte": wrong}, tmp_path)
    with pytest.raises(DataError, match="not an idx file of 3 dimensions"):
        fashion_mnist.load("test", tmp_path)


# ------------------------------------------------------------------ download


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; a name ending in .cut is sent shorter than promised."""

    def log_message(self, *args: object) -> None:  # type: ignore[override]
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.with_suffix(".cut").exists():
            super().do_GET()
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])


@pytest.fixture
def server(contents: dict[str, bytes], tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a server of the small data set, and the folder it serves."""
    folder = pack(contents, tmp_path / "served")
    handler = partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_address[1]}", folder
        served.shutdown()
        thread.join()


def test_download_fetches_all_four_files_once(server: tuple[str, Path], tmp_path: Path) -> None:
    url, served = server
    folder = fashion_mnist.download(tmp_path / "own", url=url)
    assert len(fashion_mnist.load("train", folder)) == 30
    shutil.rmtree(served)  # what is there is not fetched again
    assert fashion_mnist.download(tmp_path / "own", url=url) == folder


def test_download_repairs_a_damaged_file(server: tuple[str, Path], tmp_path: Path) -> None:
    folder = fashion_mnist.download(tmp_path / "own", url=server[0])
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"damaged")
    fashion_mnist.download(folder, url=server[0])
    assert len(fashion_mnist.load("test", folder)) == 10


@pytest.mark.parametrize("fault", ["bytes", "cut", "absent", "page"])
def test_a_bad_download_leaves_nothing_behind(
    server: tuple[str, Path], contents: dict[str, bytes], tmp_path: Path, fault: str
) -> None:
    url, served = server
    first = next(iter(contents))
    file = served / f"{first}.gz"
    match fault:
        case "bytes":
            file.write_bytes(gzip.compress(change_a_pixel(contents[first])))
        case "cut":
            file.with_suffix(".cut").touch()
        case "absent":
            file.unlink()
        case "page":
            file.write_bytes(b"<html>Please sign in</html>")
    with pytest.raises(DataError, match=first):
        fashion_mnist.download(tmp_path / "own", url=url)
    assert list((tmp_path / "own").iterdir()) == []


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot download .*: check the connection"):
        fashion_mnist.download(tmp_path, url="http://127.0.0.1:9")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"set \$TERSENET_DATA to one that can be written"):
        fashion_mnist.download(tmp_path / "file" / "data")


@pytest.mark.parametrize("whole", [True, False])
def test_the_command_downloads_what_is_missing(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    monkeypatch.setenv("TERSENET_DATA", str(tmp_path / "home"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "absent")
    monkeypatch.setattr(
        fashion_mnist,
        "download",
        partial(fashion_mnist.download, url=server[0] if whole else "http://127.0.0.1:9"),
    )
    assert main() == (0 if whole else 1)
    assert (tmp_path / "home" / "fashion-mnist" / "train-images-idx3-ubyte.gz").exists() is whole


# ------------------------------------------------------------------ the real data


def test_the_real_data_is_balanced_and_normalised(fashion_folder: Path) -> None:
    train = fashion_mnist.load("train", fashion_folder)
    test = fashion_mnist.load("test", fashion_folder)
    assert (len(train), len(test)) == (60_000, 10_000)
    assert torch.bincount(train.labels).tolist() == [6000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    normalised = train.normalised(train.pixels)
    assert abs(normalised.mean().item()) < 5e-4
    assert abs(normalised.std().item() - 1) < 5e-4
