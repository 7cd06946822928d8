"""Ranges of options: the same answer in a recipe and in a constructor."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest

from redistill.core.build import build
from redistill.core.errors import UserError
from redistill.core.slot import Slot
from redistill.core.types import Count, Finite, Positive, Seed, Share, ShareBelow1, checked, words_of


class Toy(Slot):
    """A part with an option of every kind."""

    def __init__(
        self,
        share: Share = 0.5,
        decay: ShareBelow1 = 0.0,
        count: Count | None = None,
        grid: tuple[Positive, ...] = (1.0,),
        pair: tuple[Share, Finite] = (0.5, -3.0),
        word: Literal["one", "two"] = "one",
        seed: Seed | Literal["all"] = 0,
        free: float = 1.0,
    ) -> None:
        pass


BAD = [
    ({"share": True}, "give a number from 0 to 1"),
    ({"share": math.nan}, "give a number from 0 to 1"),
    ({"share": -0.1}, "give a number from 0 to 1"),
    ({"decay": 1.0}, "give a number from 0, below 1"),
    ({"count": 0}, "give a whole number from 1"),
    ({"count": 2**63}, "give a whole number from 1"),
    ({"grid": [1.0, 0.0]}, "give a number above 0"),
    ({"grid": (math.inf,)}, "give a number above 0"),
    ({"pair": (0.5, math.inf)}, "give a finite number"),
    ({"word": "on"}, "did you mean 'one'?"),
    ({"seed": -1}, "give a whole number from 0, below 2^63"),
    ({"seed": 2**63}, "give a whole number from 0, below 2^63"),
]


@pytest.mark.parametrize(("given", "remedy"), BAD, ids=str)
def test_recipes_and_constructors_refuse_the_same(given, remedy):
    name = next(iter(given))
    with pytest.raises(UserError) as called:
        Toy(**given)
    assert str(called.value).startswith(f"toy: {name}=") and remedy in str(called.value)
    with pytest.raises(UserError) as read:
        build(Toy, given)
    assert str(read.value).startswith(f"options.{name}") and remedy in str(read.value)


def test_constructors_refuse_what_a_recipe_would_convert():
    for given in ({"count": 2.5}, {"share": "0.5"}, {"seed": "some"}, {"share": None}):
        with pytest.raises(UserError, match="give "):
            Toy(**given)


@pytest.mark.parametrize("given", [
    {"share": 0, "decay": 0.999, "count": None}, {"share": np.float32(1), "count": np.int64(3)}, {"seed": 2**63 - 1},
    {"seed": "all", "word": "two"}, {"grid": (2, 0.1), "pair": [1, -9]}, {"free": math.inf},
], ids=str)  # fmt: skip
def test_what_lies_in_the_range_is_taken_as_it_is(given):
    assert Toy(**given).arguments == given


def test_a_recipe_reads_text_as_a_number():
    assert build(Toy, {"share": "1e-3", "grid": [1, "2"]}).arguments == {"share": 0.001, "grid": (1.0, 2.0)}


def test_a_type_says_its_range():
    assert words_of(Share | None) == "a number from 0 to 1"
    assert words_of(Literal["a", "b"]) == "a or b"
    assert words_of(float) == words_of(str | None) == ""


@checked
def drawn(rows: list[Count], *, table: dict[str, Share] | None = None, flag: bool = True, part: Toy | None = None):
    """A function with options of the kinds that have parts."""
    return rows


@pytest.mark.parametrize(("given", "remedy"), [
    ({"rows": 3}, "rows=3; give a list, each a whole number from 1"), ({"rows": [3, 0]}, "give a whole number from 1"),
    ({"rows": [True]}, "give a whole number from 1"), ({"rows": [1], "table": {"a": 2}}, "give a number from 0 to 1"),
    ({"rows": [1], "table": [0.5]}, "give a table"), ({"rows": [1], "flag": "no"}, "flag=no; give true or false"),
    ({"rows": [1], "part": 2.0}, "part=2.0; give Toy"),
], ids=str)  # fmt: skip
def test_a_checked_function_refuses_as_a_part_does(given, remedy):
    with pytest.raises(UserError) as called:
        drawn(**given)
    assert str(called.value).startswith("test_types.drawn: ") and remedy in str(called.value)


def test_a_checked_function_takes_the_rest():
    assert drawn([1, 2], table={"a": 1}, part=Toy()) == [1, 2]
    assert drawn((1,), flag=False) == (1,) and drawn.__name__ == "drawn"


def test_a_tuple_of_fixed_length_has_that_length():
    with pytest.raises(UserError, match=r"pair=.*; give 2 of them"):
        Toy(pair=(0.5,))
