"""The command line: one thin command per verb. Parses, calls, prints.

Exit codes: 0 done, and the budget met · 1 error · 2 a wrong command line or a recipe that
cannot be understood · 3 budget missed, the best model saved · 130 interrupted.
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from tersenet.cli.coding import decode, encode, is_coded, show_listing
from tersenet.cli.flags import in_flags
from tersenet.cli.guard import GUARD
from tersenet.errors import RecipeError, TersenetError

__all__ = ["app", "main"]

MET: Final = 0
ERROR: Final = 1
USAGE: Final = 2
MISSED: Final = 3
INTERRUPTED: Final = 130

app = App(
    name="tersenet",
    help="Compress a trained network to a budget, and hand back a file with measured proof.",
    version=lambda: version("tersenet"),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(negative=()),
)

study = App(
    name="study",
    help="Answer a question by many measurements, resumably, with claims and a page of plots.",
    result_action="return_value",
    default_parameter=Parameter(negative=()),
)
app.command(study)
app.command(encode)
app.command(decode)


@app.command
def compress(
    recipe: Path | None = None,
    /,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    no_cache: bool = False,
    json: bool = False,
) -> int:
    """Run a recipe: measured after each step, report at the end.

    Args:
        recipe: A YAML recipe.
        out: Folder for the run; by default runs/NAME.
        resume: Go on with the run in this folder, whatever moment it was stopped at.
        no_cache: Time all layers and files anew, whatever was timed in earlier runs.
        json: Print one JSON object instead of tables.
    """
    if (recipe is None) == (resume is None) or (resume and out):
        return _usage("give either a RECIPE (and --out) or --resume FOLDER.")
    from tersenet import api
    from tersenet.cli.progress import Live
    from tersenet.cli.show import show_outcome

    with Live(quiet=json) as live:
        if resume:
            outcome = api.resume(resume, cache=not no_cache, watch=live)
        else:
            assert recipe is not None
            outcome = api.compress_recipe(recipe, folder=out, cache=not no_cache, watch=live)
    show_outcome(outcome, json=json)
    return MISSED if outcome.status == "missed" else MET


@app.command
def inspect(model: Path, /, *, json: bool = False) -> int:
    """List a network's layers, costs and couplings: what can be pruned, what cannot, and why.

    Args:
        model: A recipe, the folder of a saved model, or a coded file: its tensors,
            and what was done to the network.
        json: Print one JSON object instead of tables.
    """
    if is_coded(model):
        return show_listing(model, json=json)
    from tersenet import api
    from tersenet.cli.show import show_inspection

    show_inspection(api.inspect_model(model), json=json)
    return MET


@app.command
def bench(
    model: Path,
    /,
    *,
    against: Path | None = None,
    runtime: str = "onnxruntime",
    threads: int = 1,
    batch: tuple[int, ...] = (1, 8, 64),
    iterations: int = 100,
    json: bool = False,
) -> int:
    """Measure an ONNX file: latency, throughput, memory; in turns with another file.

    Args:
        model: An ONNX file.
        against: Another ONNX file, measured in turns with it (A B A B).
        runtime: onnxruntime or openvino.
        threads: Of one inference.
        batch: Batch sizes; repeat the option for several.
        iterations: Least number of samples of each file at each batch size.
        json: Print one JSON object instead of tables.
    """
    from tersenet import api
    from tersenet.cli.show import show_bench

    result = api.bench_files(
        model, against, runtime=runtime, threads=threads, batches=batch, iterations=iterations
    )
    show_bench(result, json=json)
    return MET


@app.command
def train(
    recipe: Path,
    /,
    *,
    out: Path | None = None,
    tensorboard: bool = False,
    json: bool = False,
) -> int:
    """Train a reference network; run again to go on where it was stopped.

    On several processes: torchrun --nproc-per-node N -m tersenet train RECIPE.

    Args:
        recipe: A YAML training recipe.
        out: Folder for checkpoints and metrics.csv; by default runs/NAME.
        tensorboard: Write TensorBoard's files there too.
        json: Print one JSON object instead of a table.
    """
    from tersenet import api
    from tersenet.cli.progress import Live
    from tersenet.cli.show import show_trained

    with Live(quiet=json or os.environ.get("RANK", "0") != "0") as live:
        trained = api.train_recipe(recipe, folder=out, watch=live, tensorboard=tensorboard)
    if trained.leads:
        show_trained(trained, json=json)
    return MET


@app.command
def report(folder: Path, /, *, json: bool = False) -> int:
    """Write a run's report again from its journal.

    Args:
        folder: A run folder.
        json: Print the run as one JSON object.
    """
    from tersenet import api
    from tersenet.cli.show import show_run

    show_run(api.read_run(folder), api.write_report(folder), json=json)
    return MET


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    Without `arguments` it is the process's own, which is then guarded: what stands still is
    told, and an interrupt ends it within seconds, whatever it is in.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    # Threads that spin while they wait make training many times slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if arguments is None and tokens and not tokens[0].startswith("-"):
        GUARD.start(" ".join(["tersenet", *tokens]))
    try:
        return _answer(tokens)
    except Exception:
        if GUARD.interrupted:  # within an import, it comes out as an error of another kind
            return _complain("interrupted.", INTERRUPTED)
        raise
    finally:
        GUARD.stop()


def _answer(tokens: list[str]) -> int:
    try:
        if tokens[:1] == ["study"]:
            from tersenet.cli.studies import add_studies_

            add_studies_(study)
        code = app(tokens, exit_on_error=False, print_error=False)
        sys.stdout.flush()
        return code or MET
    except CycloptsError as error:
        return _usage(str(error).strip())
    except RecipeError as error:
        return _complain(str(error), USAGE)
    except TersenetError as error:
        return _complain(str(error), ERROR)
    except KeyboardInterrupt as error:
        return _complain(str(error) or "interrupted.", INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has gone; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR


def _usage(text: str) -> int:
    return _complain(f"{text} See 'tersenet --help'.", USAGE)


def _complain(text: str, code: int) -> int:
    GUARD.said()
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"tersenet: {in_flags(text)}", markup=False)
    return code
