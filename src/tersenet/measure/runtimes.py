"""The runtimes a deployed file can run on, behind one callable.

Only NumPy and the standard library are imported here; a runtime is imported when it is first
asked for. So a process that runs a file holds the runtime and nothing else of ours.
"""

import abc
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Final, final

import numpy as np

from tersenet.errors import MeasureError

__all__ = [
    "RUNTIMES",
    "Input",
    "OnnxRuntime",
    "OpenVino",
    "Runtime",
    "Session",
    "installed",
    "open_session",
    "runtime_named",
]


@final
@dataclass(frozen=True)
class Input:
    """One input of a file."""

    name: str
    shape: tuple[int | None, ...]
    """None where the size is free; the first dimension is the sample."""
    dtype: np.dtype


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """A loaded file, ready to run: arrays in, arrays out, the sample first."""

    path: Path
    runtime: str
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    run: Callable[[dict[str, np.ndarray]], list[np.ndarray]]
    """The runtime's own call on inputs by name: what is timed, unchecked."""

    def __call__(
        self, arrays: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        """Returns the outputs, in the order of `outputs`.

        Args:
            arrays: inputs by name, or in the order of `inputs`, or the only one.

        Raises:
            MeasureError: if the file takes other inputs, or its runtime fails on these.
        """
        feeds = self.feeds(arrays)
        try:
            return self.run(feeds)
        except Exception as error:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
            raise MeasureError(
                f"{self.path} does not run on {self.runtime} with {shapes} "
                f"({_first_line(error)}): give inputs of the shapes it was exported for."
            ) from error

    def feeds(
        self, arrays: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Returns the inputs by name. Raises as calling does."""
        if isinstance(arrays, np.ndarray):
            arrays = (arrays,)
        names = [one.name for one in self.inputs]
        if not isinstance(arrays, Mapping):
            if len(arrays) != len(names):
                raise MeasureError(
                    f"{self.path} takes {len(names)} inputs ({', '.join(names)}), not "
                    f"{len(arrays)}: give one array for each."
                )
            arrays = dict(zip(names, arrays, strict=True))
        if set(arrays) != set(names):
            raise MeasureError(
                f"{self.path} takes the inputs {', '.join(names)}, not {', '.join(arrays)}: "
                "name them as the file does."
            )
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    def random_feeds(self, *, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Returns standard normal inputs of `batch` samples; zeros and ones for integers.

        Raises:
            MeasureError: if the file's batch is fixed at another size, or another dimension
                is free.
        """
        generator = np.random.default_rng(seed)
        return {one.name: self._random(one, batch, generator) for one in self.inputs}

    def _random(self, one: Input, batch: int, generator: np.random.Generator) -> np.ndarray:
        if not one.shape:
            raise MeasureError(
                f"input '{one.name}' of {self.path} is a scalar and has no sample dimension: "
                "export the file with the batch as its first dimension."
            )
        if one.shape[0] not in (None, batch):
            raise MeasureError(
                f"input '{one.name}' of {self.path} has its batch fixed at {one.shape[0]}: "
                f"measure it at that batch, not {batch}, or export it with a free one."
            )
        sizes = [size for size in one.shape[1:] if size is not None]
        if len(sizes) < len(one.shape) - 1:
            raise MeasureError(
                f"input '{one.name}' of {self.path} has free sizes beside the batch: export it "
                "with these fixed, so that every measurement is of the same work."
            )
        shape = (batch, *sizes)
        if one.dtype in (np.float32, np.float64):
            return generator.standard_normal(shape, one.dtype)
        if one.dtype.kind == "f":
            return generator.standard_normal(shape, np.float32).astype(one.dtype)
        return generator.integers(0, 2, shape).astype(one.dtype)


class Runtime(abc.ABC):
    """One way to run an ONNX file."""

    name: ClassVar[str]
    package: ClassVar[str]
    """What to import."""
    install: ClassVar[str]
    """What to give to pip."""

    def installed(self) -> bool:
        """Whether the runtime can be imported here."""
        return importlib.util.find_spec(self.package) is not None

    def version(self) -> str:
        """Returns the installed version."""
        return version(self.package)

    @abc.abstractmethod
    def load(
        self, path: Path, *, threads: int, optimise: bool = True, flush_denormals: bool = False
    ) -> Session:
        """Loads a file; raises whatever the runtime raises."""


@final
class OnnxRuntime(Runtime):
    """Microsoft's ONNX Runtime, on its CPU provider."""

    name = "onnxruntime"
    package = "onnxruntime"
    install = "onnxruntime"

    def load(
        self, path: Path, *, threads: int, optimise: bool = True, flush_denormals: bool = False
    ) -> Session:
        """Loads a file for one caller at a time: no spinning threads, no parallel branches."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3  # errors, which are raised as well
        # Spinning threads would take the cores that the other file is being timed on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        if flush_denormals:
            options.add_session_config_entry("session.set_denormal_as_zero", "1")
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = (
            levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
        )
        session: Any = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_outputs()]
        return Session(
            path=path,
            runtime=self.name,
            inputs=tuple(
                Input(one.name, tuple(map(_fixed, one.shape)), _ORT_TYPES[one.type])
                for one in session.get_inputs()
            ),
            outputs=tuple(names),
            run=lambda feeds: session.run(names, feeds),
        )


@final
class OpenVino(Runtime):
    """Intel's OpenVINO, on its CPU plug-in, which reads the same ONNX files."""

    name = "openvino"
    package = "openvino"
    install = "tersenet[openvino]"

    def load(
        self, path: Path, *, threads: int, optimise: bool = True, flush_denormals: bool = False
    ) -> Session:
        """Loads a file for one caller at a time, in the precision that the file states."""
        if not optimise:
            raise ValueError("OpenVINO cannot run a graph unfused, use onnxruntime for that")
        import openvino

        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            # Cores are chosen by whoever measures; OpenVINO would pin to the first ones.
            "ENABLE_CPU_PINNING": False,
            # Its default is bfloat16 where the processor has it: not what the file says.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if flush_denormals:
            settings["CPU_DENORMALS_OPTIMIZATION"] = True
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
        request = compiled.create_infer_request()
        outputs = range(len(compiled.outputs))

        def run(feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            # Inputs are read in place and outputs copied, as ONNX Runtime does.
            found = request.infer(feeds, share_inputs=True)
            return [found[index] for index in outputs]

        return Session(
            path=path,
            runtime=self.name,
            inputs=tuple(
                Input(
                    one.get_any_name(),
                    tuple(
                        size.get_length() if size.is_static else None
                        for size in one.get_partial_shape()
                    ),
                    np.dtype(one.get_element_type().to_dtype()),
                )
                for one in compiled.inputs
            ),
            outputs=tuple(one.get_any_name() for one in compiled.outputs),
            run=run,
        )


RUNTIMES: Final[dict[str, Runtime]] = {one.name: one for one in (OnnxRuntime(), OpenVino())}
"""Runtimes by the name that recipes and commands use."""

_ORT_TYPES: Final = {
    f"tensor({name})": np.dtype(kind)
    for name, kind in {
        "float": "float32", "double": "float64", "float16": "float16", "bool": "bool",
        "int8": "int8", "int16": "int16", "int32": "int32", "int64": "int64",
        "uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "uint64": "uint64",
    }.items()
}  # fmt: skip


def installed() -> list[str]:
    """Returns the names of the runtimes that can be used here."""
    return [name for name, one in RUNTIMES.items() if one.installed()]


def runtime_named(name: str) -> Runtime:
    """Returns a runtime that can be used.

    Raises:
        MeasureError: if there is none of this name, or it is not installed.
    """
    if name not in RUNTIMES:
        raise MeasureError(f"there is no runtime '{name}': choose one of {', '.join(RUNTIMES)}.")
    runtime = RUNTIMES[name]
    if not runtime.installed():
        raise MeasureError(f"runtime '{name}' is not installed: pip install {runtime.install}")
    return runtime


def open_session(
    path: Path,
    *,
    runtime: str = "onnxruntime",
    threads: int = 1,
    optimise: bool = True,
    flush_denormals: bool = False,
) -> Session:
    """Loads a file on a runtime.

    Args:
        path: an ONNX file.
        runtime: a key of `RUNTIMES`.
        threads: that one inference may use.
        optimise: False runs the graph node by node as it is written, unfused.
        flush_denormals: treat subnormal numbers as zero, which also changes how the calling
            thread computes from then on: for processes that do nothing else.

    Raises:
        MeasureError: if the runtime or the file is missing, or the file cannot be loaded.
    """
    chosen = runtime_named(runtime)
    if threads < 1:
        raise MeasureError(f"{threads} threads cannot run {path}: give at least 1.")
    if not path.is_file():
        raise MeasureError(f"{path} does not exist: give the path of an ONNX file.")
    try:
        return chosen.load(
            path, threads=threads, optimise=optimise, flush_denormals=flush_denormals
        )
    except Exception as error:
        raise MeasureError(
            f"{runtime} cannot load {path} ({_first_line(error)}): export it again, or choose "
            "another runtime."
        ) from error


def _fixed(size: int | str | None) -> int | None:
    return size if isinstance(size, int) and size > 0 else None


def _first_line(error: Exception) -> str:
    # ONNX Runtime leads with its error code; OpenVINO with where in its own source it was, and
    # ends with general advice.
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    first = (told or lines or [type(error).__name__])[0]
    return first.partition(" Please check")[0].rstrip(".: ")
