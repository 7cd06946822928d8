"""The words of a slot: those of its own file and of the method that asks, whatever else has been imported."""

from __future__ import annotations

import subprocess
import sys
from abc import ABC, abstractmethod

import pytest

from redistill.core import UserError
from redistill.core.build import build
from redistill.losses.divergences import JSD, Divergence
from redistill.supervised.features import FeatureMatch
from redistill.supervised.matches import Kd, Match


class Softer(JSD):
    """A rival that another module brings along."""


class Asks:
    def __init__(self, *, divergence: Divergence | None = None) -> None:
        self.divergence = divergence


class Wants:
    def __init__(self, *, feature: FeatureMatch) -> None:
        self.feature = feature


class Torn(FeatureMatch):
    def __init__(self, *, weight: Nowhere = 1.0) -> None:  # noqa: F821
        self.weight = weight


class Unfinished(FeatureMatch, ABC):
    @abstractmethod
    def more(self) -> None: ...


def test_a_rival_from_elsewhere_is_a_word_for_who_brings_it_and_for_nobody_else():
    assert "softer" not in Divergence.choices()
    assert Divergence.choices(near=__name__)["softer"] is Softer
    assert JSD.choices(near=__name__) == {"softer": Softer}
    assert isinstance(build(Asks, {"divergence": "softer"}).divergence, Softer)


def test_a_plug_in_is_also_named_by_its_module():
    from redistill.rivals.fitnets import Hint

    given = {"name": "redistill.rivals.fitnets:Hint", "weight": 2.0}
    feature = build(Wants, {"feature": given}).feature
    assert type(feature) is Hint and feature.weight == 2.0
    assert type(build(Wants, {"feature": given["name"]}).feature) is Hint


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("redistill.rivals.fitnets:Hind", r"options.feature: cannot import 'redistill.rivals.fitnets:Hind'"),
        ("redistill.losses.divergences:JSD", r"is no FeatureMatch; name a subclass of redistill\.supervised\.features"),
        ("nowhere_at_all:Hint", "cannot import"),
        ("redistill.rivals.fitnets:", "write module:function"),
        ({"name": "redistill.rivals.fitnets:Hint", "weigth": 2.0}, "options.feature.weigth: unknown option"),
        ({"name": f"{__name__}:Torn"}, "cannot read the annotations of .*Nowhere"),
        ({"name": f"{__name__}:Unfinished"}, "is an abstract class; name a subclass"),
    ],
)
def test_mistakes_in_a_named_plug_in_are_one_line(word, said):
    with pytest.raises(UserError, match=said) as caught:
        build(Wants, {"feature": word})
    assert "\n" not in str(caught.value)


def test_a_word_of_another_method_is_refused():
    from redistill.methods.supervised.ctkd import Ctkd
    from redistill.methods.supervised.mekd import OnceSoftened
    from redistill.models.nets import mlp

    assert issubclass(OnceSoftened, Kd)
    with pytest.raises(UserError, match="unknown match 'once_softened'"):
        build(Ctkd, {"match": "once_softened"}, mlp(4, 2, [3]), mlp(4, 2, [3]))
    assert "once_softened" in Match.choices(near="redistill.methods.supervised.mekd")


def test_words_do_not_depend_on_what_was_imported():
    code = "from redistill.supervised.matches import Match; before = list(Match.choices()); "
    code += "import redistill.methods.supervised.mekd; assert list(Match.choices()) == before and before"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
