"""`tersenet study NAME`: a command for each study, whose options are the study's own."""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from cyclopts import App, Parameter

from tersenet.core.findings import Findings

__all__ = ["add_studies_"]

_DONE: Final = 0
_PLAIN: Final = (bool, int, float, str, Path, NoneType)
"""What an option of a command is made of; other arguments of a study are for Python alone."""
_NETWORK: Final = ("model", "task")
"""What a study of a person's network begins with: both are read from a recipe."""

Recipe = Annotated[Path, Parameter(help="Names network, weights and data; its steps are not used.")]
Out = Annotated[Path | None, Parameter(help="Folder of the study; by default studies/NAME.")]
Json = Annotated[bool, Parameter(help="Print one JSON object instead of text.")]


def add_studies_(app: App) -> None:
    """Gives `app` a command for each study, ours and other packages'. Loads PyTorch."""
    from tersenet.study import STUDIES

    for name in STUDIES.keys() - set(app):
        app.command(_command(name, STUDIES[name]), name=name)


def _command(name: str, study: Callable[..., Findings]) -> Callable[..., int]:
    """Returns the command that runs a study in its folder, and shows what was found."""
    parameters = inspect.signature(study).parameters
    of_network = all(known in parameters for known in _NETWORK)

    def command(*given: Any, out: Path | None = None, json: bool = False, **options: Any) -> int:
        from tersenet.api.studies import conduct
        from tersenet.cli.progress import Live
        from tersenet.cli.show import show_findings
        from tersenet.study.subject import read_subject

        folder = out or Path("studies") / name
        with Live(quiet=json) as live:
            live.begin(0, 1, f"study {name}")
            first = read_subject(*given) if of_network else given
            findings = conduct(
                lambda tick: study(*first, folder=folder, tick=tick, **options), folder, watch=live
            )
        show_findings(findings, folder, json=json)
        return _DONE

    keyword = inspect.Parameter.KEYWORD_ONLY
    recipe = inspect.Parameter("recipe", inspect.Parameter.POSITIONAL_ONLY, annotation=Recipe)
    taken = [
        *([recipe] if of_network else []),
        *(known for known in parameters.values() if _is_plain(known.annotation)),
        inspect.Parameter("out", keyword, default=None, annotation=Out),
        inspect.Parameter("json", keyword, default=False, annotation=Json),
    ]
    taken = [known for known in taken if known.name != "folder"]
    command.__signature__ = inspect.Signature(taken)
    command.__annotations__ = {known.name: known.annotation for known in taken}
    command.__doc__ = study.__doc__
    return command


def _is_plain(annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return True
    parts = [part for part in get_args(annotation) if part is not Ellipsis]
    return all(map(_is_plain, parts)) if parts else annotation in _PLAIN
