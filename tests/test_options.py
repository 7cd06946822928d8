"""Every option of every system that is built, of its plug-ins, of its loaders and of the plan, with every wrong value:
refused in one line that names the option and what it takes, in a recipe and in Python."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
import yaml

from redistill import cli, files, rivals
from redistill.catalog import entries, load
from redistill.core import Method, Optim, Plan, UserError, types
from redistill.core.build import build, checked_options, hints_of, plug, slot_of, validated
from redistill.core.slot import Slot, options
from redistill.data.doors import KINDS
from redistill.data.images import Side
from redistill.models.doors import LIBRARIES
from redistill.vision.augmentations import Augmentation

VALUES = (math.nan, math.inf, -math.inf, -1, 0, 0.5, 1, 1.5, True, "abc", 2**63, 2**70, None, [], [True], {"a": [1]})
LARGE = (1, 1.5, 2**63, 2**70)
TAKEN = {  # of these values; all others are wrong
    types.Finite: (-1, 0, 0.5, *LARGE),
    types.Positive: (0.5, *LARGE),
    types.NonNegative: (0, 0.5, *LARGE),
    types.From1: LARGE,
    types.Share: (0, 0.5, 1),
    types.PositiveShare: (0.5, 1),
    types.ShareBelow1: (0, 0.5),
    types.ShareInside: (0.5,),
    types.Count: (1,),
    types.TwoOrMore: (),
    types.CountOrZero: (0, 1),
    types.Seed: (0, 1),
    types.Workers: (0, 1),
    Side: (1,),
    bool: (True, 0, 1),  # YAML's 0 and 1 are read as false and true
    str: ("abc",),
    Path: ("abc",),
    NoneType: (None,),
    Any: VALUES,
}


def wrong_for(hint: Any) -> list[Any]:
    """What of VALUES, alone or inside a list, a hint does not take."""
    kind, inner = get_origin(hint), get_args(hint)
    if hint in TAKEN:
        return without(VALUES, TAKEN[hint])
    if kind in (Union, UnionType):
        each = [wrong_for(h) for h in inner]
        return [v for v in each[0] if all(without([v], other) == [] for other in each[1:])]
    if kind in (dict, Mapping):
        return [v for v in VALUES if not isinstance(v, dict)] + [{"a": v} for v in wrong_for(inner[1])]
    if kind in (list, tuple, Sequence):
        length = len(inner) if kind is tuple and inner[-1] is not Ellipsis else 1
        return without(VALUES, [[], [True]]) + [[v] * length for v in wrong_for(inner[0])]
    return without(VALUES, inner if kind is Literal else ())  # words, plug-ins, functions


def without(values: Any, taken: Any) -> list[Any]:
    """``values`` but for ``taken``, where True is not 1 and nan is nan."""
    return [v for v in values if repr(v) not in map(repr, taken)]


def bare_numbers(hint: Any) -> bool:
    """Whether a hint has a number without a range."""
    return hint in (int, float) or (get_origin(hint) is not Annotated and any(map(bare_numbers, get_args(hint))))


def plugins(target: Callable[..., Any]) -> Iterator[tuple[str, type[Slot], type[Slot], str]]:
    """(word, class, its slot, module that asks) of every plug-in that the options of ``target`` take."""
    for hint in hints_of(target).values():
        if (slot := slot_of(hint)) is not None:
            yield from ((word, part, slot, target.__module__) for word, part in slot.choices(target.__module__).items())


def rival_methods() -> Iterator[type[Method]]:
    for info in pkgutil.iter_modules(rivals.__path__):
        module = importlib.import_module(f"redistill.rivals.{info.name}")
        for name, part in inspect.getmembers(module, inspect.isclass):
            if issubclass(part, Method) and part.__module__ == module.__name__:
                yield load(f"{module.__name__}:{name}")


SYSTEMS = {e.slug: load(e.run) for e in entries(status=["built"])}
METHODS = SYSTEMS | {f"rivals.{cls.__name__}": cls for cls in rival_methods()}
PARTS = {part: (word, slot, near) for target in METHODS.values() for word, part, slot, near in plugins(target)}
PARTS |= {part: (word, Augmentation, "") for word, part in Augmentation.choices().items()}
LOADERS = {kind: load(path) for kind, path in {**LIBRARIES, **KINDS}.items()}

EVERY = [
    pytest.param(target, name, hints_of(target)[name], id=f"{slug}-{name}")
    for slug, target in {**METHODS, **{part.__qualname__: part for part in PARTS}}.items()
    for name in options(target)
]


@pytest.mark.parametrize(("target", "name", "hint"), EVERY)
def test_an_option_that_is_a_number_has_a_range(target, name, hint):
    assert not bare_numbers(hint), f"{name}: {hint}; give it a type of redistill.core.types"


@pytest.mark.parametrize("loader", LOADERS)
def test_an_option_of_a_loader_that_is_a_number_has_a_range(loader):
    for name in list(inspect.signature(LOADERS[loader]).parameters)[1:]:
        assert not bare_numbers(hints_of(LOADERS[loader])[name]), name


@pytest.mark.parametrize("budget", [Optim, Plan])
def test_a_number_of_the_plan_has_a_range(budget):
    for name, field in budget.model_fields.items():
        assert field.metadata or not bare_numbers(field.annotation), name


@pytest.mark.parametrize(("target", "name", "hint"), EVERY)
def test_a_recipe_refuses_what_an_option_does_not_take(target, name, hint):
    for value in wrong_for(hint):
        given = files.yaml_value(yaml.safe_dump({name: value}), "recipe")
        with pytest.raises(UserError) as refused:
            read(target, given)
        check(refused.value, f"{place_of(target)}.{name}", hint, value)


@pytest.mark.parametrize(("target", "name", "hint"), EVERY)
def test_a_constructor_refuses_what_an_option_does_not_take(target, name, hint):
    for value in wrong_for(hint):
        with pytest.raises(UserError) as refused:
            target(**{name: value})
        said = str(refused.value)
        assert f": {name}={str(value)[:40]}; " in said and "\n" not in said, (value, said)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_recipe_refuses_what_an_option_of_a_loader_does_not_take(loader):
    target = LOADERS[loader]
    for name in list(inspect.signature(target).parameters)[1:]:
        for value in wrong_for(hints_of(target)[name]):
            with pytest.raises(UserError, match=f"^options.{name}"):
                checked_options(target, {name: value}, "options")


@pytest.mark.parametrize("name", [name for name in Plan.model_fields if name != "turns"])
def test_a_plan_refuses_what_a_key_does_not_take(name):
    hint = hints_of_plan()[name]
    for value in wrong_for(hint):
        steps = {} if name in ("steps", "epochs") else {"steps": 1}
        for make in (lambda given: validated(Plan, given, place="plan"), lambda given: Plan(**given)):
            with pytest.raises(UserError) as refused:
                make({**steps, name: value})
            check(refused.value, f"plan.{name}", hint, value)


def hints_of_plan() -> dict[str, Any]:
    from typing import get_type_hints

    return get_type_hints(Plan, include_extras=True)


def read(target: Callable[..., Any], given: dict[str, Any]) -> Any:
    """What a recipe's table of options makes of ``given``: a plug-in is a table with its name."""
    if target not in PARTS:
        return build(target, given)
    word, slot, near = PARTS[target]
    return plug(slot, {"name": word, **given}, place="options.part", near=near)


def place_of(target: Callable[..., Any]) -> str:
    return "options.part" if target in PARTS else "options"


def check(refused: UserError, place: str, hint: Any, value: Any) -> None:
    """One line that begins with the place, and says the range of a number."""
    said, either = str(refused), get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    numbers = [h for h in either if get_origin(h) is Annotated]
    assert said.startswith(place) and "\n" not in said, (value, said)
    for number in numbers[:1]:
        assert types.words_of(number) in said or isinstance(value, (list, dict)), (value, said)


@pytest.mark.parametrize("slug", SYSTEMS)
def test_a_run_ends_at_the_option_before_anything_is_loaded(slug, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = {"kind": "jsonl", "path": "rows.jsonl"}
    text = yaml.safe_dump({"method": slug, "data": data, "out": "runs"})
    (tmp_path / "recipe.yaml").write_text(text)
    for name in options(SYSTEMS[slug]):
        value = wrong_for(hints_of(SYSTEMS[slug])[name])[0]
        with pytest.raises(SystemExit) as stop:
            cli.main(["run", "recipe.yaml", f"options.{name}={yaml.safe_dump(value).splitlines()[0]}"])
        said = capsys.readouterr()
        assert stop.value.code == 2 and said.err.count("\n") == 1 and f"options.{name}" in said.err, said.err
    assert not (tmp_path / "runs").exists()
