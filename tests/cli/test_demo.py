"""``redistill demo``: what it refuses, what it says where there is no terminal, and the report of a tiny run."""

from __future__ import annotations

import json

import pytest

from redistill.cli import main
from redistill.cli.demo import Lines


def command(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as stop:
        main(["demo", *arguments])
    shown = capsys.readouterr()
    return int(stop.value.code or 0), shown.out, shown.err


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_a_time_that_is_none_is_refused_before_anything_is_written(capsys, tmp_path, minutes):
    code, out, error = command(capsys, "--out", str(tmp_path / "out"), f"--minutes={minutes}")
    assert (code, out) == (2, "") and "--minutes" in error
    assert not (tmp_path / "out").exists()


def test_a_line_at_the_first_step_at_the_last_and_every_few_seconds_between():
    said: list[str] = []
    clock = [0.0]
    lines = Lines(said.append, seconds=5.0, clock=lambda: clock[0])
    for step in range(9):
        clock[0] += 2.0
        lines("Dmd2", step + 1, 9, 2.0 * (step + 1))
    assert [line.split()[1] for line in said] == ["1/9,", "4/9,", "7/9,", "9/9,"]
    assert said[1] == "Dmd2: 4/9, 8 s, 10 s left"


def test_a_tiny_run_reports_in_lines_and_pages(capsys, tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    from redistill.studies import faces_demo

    monkeypatch.setattr(faces_demo, "COUNT", 48)
    monkeypatch.setattr(faces_demo, "TEACHER_STEPS", 2)
    code, out, error = command(capsys, "--out", str(tmp_path / "out"), "--updates", "1")
    assert code == 0, error
    assert "pairs of the teacher: 2/2" in out and "Regression: 10/10" in out and "Dmd2: 1/1" in out
    found = json.loads((tmp_path / "out/numbers.json").read_text())
    assert found["student"]["steps"] == 1 and len(found["history"]) == 11
    assert (found["updates"], found["pairs"]) == (1, 64)
    assert {"index.html", "student.png", "plain_diffusers.png"} <= {f.name for f in (tmp_path / "out").iterdir()}
