"""Files of the user's, read whole or refused in one line with their place."""

from __future__ import annotations

import codecs

import pytest

from redistill import files
from redistill.core.errors import UserError, reading


def test_whatever_rises_while_reading_has_its_place_and_the_users_own_line(tmp_path, monkeypatch):
    (tmp_path / "their_module.py").write_text("def make():\n    return {}['width']\n")
    monkeypatch.syspath_prepend(tmp_path)
    from their_module import make

    with pytest.raises(UserError) as refused, reading("it gave up", place="models.student"):
        make()
    assert str(refused.value) == "models.student: it gave up (KeyError: 'width'; their_module.py:2)"


def test_an_exit_and_a_lack_of_memory_are_one_line_too():
    for error in (SystemExit("bye"), MemoryError(), RecursionError("deep")):
        with pytest.raises(UserError, match=r"^here: it failed"), reading("it failed", place="here"):
            raise error


def test_a_mistake_that_has_a_place_keeps_it():
    with pytest.raises(UserError, match=r"^there: no$"), reading("it failed", place="here"):
        raise UserError("no", place="there")


def test_aliases_that_stand_for_billions_are_refused_at_once():
    laughs = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    laughs += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
    with pytest.raises(UserError, match=r"x\.yaml: its aliases stand for more than"):
        files.yaml_value(laughs, "x.yaml")
    with pytest.raises(UserError, match=r"x\.yaml: its aliases"):
        files.yaml_value("a: &a [*a]", "x.yaml")


def test_aliases_and_merges_of_a_plain_recipe_are_read():
    found = files.yaml_value("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n", "x.yaml")
    assert found == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": [{"x": 1}, {"x": 1}]}
    assert files.yaml_value("", "x.yaml") is None


def test_names_that_can_be_no_file_are_one_line(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in ("x" * 300, "a\0b", loop, "\udcff"):
        with pytest.raises(UserError, match=r"^data\.path"):
            files.text(path, "data.path")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "t").write_bytes(codecs.BOM_UTF8 + "é\r\n".encode())
    assert files.text(tmp_path / "t", "here") == "é\r\n"
