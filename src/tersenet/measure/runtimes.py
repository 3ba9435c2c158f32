"""The runtimes a deployed file can run on, behind one callable.

Only NumPy and the standard library are imported here; a runtime is imported when it is first
asked for. So a process that runs a file holds the runtime and nothing else of ours.
"""

import abc
import importlib
import importlib.util
from pathlib import Path
from typing import Any, ClassVar, Final, final

import numpy as np

from tersenet.core.parts import Parts
from tersenet.errors import MeasureError
from tersenet.measure.session import Input, Session, first_line

__all__ = [
    "RUNTIMES",
    "OnnxRuntime",
    "OpenVino",
    "Runtime",
    "installed",
    "open_session",
    "runtime_named",
]


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
        """Returns the installed version, under whatever name it was installed."""
        return str(importlib.import_module(self.package).__version__)

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
        names = [output.name for output in session.get_outputs()]
        return Session(
            path=path,
            runtime=self.name,
            inputs=tuple(
                Input(tensor.name, tuple(map(_fixed_size, tensor.shape)), _ORT_TYPES[tensor.type])
                for tensor in session.get_inputs()
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
            # Nor does the file say to round what layers of stored weights read to 8 bits; without
            # VNNI that gives outputs of no rows (2026.4).
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
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
                    tensor.get_any_name(),
                    tuple(
                        size.get_length() if size.is_static else None
                        for size in tensor.get_partial_shape()
                    ),
                    np.dtype(tensor.get_element_type().to_dtype()),
                )
                for tensor in compiled.inputs
            ),
            outputs=tuple(tensor.get_any_name() for tensor in compiled.outputs),
            run=run,
        )


RUNTIMES: Final[Parts[Runtime]] = Parts(
    "runtime", package="tersenet.measure.runtimes", plugins="tersenet.runtimes"
)
"""Runtimes by the name that recipes and commands use."""

for _runtime in (OnnxRuntime(), OpenVino()):
    RUNTIMES.add(_runtime.name, _runtime)

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
    return [name for name, runtime in RUNTIMES.items() if runtime.installed()]


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
            f"{runtime} cannot load {path} ({first_line(error)}): export it again, or choose "
            "another runtime."
        ) from error


def _fixed_size(size: int | str | None) -> int | None:
    return size if isinstance(size, int) and size > 0 else None
