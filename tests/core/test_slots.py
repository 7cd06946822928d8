"""The words of a slot: those of its own file and of the method that asks, whatever else has been imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from redistill.core import UserError
from redistill.core.build import build
from redistill.losses.divergences import JSD, Divergence
from redistill.supervised.matches import Kd, Match


class Softer(JSD):
    """A rival that another module brings along."""


class Asks:
    def __init__(self, *, divergence: Divergence | None = None) -> None:
        self.divergence = divergence


def test_a_rival_from_elsewhere_is_a_word_for_who_brings_it_and_for_nobody_else():
    assert "softer" not in Divergence.choices()
    assert Divergence.choices(near=__name__)["softer"] is Softer
    assert JSD.choices(near=__name__) == {"softer": Softer}
    assert isinstance(build(Asks, {"divergence": "softer"}).divergence, Softer)


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
