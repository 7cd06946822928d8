"""Costs and break-even on numbers made by hand."""

from __future__ import annotations

import math

import pytest

from redistill.core.errors import UserError
from redistill.methods.language.in_context.cost import Meter, Price, Usage, break_even, pays, step_cost


def test_price_of_tokens_with_and_without_a_cache_discount():
    usage = Usage(input=100, output=10, cached=40, calls=1)
    assert Price(2, 5).of(usage) == 100 * 2 + 10 * 5
    assert Price(2, 5, cached=0.5).of(usage) == 60 * 2 + 40 * 0.5 + 10 * 5


def test_meter_sums_roles():
    meter = Meter()
    for usage in (Usage(10, 1, 0, 1), Usage(20, 2, 0, 1)):
        meter.add("student", usage)
    meter.add("teacher", Usage(5, 5, 0, 1))
    assert meter.used["student"] == Usage(30, 3, 0, 2)
    assert meter.cost({"student": Price(1, 1), "teacher": Price(20, 20)}) == 33 + 200
    with pytest.raises(UserError, match="teacher"):
        meter.cost({"student": Price(1, 1)})


def test_the_cascade_pays_exactly_when_its_step_is_cheaper():
    assert step_cost(3, 1.0, 20.0, 0.25) == 8.0
    for p in (0.0, 0.5, 0.84, 0.86, 1.0):
        assert pays(3, 1.0, 20.0, p) == (step_cost(3, 1.0, 20.0, p) < 20.0)


def test_break_even():
    assert break_even(29.5, 0.059, 0.024) == pytest.approx(842.857, abs=1e-3)
    assert break_even(1.0, 0.1, 0.1) == math.inf


def test_a_negative_price_is_refused():
    with pytest.raises(UserError, match="input=-1; give a number from 0 up"):
        Price(-1, 0)
