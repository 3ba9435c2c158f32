"""Weights files to coded files and back: safetensors, state dicts, ONNX, saved models."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from tersenet import codec
from tersenet.codec import Effort, Quantised
from tersenet.codec.elements import DTYPES
from tersenet.codec.iso import decode_nnc
from tersenet.core.files import load_tensors, save_tensors, write_atomically, write_json
from tersenet.core.manifest import whole
from tersenet.encode.coded import edits_of
from tersenet.encode.file_levels import levels_of
from tersenet.errors import FormatError, WeightsError

__all__ = ["decode_file", "encode_file", "read_base", "read_file"]

GRAPH: Final = "\0onnx"
"""Name of the tensor that holds an ONNX file without its weights; no weight has it."""

_OWN_TYPES: Final = {  # of PyTorch, which NumPy knows by ml_dtypes alone
    torch.bfloat16: (torch.int16, "bfloat16"),
    torch.float8_e4m3fn: (torch.int8, "float8_e4m3fn"),
    torch.float8_e5m2: (torch.int8, "float8_e5m2"),
}


def encode_file(
    source: Path,
    target: Path,
    *,
    step: float | None = None,
    effort: Effort = "normal",
    base: Path | None = None,
    exact: Callable[[str, str], None] = lambda name, reason: None,
) -> codec.Listing:
    """Codes a weights file; returns what the coded file holds.

    Args:
        source: .safetensors, .onnx, a state dict (.pt, .pth), or the folder of a saved model.
        target: the coded file.
        step: None keeps every tensor bit for bit. Otherwise matrices and kernels of floats
            become levels of the trellis, this many standard deviations apart.
        effort: as `codec.encode`.
        base: weights, in a file or coded, that the coded file is an update to: only the change
            is written, and it decodes only beside them.
        exact: told the name of each tensor that stays bit for bit although there is a step, and
            why.

    Raises:
        WeightsError: if the source cannot be read, or holds no such tensors, or the base none
            of the same name, shape and type.
        ValueError: if the step is not positive and finite.
    """
    if step is not None and not 0 < step < float("inf"):
        raise ValueError(f"step is {step}: it must be above 0 and finite, as 0.3 is.")
    tensors, manifest = read_file(source)
    under = {} if base is None else read_base(base)
    if base is not None and not any(
        _same_kind(array, under.get(k)) for k, array in tensors.items()
    ):
        raise WeightsError(
            f"{base} has no tensor in common with {source}, by name, shape and type: give the "
            "weights that these were trained from with base=…, or leave it out."
        )
    coded: dict[str, np.ndarray | Quantised] = dict(tensors)
    for name, array in tensors.items():
        if step is not None and name != GRAPH:
            found = levels_of(array, step, under.get(name))
            if isinstance(found, str):
                exact(name, found)
            else:
                coded[name] = found
    try:
        data = codec.encode(coded, manifest=manifest, effort=effort, base=under)
    except ValueError as error:
        raise WeightsError(f"{source} cannot be coded: {error}") from error
    write_atomically(target, data)
    return codec.inspect(data)


def read_base(path: Path) -> dict[str, np.ndarray]:
    """Reads what an update is made or read against: any weights file, or a coded one.

    Raises:
        WeightsError, FormatError: as `read_file` and `codec.decode`.
    """
    return codec.decode(_bytes(path)) if path.suffix == ".tnc" else read_file(path)[0]


def _same_kind(array: np.ndarray, other: np.ndarray | None) -> bool:
    return other is not None and (array.shape, array.dtype) == (other.shape, other.dtype)


def decode_file(source: Path, target: Path, *, base: Path | None = None) -> dict[str, np.ndarray]:
    """Decodes a coded file, ours or NNC's, to .safetensors, .onnx or the folder of a model.

    An update needs the `base` that it was made for.

    Raises:
        FormatError: if the source is damaged, does not hold what the target needs, or is no
            update and yet given a base.
    """
    data = _bytes(source)
    listing = codec.inspect(data) if data[:4] == b"\x89TNC" else None
    if base is not None and not (listing and any(entry.relative for entry in listing.entries)):
        raise FormatError(f"{source} is no update to {base}, it is whole: leave out base=….")
    if listing is not None:
        tensors = codec.decode(data, base=None if base is None else read_base(base))
    else:
        tensors = decode_nnc(data)
    graph = tensors.pop(GRAPH, None)
    if target.suffix == ".onnx":
        if graph is None:
            raise FormatError(f"{source} was not coded from an ONNX file: decode to .safetensors.")
        write_atomically(target, _with_weights(graph, tensors, source).SerializeToString())
    elif target.suffix == ".safetensors":
        save_tensors(target, {name: _to_torch(tensor) for name, tensor in tensors.items()})
    elif target.suffix:
        raise FormatError(f"{target} is neither .safetensors, nor .onnx, nor a folder.")
    elif listing is None or listing.manifest.get("format") != "tersenet-model":
        raise FormatError(f"{source} holds tensors and no model: decode to .safetensors.")
    else:
        manifest = whole(listing.manifest, edits_of(listing))
        target.mkdir(parents=True, exist_ok=True)
        save_tensors(
            target / "model.safetensors",
            {name: _to_torch(tensor) for name, tensor in tensors.items()},
        )
        write_json(target / "manifest.json", manifest)
    return tensors


def read_file(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Reads a weights file: its tensors by name, and the manifest of a saved model.

    Raises:
        WeightsError: if it is missing, damaged, or of no known kind.
    """
    if path.is_dir():
        manifest = json.loads(_bytes(path / "manifest.json"))
        return _read_safetensors(path / "model.safetensors"), manifest
    readers: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
        ".safetensors": _read_safetensors,
        ".onnx": _read_onnx,
        ".pt": _read_state,
        ".pth": _read_state,
    }
    if path.suffix not in readers:
        raise WeightsError(
            f"{path} is of no kind that is read: give {', '.join(readers)} or a folder."
        )
    _bytes(path, most=1)
    return readers[path.suffix](path), None


def _bytes(path: Path, most: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}).") from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    return {name: _to_numpy(name, tensor) for name, tensor in load_tensors(path)[0].items()}


def _read_state(path: Path) -> dict[str, np.ndarray]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"{path} is no state dict that can be loaded without executing it "
            f"({type(error).__name__}): save the network's state_dict()."
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(
        isinstance(tensor, Tensor) for tensor in state.values()
    ):
        raise WeightsError(f"{path} holds other things than tensors: save the state_dict() alone.")
    return {str(name): _to_numpy(str(name), tensor) for name, tensor in state.items()}


def _read_onnx(path: Path) -> dict[str, np.ndarray]:
    try:
        model = onnx.load(path)
    except Exception as error:
        raise WeightsError(
            f"{path} is damaged or no ONNX file ({type(error).__name__})."
        ) from error
    tensors = {}
    for weight in model.graph.initializer:
        array = numpy_helper.to_array(weight)
        if array.dtype.name in DTYPES:
            tensors[weight.name] = np.array(array)
            dims, kind, name = list(weight.dims), weight.data_type, weight.name
            weight.Clear()
            weight.name, weight.data_type = name, kind
            weight.dims.extend(dims)
    return tensors | {GRAPH: np.frombuffer(model.SerializeToString(), np.uint8)}


def _with_weights(
    graph: np.ndarray, tensors: Mapping[str, np.ndarray], source: Path
) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(graph.tobytes())
    except Exception as error:
        raise FormatError(f"{source}: its ONNX graph is damaged.") from error
    for weight in model.graph.initializer:
        array = tensors.get(weight.name)
        if array is not None:
            if list(array.shape) != list(weight.dims):
                raise FormatError(f"{source}: '{weight.name}' has another shape in its graph.")
            weight.raw_data = np.ascontiguousarray(array).tobytes()
    return model


def _to_numpy(name: str, tensor: Tensor) -> np.ndarray:
    try:
        tensor = tensor.detach().cpu().contiguous()
        if tensor.dtype not in _OWN_TYPES:
            return tensor.numpy()
    except (RuntimeError, TypeError) as error:  # sparse, quantised, or of a rare type
        raise WeightsError(
            f"'{name}' cannot be coded: it is {tensor.layout} of {tensor.dtype}; save it dense, in "
            "a type that NumPy has."
        ) from error
    import ml_dtypes

    bits, kind = _OWN_TYPES[tensor.dtype]
    return tensor.view(bits).numpy().view(getattr(ml_dtypes, kind))


def _to_torch(array: np.ndarray) -> Tensor:
    for dtype, (bits, name) in _OWN_TYPES.items():
        if array.dtype.name == name:
            plain = np.int16 if bits == torch.int16 else np.int8
            return torch.from_numpy(np.array(array).view(plain)).view(dtype)
    return torch.from_numpy(np.array(array))
