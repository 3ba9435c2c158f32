"""Structure: how many architectures are pruned exactly, by tersenet and by Torch-Pruning.

    python benchmarks/structure_coverage.py --peers /path/to/its/python
    python benchmarks/structure_coverage.py 'transformers:*' 'hard:lstm*' --tool tersenet
    python benchmarks/structure_coverage.py --summary

Some 280 networks with random weights at small sizes (`zoo/`), each in a process of its own. 40 %
of the units of every group go, by L1; with Torch-Pruning by its group magnitude, the better of
its default and of being told about attention heads. The check is the same for both and knows
neither: the entries that were removed are zeroed in a copy of the original, and outputs must
agree at two batch sizes. tersenet's result must also come back from its file.

exact: agrees, and the removal had an effect. refused: nothing was changed; the reason is in the
row. wrong: outputs differ. crash: an error that is no refusal, or the result does not run.
timeout: more seconds of CPU than --limit.

Rows are appended to a file, and what stands there is not done again until the code that made it
has changed. Architectures and peer come from a Python that has them:

    python -m venv peers
    peers/bin/pip install torch==2.13.0
    peers/bin/pip install --no-deps torchvision==0.28.0 timm==1.0.31 torch-pruning==1.6.1
    echo torch==2.13.0 > only.txt
    peers/bin/pip install -c only.txt transformers==5.23.0 pillow
    peers/bin/pip install -c only.txt pydantic jaxtyping numba rich jinja2 cyclopts
    peers/bin/pip install -c only.txt onnx onnxscript onnxruntime

Without `--peers` only networks that need none of these are tried, by tersenet alone.
"""

import fnmatch
import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, final

import zoo
from convention import Figure, arguments, publish
from rich.console import Console
from rich.table import Table

ROOT: Final = Path(__file__).parents[1]
TOOLS: Final = ("tersenet", "torch-pruning")
RESULTS: Final = ("exact", "refused", "wrong", "crash", "timeout")
QUICK: Final = ("hard:*", "ours:*net5", "ours:resnet", "ours:*-v2-small")
CODE: Final = {
    "tersenet": ("src/tersenet/core", "src/tersenet/graph", "src/tersenet/prune",
                 "benchmarks/zoo/by_tersenet.py", "benchmarks/zoo/check.py"),
    "torch-pruning": ("benchmarks/zoo/by_torch_pruning.py", "benchmarks/zoo/check.py"),
}  # fmt: skip
"""What a row depends on; networks are taken to stay what they are."""

Row = dict[str, Any]


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = arguments(__doc__)
    parser.add_argument("names", nargs="*", help="globs of networks; all without")
    parser.add_argument("--peers", metavar="PYTHON", default=os.environ.get("TERSENET_PEERS"),
                        help="a Python that has the libraries; also TERSENET_PEERS")  # fmt: skip
    parser.add_argument("--tool", choices=TOOLS, help="this one alone")
    parser.add_argument("--rows", type=Path, default=Path("runs/structure-coverage.jsonl"))
    parser.add_argument("--limit", type=float, default=60, help="seconds of CPU for pruning")
    parser.add_argument("--again", action="store_true", help="also what stands in the file")
    parser.add_argument("--summary", action="store_true", help="run nothing")
    options = parser.parse_args()
    names = _chosen(options.names, quick=options.quick, peers=options.peers)
    tools = [options.tool] if options.tool else TOOLS if options.peers else TOOLS[:1]
    versions = {tool: _version(tool) for tool in tools}
    known = _read(options.rows)
    if not options.summary:
        pairs = [
            pair
            for pair in itertools.product(names, tools)
            if options.again or known.get(pair, {}).get("version") != versions[pair[1]]
        ]
        options.rows.parent.mkdir(parents=True, exist_ok=True)
        server = Server(options.peers or sys.executable, limit=options.limit)
        with options.rows.open("a") as file:
            for number, pair in enumerate(pairs, 1):
                row = server.run(*pair) | {"version": versions[pair[1]]}
                known[pair] = row
                file.write(json.dumps(row) + "\n")
                file.flush()
                print(f"{number}/{len(pairs)} {_line(row)}", flush=True)
        server.close()
    rows = [known[pair] for pair in itertools.product(names, tools) if pair in known]
    _show(rows, tools)
    publish("Structure", _figures(rows), json_file=options.json, notes=_notes(rows))


def _chosen(globs: Sequence[str], *, quick: bool, peers: str | None) -> list[str]:
    wanted = globs or (QUICK if quick else ("*",))
    found = [one for one in zoo.names() if any(fnmatch.fnmatchcase(one, g) for g in wanted)]
    found = [one for one in found if peers or one.startswith(("hard:", "ours:"))]
    return found or sys.exit(f"No network is called {' or '.join(wanted)}.")


def _version(tool: str) -> str:
    """A hash of the code that a row of this tool comes from."""
    digest = hashlib.sha256()
    for place in CODE[tool]:
        path = ROOT / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _read(path: Path) -> dict[tuple[str, str], Row]:
    """The last row of each pair; a line that a killed run left half is passed over."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found[row["name"], row["tool"]] = row
    return found


@final
class Server:
    """A process with the libraries loaded, which forks one for each pair."""

    def __init__(self, python: str, *, limit: float) -> None:
        paths = [str(ROOT / "src"), str(ROOT / "benchmarks")]
        self._process = subprocess.Popen(
            [python, "-m", "zoo", "--limit", str(limit)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, name: str, tool: str) -> Row:
        """Returns what became of a pair."""
        asked, told = self._process.stdin, self._process.stdout
        begin, last = time.monotonic(), {"stage": "starting"}
        if asked is None or told is None or self._process.poll() is not None:
            sys.exit("The Python with the libraries ended: run it by hand, python -m zoo.")
        print(name, tool, file=asked, flush=True)
        for line in told:
            row = json.loads(line) if line.startswith("{") else last
            if row["stage"] == "ended":
                break
            last = row
        if "result" not in last:  # killed at a limit, or from outside
            last["result"] = "timeout" if last["stage"] == "pruning" else "not tried"
            last["why"] = f"killed while {last['stage']}"
        return {"name": name, "tool": tool, **last, "wall": round(time.monotonic() - begin, 1)}

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def _line(row: Row) -> str:
    cut = f" {row['removed']:.0%}" if row.get("result") == "exact" else f" {row.get('why', '')}"
    return f"{row['name']} {row['tool']}: {row['result']}{cut} {row.get('seconds', 0)} s"[:200]


def _show(rows: Sequence[Row], tools: Iterable[str]) -> None:
    table = Table(title="Results by library", title_justify="left")
    heads = ("tool", "suite", "networks", *RESULTS, "removed", "effect", "own class", "median s",
             "max s")  # fmt: skip
    for head in heads:
        table.add_column(head, justify="left" if head in heads[:2] else "right")
    suites = list(dict.fromkeys(row["name"].partition(":")[0] for row in rows))
    for tool, suite in itertools.product(tools, (*suites, "all")):
        own = [row for row in rows if row["tool"] == tool and row["result"] in RESULTS]
        own = [row for row in own if suite == "all" or row["name"].startswith(f"{suite}:")]
        counts = Counter(row["result"] for row in own)
        exact = [row for row in own if row["result"] == "exact"]
        seconds = [row["seconds"] for row in own if "seconds" in row]
        routes = Counter(row.get("route") for row in exact)
        table.add_row(
            *(tool, suite, str(len(own))),
            *(str(counts[result]) for result in RESULTS),
            f"{statistics.median(row['removed'] for row in exact):.0%}" if exact else "",
            f"{min(row['effect'] for row in exact):.1g}" if exact else "",
            str(routes["own class"]) if tool == TOOLS[0] else "",
            f"{statistics.median(seconds):.2f}" if seconds else "",
            f"{max(seconds):.1f}" if seconds else "",
            end_section=suite == "all",
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    console.print(table)
    console.print("removed: median share of parameters where exact; effect: the least of any.")


def _figures(rows: Sequence[Row]) -> list[Figure]:
    figures = []
    theirs = _share(rows, "torch-pruning", "exact")
    peer = None if theirs is None else f"Torch-Pruning: {theirs:.1%}"
    tried = [row for row in rows if row["tool"] == "tersenet" and row["result"] in RESULTS]
    figures.append(
        Figure(
            name="exact", value=_share(rows, "tersenet", "exact"), unit="", against=peer,
            target=0.99, detail=f"of {len(tried)} networks",
        )
    )  # fmt: skip
    for name, results in (("wrong", ["wrong"]), ("crashed or hung", ["crash", "timeout"])):
        counts = [sum(one["result"] in results for one in rows if one["tool"] == t) for t in TOOLS]
        figures.append(
            Figure(name=name, value=counts[0], unit="networks", target=0, at_most=True,
                   against=None if theirs is None else f"Torch-Pruning: {counts[1]}")
        )  # fmt: skip
    seconds = [row["seconds"] for row in tried if "seconds" in row]
    median = statistics.median(seconds) if seconds else None
    figures.append(
        Figure(name="pruning and proof, median", value=median, unit="s of CPU", target=5,
               at_most=True, against=None)
    )  # fmt: skip
    return figures


def _share(rows: Sequence[Row], tool: str, result: str) -> float | None:
    own = [row["result"] for row in rows if row["tool"] == tool and row["result"] in RESULTS]
    return own.count(result) / len(own) if own else None


def _notes(rows: Sequence[Row]) -> list[str]:
    lost = [row for row in rows if row["result"] != "exact" and row["tool"] == "tersenet"]
    notes = [f"{row['name']}: {row['result']}, {row.get('why', '')}"[:160] for row in lost]
    missing = [row["name"] for row in rows if row["result"] not in RESULTS]
    return notes + ([f"could not be tried: {', '.join(sorted({*missing}))}"] if missing else [])


if __name__ == "__main__":
    main()
