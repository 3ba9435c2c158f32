"""Networks through tools, each pair in a process of its own: python -m zoo [NAME TOOL].

Reads lines of 'NAME TOOL', for each forks a child that has the libraries already, and prints
lines of JSON: what stage begins, the result, that it ended. The parent is
`structure_coverage.py`.
"""

import argparse
import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

os.environ["OMP_NUM_THREADS"] = "1"
warnings.simplefilter("ignore")

import torch  # noqa: E402 (after the number of threads is set)

import zoo  # noqa: E402
from zoo import Network, check  # noqa: E402
from zoo.vision import declare  # noqa: E402


class OutOfTime(BaseException):
    """Raised in the middle of a tool; no `except Exception` of its own may swallow it."""


def main() -> None:
    """Runs one pair and prints its row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pair", nargs="*", help="a network and a tool; without, read from lines")
    parser.add_argument("--limit", type=float, default=60, help="seconds of CPU for pruning")
    parser.add_argument("--share", type=float, default=0.4, help="of the units to remove")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.pair:
        one(options.pair[0], options.pair[1], options)
        return
    for library in ("tersenet.prune", "torchvision", "timm", "transformers", "torch_pruning"):
        with contextlib.suppress(ImportError):
            declare()
            importlib.import_module(library)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            name, tool = line.split()
            one(name, tool, options)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        say(stage="ended", signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)


def one(name: str, tool: str, options: argparse.Namespace) -> None:
    """Prints what becomes of a pair."""
    # A last resort against code that holds on to the interpreter.
    most = int(4 * options.limit + 240)
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))
    signal.alarm(5 * most)
    say(stage="building")
    try:
        network = zoo.build(name)
    except Exception as error:  # noqa: BLE001 (another release of a library, say)
        say(stage="not built", result="not tried", why=_what(error))
        return
    count = sum(one.numel() for one in network.model.parameters())
    say(stage="pruning", params=count)
    tools = {"tersenet": _tersenet, "torch-pruning": _torch_pruning}
    torch.manual_seed(1)
    row = tools[tool](name, network, options)
    say(stage="done", params=count, **row)


def say(**facts: Any) -> None:
    """Prints a line for the parent."""
    sys.__stdout__.write(json.dumps(facts) + "\n")  # pyright: ignore[reportOptionalMemberAccess]
    sys.__stdout__.flush()  # pyright: ignore[reportOptionalMemberAccess]


@contextlib.contextmanager
def timed(row: dict[str, Any], limit: float) -> Iterator[None]:
    """Notes the seconds of CPU in `row`; raises OutOfTime beyond the limit."""

    def stop(*_: object) -> NoReturn:
        raise OutOfTime

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, limit, 1)
    begin = time.process_time()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        row["seconds"] = round(time.process_time() - begin, 2)


def _tersenet(name: str, network: Network, options: argparse.Namespace) -> dict[str, Any]:
    from tersenet.errors import StructureError
    from zoo import by_tersenet

    row: dict[str, Any] = {}
    model, example = network.model, network.inputs(2)
    try:
        with timed(row, options.limit):
            smaller, done, told = by_tersenet.prune(model, example, share=options.share)
    except OutOfTime:
        return {**row, "result": "timeout"}
    except StructureError as error:
        return {**row, "result": "refused", "why": str(error)}
    except Exception as error:  # noqa: BLE001 (any other is what is being counted)
        return {**row, "result": "crash", "why": _what(error), "trace": _trace()}
    row |= told
    survivors = by_tersenet.survivors(model, done[1])
    row |= _judged(network, smaller, survivors)
    if row["result"] == "exact":
        try:
            inputs = network.inputs(3)
            loaded = by_tersenet.reload(zoo.build(name).model, smaller, done, example)
            if check.difference(check.run(loaded, inputs), check.run(smaller, inputs)) > 1e-6:
                row |= {"result": "wrong", "why": "loaded from its file it answers differently"}
        except Exception as error:  # noqa: BLE001
            why = f"cannot be loaded from its file: {_what(error)}"
            row |= {"result": "crash", "why": why, "trace": _trace()}
    return row


def _torch_pruning(_: str, network: Network, options: argparse.Namespace) -> dict[str, Any]:
    from zoo import by_torch_pruning

    rows: list[dict[str, Any]] = []
    for use in by_torch_pruning.USES:
        torch.manual_seed(1)
        row: dict[str, Any] = {"route": use}
        rows.append(row)
        try:
            with timed(row, options.limit):
                found = by_torch_pruning.prune(
                    network.model, network.inputs(2), share=options.share, use=use
                )
        except OutOfTime:
            row["result"] = "timeout"
            continue
        except Exception as error:  # noqa: BLE001
            row |= {"result": "crash", "why": _what(error)}
            continue
        if found is None:  # no attention to be told about
            rows.pop()
            continue
        smaller, survivors = found
        if survivors:
            row |= _judged(network, smaller, survivors)
        else:
            row |= {"result": "refused", "why": "nothing was removed"}
        if row["result"] == "exact":
            break
    order = ("exact", "refused", "wrong", "crash", "timeout")
    return min(rows, key=lambda one: order.index(one["result"]))


def _judged(
    network: Network, smaller: torch.nn.Module, survivors: check.Survivors
) -> dict[str, Any]:
    """Compares outputs; both tools are judged by this alone."""
    whole = sum(one.numel() for one in network.model.parameters())
    left = sum(one.numel() for one in smaller.parameters())
    row: dict[str, Any] = {"removed": 1 - left / whole}
    try:
        verdict = check.compare(network.model, smaller, survivors, network.inputs)
    except Exception as error:  # noqa: BLE001
        return {**row, "result": "crash", "why": f"does not run: {_what(error)}"}
    row |= {"error": verdict.error, "effect": verdict.effect, "tolerance": verdict.tolerance}
    row["reference"] = verdict.reference
    if verdict.exact:
        return {**row, "result": "exact"}
    if verdict.error > verdict.tolerance:
        return {**row, "result": "wrong", "why": f"outputs differ by {verdict.error:.2g}"}
    return {**row, "result": "refused", "why": "what was removed had no effect"}


def _what(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def _trace() -> str:
    return traceback.format_exc()[-1500:]


if __name__ == "__main__":
    main()
