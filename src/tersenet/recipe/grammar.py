"""The grammar of recipes: which sections there are and what they build.

A recipe is YAML with strict keys. Wherever a method, a model or a data set is named,
`name: {options}` is `Name(**options)`.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Final, final

import yaml
from pydantic import Field, TypeAdapter
from torch import nn

from tersenet.core.entry import Part
from tersenet.core.registry import FAMILIES, methods
from tersenet.core.types import Budget, Deployment, Method
from tersenet.models import MODELS
from tersenet.recipe.located import Located, read_yaml
from tersenet.train import TASKS, Classification, TrainingOptions

__all__ = ["Entry", "Recipe", "TrainingRecipe", "read_recipe", "read_training"]

_REPEAT: Final = "repeat"
"""The step that stands for others, several times over: `repeat: {times: 3, steps: […]}`."""


@final
@dataclass(frozen=True)
class Entry:
    """A named thing with checked options, not built yet."""

    name: str
    options: Mapping[str, Any]

    def build(self) -> Any:
        """Builds it."""
        builder = MODELS.get(self.name) or TASKS[self.name]
        return builder(**self.options)

    def plain(self) -> dict[str, Any]:
        """Returns it as it stands in a recipe, every option written out."""
        values = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in self.options.items()
        }
        return {self.name: values}


@final
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An ordered list of steps, with all that they start from and must reach."""

    name: str
    seed: int
    threads: int | None = None
    """That the work takes, training above all; None for as many as PyTorch takes by itself."""
    model: Entry | None
    """None, as the next two, when the caller brings a network and its data."""
    weights: Path | None
    data: Entry | None
    deployment: Deployment
    budget: Budget
    steps: tuple[Method[Any], ...]
    source: str
    """The file's own text."""

    def build_model(self) -> nn.Module:
        """Builds the network, its weights still as initialised."""
        assert self.model is not None
        return self.model.build()

    def build_task(self) -> Classification:
        """Loads and checks the data."""
        assert self.data is not None
        return replace(self.data.build(), seed=self.seed)

    def resolved(self) -> str:
        """Returns the recipe as YAML with every default written out."""
        deployment = _plain(self.deployment)
        del deployment["precision"]  # follows from the steps
        network = {}
        if self.model and self.data:
            network = {
                "model": self.model.plain(),
                "weights": str(self.weights),
                "data": self.data.plain(),
            }
        threads = {} if self.threads is None else {"threads": self.threads}
        return _yaml(
            name=self.name,
            seed=self.seed,
            **threads,
            **network,
            deployment=deployment,
            budget={key: value for key, value in _plain(self.budget).items() if value is not None},
            steps=[{step.family: {step.name: _plain(step)}} for step in self.steps],
        )


@final
@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """How to train a reference network, and where its weights go."""

    name: str
    seed: int
    threads: int
    model: Entry
    data: Entry
    training: TrainingOptions
    output: Path
    source: str
    weights: Path | None = None
    """To start from; None starts anew."""

    def build_task(self) -> Classification:
        """Loads and checks the data."""
        return replace(self.data.build(), seed=self.seed)

    def resolved(self) -> str:
        """Returns the recipe as YAML with every default written out."""
        start = {} if self.weights is None else {"weights": str(self.weights)}
        return _yaml(
            name=self.name,
            seed=self.seed,
            threads=self.threads,
            model=self.model.plain(),
            **start,
            data=self.data.plain(),
            training=_plain(self.training),
            output=str(self.output),
        )


@final
@dataclass(frozen=True, kw_only=True)
class _Head:
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None


@final
@dataclass(frozen=True, kw_only=True)
class _Repeat:
    times: Annotated[int, Field(ge=1, le=100)]


def read_recipe(path: Path, *, own_network: bool = False) -> Recipe:
    """Reads a compression recipe; with `own_network`, one without model, weights and data.

    Raises:
        RecipeError: naming file, line and remedy.
    """
    root = read_yaml(path)
    network = set() if own_network else {"model", "weights", "data"}
    root.check_keys(
        {"name", "seed", "threads", "deployment", "budget", "steps"} | network,
        required=("name", *sorted(network), "steps"),
    )
    head = _head(root)
    steps = _steps(root.child("steps"))
    precisions = [step.computes_in for step in steps if step.computes_in]
    deployment = _section(root, "deployment", Deployment, hidden=("precision",))
    budget = _section(root, "budget", Budget)
    if budget.batch != Budget().batch and budget.latency_ms is None and budget.speedup is None:
        raise root.error(
            "budget.batch has no effect: it says at which batch latency_ms or speedup is meant; "
            "give one of them, or take it out.",
            "budget",
            "batch",
        )
    if budget.batch not in deployment.batches and (budget.latency_ms or budget.speedup):
        raise root.error(
            f"budget.batch is {budget.batch}, which deployment.batches "
            f"{list(deployment.batches)} does not measure; add it there.",
            *(("budget", "batch") if "batch" in root.value["budget"] else ("budget",)),
        )
    return Recipe(
        name=head.name,
        seed=head.seed,
        threads=head.threads,
        model=_entry(root.child("model"), "model", MODELS) if network else None,
        weights=_path(root, "weights", path) if network else None,
        data=_entry(root.child("data"), "data set", TASKS) if network else None,
        deployment=replace(deployment, precision=precisions[-1] if precisions else "fp32"),
        budget=budget,
        steps=steps,
        source=path.read_text(encoding="utf-8"),
    )


def read_training(path: Path) -> TrainingRecipe:
    """Reads a training recipe.

    Raises:
        RecipeError: naming file, line and remedy.
    """
    root = read_yaml(path)
    root.check_keys(
        {"name", "seed", "threads", "model", "weights", "data", "training", "output"},
        required=("name", "model", "data", "training", "output"),
    )
    head = _head(root)
    return TrainingRecipe(
        name=head.name,
        seed=head.seed,
        threads=1 if head.threads is None else head.threads,
        model=_entry(root.child("model"), "model", MODELS),
        data=_entry(root.child("data"), "data set", TASKS),
        training=_section(root, "training", TrainingOptions),
        output=_path(root, "output", path),
        source=path.read_text(encoding="utf-8"),
        weights=_path(root, "weights", path) if "weights" in root.value else None,
    )


def _head(root: Located) -> _Head:
    keys = {key: root.value[key] for key in ("name", "seed", "threads") if key in root.value}
    return replace(root, value=keys).build(_Head)


def _section(root: Located, key: str, cls: type[Any], hidden: tuple[str, ...] = ()) -> Any:
    return root.child(key).build(cls, hidden=hidden) if key in root.value else cls()


def _entry(place: Located, what: str, known: Mapping[str, Callable[..., Any]]) -> Entry:
    chosen = place.only_entry(what, known)
    name = str(chosen.at[-1])
    return Entry(name, chosen.arguments(known[name]))


def _path(root: Located, key: str, recipe: Path) -> Path:
    value = root.value[key]
    if not isinstance(value, str):
        raise root.error(f"{key} is {value!r}; it must be the path of a safetensors file.", key)
    return (recipe.parent / value).resolve()


def _steps(place: Located, scope: str = "steps") -> tuple[Method[Any], ...]:
    if not isinstance(place.value, list):
        raise place.error(f"{scope} must be a list, each item 'family: {{method: {{options}}}}'.")
    steps: list[Method[Any]] = []
    for index in range(len(place.value)):
        item = place.child(index, named=False)
        done = next((step for step in steps if step.last), None)
        if done is not None:
            raise item.error(
                f"a step after {done.family} would change what its file holds: put "
                f"{done.family} last."
            )
        steps += _step(item)
    return tuple(steps)


def _step(place: Located) -> tuple[Method[Any], ...]:
    place = replace(place, scope=())  # complaints name prune.l1, not steps.prune.l1
    family = place.only_entry("step", [*FAMILIES, _REPEAT])
    if family.at[-1] == _REPEAT:
        return _repeated(family)
    known = methods(str(family.scope[-1]))
    short = {
        name: (cls, *cls.short)
        for cls in known.values()
        if cls.short is not None
        for name in cls.short[1].known()
    }
    chosen = family.only_entry(f"{family.scope[-1]} method", [*known, *short])
    name = chosen.scope[-1]
    step = _in_short(chosen, *short[name]) if name in short else chosen.build(known[name])
    _check_idle(chosen, step)
    return (step,)


def _in_short(place: Located, cls: type[Method[Any]], field: str, part: Part) -> Method[Any]:
    """Reads options of a method and of a part within it that stand side by side."""
    own = {option.name for option in fields(cls)} - {field}  # type: ignore[arg-type]
    kind = part.known()[place.scope[-1]]
    place.check_keys({*own, *(option.name for option in fields(kind))})
    given = place.mapping()
    within = {key: value for key, value in given.items() if key not in own}
    built = replace(place, value=within).build(kind)
    return place.build(cls, given={field: built}, elsewhere=within)


def _check_idle(place: Located, step: Method[Any]) -> None:
    """Complains about an option that is set and decides nothing: nothing is ignored in silence.

    What it is anyway may be written, as in a recipe that has every option written out.
    """
    for option, needs in step.idle.items():
        parts, owner = option.split("."), step
        for part in parts[:-1]:
            owner = getattr(owner, part, owner)  # a method's own name stands between the two
        if hasattr(owner, parts[-1]) and getattr(owner, parts[-1]) != _usual(owner, parts[-1]):
            raise place.error(
                f"{'.'.join((*place.scope, option))} has no effect: {needs}; take it out.", *parts
            )


def _usual(owner: Any, option: str) -> Any:
    """Returns an option's default."""
    for field in fields(owner):
        if field.name == option and field.default_factory is not MISSING:
            return field.default_factory()
    return inspect.signature(type(owner)).parameters[option].default


def _repeated(place: Located) -> tuple[Method[Any], ...]:
    place.check_keys(("times", "steps"), required=("times", "steps"))
    if not place.value["steps"]:
        raise place.error("repeat.steps is empty: list the steps to repeat.", "steps")
    times = replace(place, value={"times": place.value["times"]}).build(_Repeat).times
    steps = _steps(place.child("steps"), "repeat.steps")
    done = next((step for step in steps if step.last), None)
    if done is not None:
        raise place.error(f"{done.family} cannot be repeated: put it last, after repeat.", "steps")
    return steps * times


def _plain(value: Any) -> dict[str, Any]:
    return TypeAdapter(type(value)).dump_python(value, mode="json")


def _yaml(**sections: Any) -> str:
    return yaml.safe_dump(sections, sort_keys=False, width=100)
