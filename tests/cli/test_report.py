"""Reports from evidence, comparisons, the doctor."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml

from redistill.cli.app import run as command
from redistill.cli.report import LEGEND, formula
from redistill.core import evidence
from redistill.core.claims import LEAST_SEEDS, LEVEL
from redistill.core.errors import UserError


def test_a_report_is_a_folder_that_stands_alone(tmp_path):
    out = tmp_path / "report"
    assert command(["report", "repeated_sd", "ps_kd", "--out", str(out)]) == 0
    page = (out / "index.html").read_text()
    assert "holds" in page and "repeated_sd_rounds.png" in page and (out / "repeated_sd_rounds.png").exists()
    with pytest.raises(UserError, match="not empty"):
        command(["report", "--out", str(out)])


class Links(HTMLParser):
    """What a page points at, what can be pointed at, and the tables that are not in a box that scrolls."""

    def __init__(self, page):
        super().__init__()
        self.to, self.ids, self.bare, self.open = [], set(), 0, []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.to += [given[name] for name in ("href", "src") if name in given]
        self.ids.add(given.get("id"))
        self.bare += tag == "table" and self.open[-1:] != ["wide"]
        if tag == "div":
            self.open.append(given.get("class"))

    def handle_endtag(self, tag):
        if tag == "div":
            self.open.pop()


def test_every_link_of_the_report_leads_somewhere_and_every_table_scrolls(tmp_path):
    assert command(["report", "--out", str(tmp_path)]) == 0
    found = Links((tmp_path / "index.html").read_text())
    slugs = [file.stem for file in evidence.folder().glob("*.json")]
    assert {f"#{slug}" for slug in slugs} <= set(found.to) and "#legend" in found.to
    for place in found.to:
        assert place.startswith("https://arxiv.org/") or (
            place[1:] in found.ids if place[0] == "#" else (tmp_path / place).stat().st_size > 1000
        ), place
    assert len(slugs) > 20 and found.bare == 0


def test_all_that_was_measured_is_in_the_report(tmp_path):
    assert command(["report", "guided_targets", "--out", str(tmp_path)]) == 0
    page, record = (tmp_path / "index.html").read_text(), evidence.read("guided_targets")
    assert all(f"<th>{metric}</th>" in page for arm in record["table"].values() for metric in arm)


def test_equations_have_raised_and_lowered_letters_and_no_markup_of_their_own():
    assert formula("L_θ = x^2 < y_{i,m}") == "L<sub>θ</sub> = x<sup>2</sup> &lt; y<sub>i,m</sub>"


def test_the_legend_explains_every_word_and_says_the_rule():
    assert {*LEVEL, *evidence.VERDICTS, "stale"} <= set(LEGEND)
    for kind in ("headline", "superiority"):
        assert f"{LEVEL[kind]:.0%}".replace("%", " %") in LEGEND[kind]
        assert {3: "three", 5: "five"}[LEAST_SEEDS[kind]] in LEGEND[kind]


def test_compare_shows_both_systems(capsys):
    assert command(["compare", "repeated_sd", "ps_kd"]) == 0
    shown = capsys.readouterr().out
    assert "repeated_sd" in shown and "ps_kd" in shown
    for wrong, said in (
        (["ps_kd"], "two systems"),
        (["ps_kd", "hyper_sd"], "no evidence"),
        (["ps_kd", "pskd"], "unknown"),
    ):
        with pytest.raises(UserError, match=said):
            command(["compare", *wrong])


def test_the_doctor_calls_a_package_that_cannot_be_imported_broken(tmp_path, monkeypatch, capsys):
    (tmp_path / "torn.py").write_text("print('loud')\nfrom torch import nothing_of_this_name\n")
    (tmp_path / "lacks.py").write_text("import absent_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        "redistill.cli.doctor.EXTRAS", {"a": ("torn",), "b": ("lacks",), "c": ("no_such",), "d": ("json",)}
    )
    assert command(["doctor"]) == 0
    a, b, c, d = capsys.readouterr().out.splitlines()[3:]
    assert "broken torn: import failed (cannot import name 'nothing_of_this_name'" in a
    assert "broken lacks: import failed (No module named 'absent_dependency'" in b
    assert c.endswith("missing no_such: pip install 'redistill[c]'") and d.split() == ["d", "ok"]


def test_compare_trains_systems_by_one_recipe_on_equal_rows_and_updates(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez("rows.npz", image=rng.random((40, 1, 4, 4), dtype=np.float32), label=np.arange(40) % 3)
    net = {"kind": "torch", "path": "redistill.models.nets:mlp",
           "options": {"inputs": 16, "outputs": 3, "hidden": [8]}}  # fmt: skip
    given = {
        "method": "ps_kd", "models": {"student": net, "teacher": net}, "options": {"classes": 3},
        "data": {"kind": "table", "path": "rows.npz", "held_out": 0.25},
        "plan": {"steps": 4, "batch_size": 10, "device": "cpu"}, "out": "out",
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(given))
    assert command(["compare", "ps_kd", "pruned_data_kd", "plan.steps=2", "--recipe", "mine.yaml", "--seeds", "2"]) == 0
    shown = capsys.readouterr().out
    assert "accuracy" in shown and "pruned_data_kd" in shown and "±" in shown
    for slug in ("ps_kd", "pruned_data_kd"):
        told = [json.loads((tmp_path / "out" / slug / str(s) / "run.json").read_text()) for s in (1, 2)]
        assert [(t["method"], t["rows"], t["student_of_step"]) for t in told] == [(slug, 30, 2)] * 2
    for more, said in ((["data.held_out=null"], "data.held_out"), (["plan.steps=3"], "not empty")):
        with pytest.raises(UserError, match=said):
            command(["compare", "ps_kd", "pruned_data_kd", *more, "--recipe", "mine.yaml"])
    with pytest.raises(UserError, match="no single training"):
        command(["compare", "ps_kd", "survey", "out=other", "--recipe", "mine.yaml"])
    with pytest.raises(UserError, match="--recipe"):
        command(["compare", "ps_kd", "repeated_sd", "plan.steps=3"])


def test_the_doctor_names_torch_and_every_extra(capsys):
    assert command(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "torch 2" in shown and all(extra in shown for extra in ("tables", "language", "diffusion", "timm"))
