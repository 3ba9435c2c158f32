"""The energy of one inference, from the processor's own counters or not at all."""

from pathlib import Path

from tersenet.core.types import Deployment, Energy, Unmeasured
from tersenet.errors import MeasureError
from tersenet.measure.process import TIMEOUT_SECONDS, ask, check
from tersenet.measure.rapl import POWERCAP, counters

__all__ = ["energy_per_inference"]


def energy_per_inference(
    path: Path,
    *,
    deployment: Deployment,
    seconds: float = 2.0,
    root: Path = POWERCAP,
    timeout: float = TIMEOUT_SECONDS,
) -> Energy | Unmeasured:
    """Returns the joules of one inference at batch 1, or why they cannot be measured.

    The counters are of whole processors and their memory: idle cores and other programs are
    counted too, so it is an upper bound that is only tight on a quiet machine. Nothing is ever
    estimated from a power rating.

    Args:
        path: an ONNX file.
        deployment: runtime and threads.
        seconds: to repeat the inference for; less than the counters need to wrap (minutes).
        root: where the kernel shows the counters.
        timeout: in seconds, for all.

    Raises:
        MeasureError: if the file or the runtime is missing or the threads outnumber the cores.
            When only the measurement fails, the reason is returned instead.
    """
    check({"own": path}, deployment)
    try:
        counters(root)
        answer = ask(
            "energy",
            {"own": path},
            deployment=deployment,
            timeout=timeout,
            seconds=seconds,
            warmup=3,
            seed=0,
            root=str(root),
        )
    except MeasureError as error:
        return Unmeasured(str(error))
    if answer["joules"] <= 0:
        return Unmeasured(f"the energy counters in {root} did not move in {seconds:g} s")
    return Energy(
        joules=answer["joules"] / answer["inferences"],
        source=f"RAPL {' + '.join(answer['counters'])}, whole machine, "
        f"mean of {answer['inferences']} inferences",
    )
