"""Reports from evidence, comparisons, the doctor."""

from __future__ import annotations

import pytest

from redistill.cli.app import run as command
from redistill.core.errors import UserError


def test_a_report_is_a_folder_that_stands_alone(tmp_path):
    out = tmp_path / "report"
    assert command(["report", "repeated_sd", "ps_kd", "--out", str(out)]) == 0
    page = (out / "index.html").read_text()
    assert "holds" in page and "repeated_sd_rounds.png" in page and (out / "repeated_sd_rounds.png").exists()
    with pytest.raises(UserError, match="not empty"):
        command(["report", "--out", str(out)])


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


def test_the_doctor_names_torch_and_every_extra(capsys):
    assert command(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "torch 2" in shown and all(extra in shown for extra in ("tables", "language", "diffusion", "timm"))
