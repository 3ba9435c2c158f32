"""Files are whole or absent, and weights that cannot be used say why."""

import errno
import os
import pickle
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from tersenet.core import files
from tersenet.core.files import load_tensors, load_weights, save_tensors, write_atomically
from tersenet.errors import RunError, WeightsError
from tersenet.models import resnet

OLD, NEW = b"old" * 1000, b"new" * 1000


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(OLD)
    write_atomically(target, NEW)
    assert target.read_bytes() == NEW
    assert names(tmp_path) == ["file"]
    assert target.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_a_full_disk_at_any_call_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    target = tmp_path / "file"
    target.write_bytes(OLD)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os if call == "fsync" else Path, call, full)
    with pytest.raises(RunError, match=r"cannot write .*file \(No space left on device\)"):
        write_atomically(target, NEW)
    assert target.read_bytes() == OLD
    assert names(tmp_path) == ["file"]


def test_a_write_cut_short_by_the_system_leaves_the_old_file(tmp_path: Path) -> None:
    """A limit on file size stops a real write half-way, as a quota does."""
    target = tmp_path / "file"
    target.write_bytes(OLD)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(RunError, match="File too large"):
            write_atomically(target, b"x" * 1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert target.read_bytes() == OLD
    assert names(tmp_path) == ["file"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"absent/file \(No such file"):
        write_atomically(tmp_path / "absent" / "file", NEW)


def test_a_folder_in_place_of_the_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(RunError, match="cannot write"):
        write_atomically(tmp_path / "file", NEW)
    assert names(tmp_path) == ["file"]


def test_neither_a_reader_nor_a_kill_ever_finds_half_a_file(tmp_path: Path) -> None:
    """A child writes one file over and over until it is killed; every reading must be whole."""
    target = tmp_path / "file"
    loop = (
        "import sys, pathlib, itertools\n"
        "from tersenet.core.files import write_atomically\n"
        "for i in itertools.count():\n"
        "    write_atomically(pathlib.Path(sys.argv[1]), bytes([i % 256]) * 200_000)\n"
    )
    child = [sys.executable, "-c", loop, str(target)]
    seen = set()
    with_child = subprocess.Popen(child)
    try:
        while not target.exists():
            time.sleep(0.02)
        for _ in range(200):
            content = target.read_bytes()
            assert len(content) == 200_000
            assert len(set(content)) == 1
            seen.add(content[0])
    finally:
        with_child.kill()
        with_child.wait()
    content = target.read_bytes()
    assert len(content) == 200_000
    assert len(set(content)) == 1
    assert len(seen) > 1, "the child wrote once only: nothing was put to the test"


def test_a_rename_is_made_to_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is synced before the rename, the folder after it."""
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content")
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        order.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    write_atomically(tmp_path / "file", NEW)
    assert order == ["content", "rename", "folder"]


def test_json_refuses_what_json_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "file.json", {"p50_ms": float("nan")})
    assert names(tmp_path) == []


# ------------------------------------------------------------------ tensors


def test_tensors_return_bit_for_bit_with_their_metadata(tmp_path: Path) -> None:
    tensors = {
        "view": torch.randn(4, 6).t(),
        "shared": torch.arange(5).expand(3, 5),
        "empty": torch.zeros(0, 2),
        "scalar": torch.tensor(True),
    }
    save_tensors(tmp_path / "t", tensors, {"done": "7"})
    found, metadata = load_tensors(tmp_path / "t")
    assert metadata == {"done": "7"}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no\.safetensors does not exist"):
        load_tensors(tmp_path / "no.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet.safetensors"
    save_tensors(path, resnet(depth=8).state_dict())
    return path


@pytest.mark.parametrize("left", [0, 1, 7, 8, 9, 500, 0.1, 0.5, 0.999, -1])
def test_truncated_weights(tmp_path: Path, whole: Path, left: float) -> None:
    content = whole.read_bytes()
    count = int(left * len(content)) if isinstance(left, float) else left % len(content)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(content[:count])
    with pytest.raises(WeightsError, match=r"cut\.safetensors is truncated or not safetensors"):
        load_tensors(cut)


class Bomb:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
def test_a_pickle_is_refused_unread(tmp_path: Path, form: str) -> None:
    path, mark = tmp_path / "model.pth", tmp_path / "executed"
    content = {"weight": torch.zeros(2), "bomb": Bomb(mark)}
    if form == "plain":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(WeightsError, match=r"is a pickle, which can execute code"):
        load_tensors(path)
    assert not mark.exists()


def test_weights_of_another_architecture_name_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "deep.safetensors"
    save_tensors(path, resnet(depth=14).state_dict())
    model = resnet(depth=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"another architecture: 36 unknown \(stage1\.1\.bn1"):
        load_weights(model, path)
    save_tensors(path, model.state_dict())
    with pytest.raises(WeightsError, match=r"36 missing \(stage1\.1\.bn1\.bias, .*, …\)"):
        load_weights(resnet(depth=14), path)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_weights_of_another_width_name_the_shapes(tmp_path: Path) -> None:
    path = tmp_path / "grey.safetensors"
    save_tensors(path, resnet(depth=8, in_channels=1).state_dict())
    with pytest.raises(
        WeightsError,
        match=r"1 of other shape \(conv1\.weight is \[16, 1, 3, 3\], not \[16, 3, 3, 3\]\)",
    ):
        load_weights(resnet(depth=8, in_channels=3), path)


def test_weights_load(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    save_tensors(path, source.state_dict())
    load_weights(target, path)
    assert torch.equal(source.weight, target.weight)


@pytest.mark.parametrize("length", [0x80, 0x4B50])
def test_a_length_that_looks_like_a_pickle_is_no_pickle(tmp_path: Path, length: int) -> None:
    # The header's length comes first: its low bytes can equal the marks of pickle and zip.
    path = tmp_path / "weights.safetensors"
    save_tensors(path, {"a": torch.ones(2)})
    content = path.read_bytes()
    short = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + short].ljust(length)
    path.write_bytes(length.to_bytes(8, "little") + header + content[8 + short :])
    assert path.read_bytes()[:1] == bytes([length & 0xFF])
    tensors, _ = load_tensors(path)
    assert torch.equal(tensors["a"], torch.ones(2))


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff"])
def test_what_was_kept_is_read_back_and_a_foreign_file_is_nothing(tmp_path: Path, content: bytes):
    path = tmp_path / "times.json"
    assert files.read_kept(None) == files.read_kept(path) == {}
    files.write_json(path, {"conv": [1.5]})
    assert files.read_kept(path) == {"conv": [1.5]}
    path.write_bytes(content)
    assert files.read_kept(path) == {}
