"""What escapes every reader is caught at the command: one line that calls it a bug, and a traceback in a file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from redistill.cli import main


def ended(capsys, arguments=()) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main([*arguments])
    return left.value.code, capsys.readouterr().err


def breaking(monkeypatch, error):
    def command(arguments):
        raise error

    monkeypatch.setattr("redistill.cli.app.run", command)


def test_a_bug_is_one_line_and_its_traceback_lies_in_a_file(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    breaking(monkeypatch, KeyError("ids"))
    code, said = ended(capsys)
    assert code == 1 and said.count("\n") == 1 and "a bug in redistill" in said and "KeyError: 'ids'" in said
    file = Path(said.split(" is in ")[1].strip())
    assert file.parent == tmp_path and "raise error" in file.read_text()


def test_a_traceback_is_shown_where_it_is_asked_for(monkeypatch, capsys):
    breaking(monkeypatch, KeyError("ids"))
    code, said = ended(capsys, ["run", "--traceback", "x.yaml"])
    assert code == 1 and "raise error" in said and said.splitlines()[-1].endswith("the traceback is above")


@pytest.mark.parametrize(("error", "words"), [
    (MemoryError(), "no memory for this"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "no memory for this"),
    (OSError(28, "No space left on device", "log.jsonl"), "the system refused (OSError: [Errno 28] No space left"),
])  # fmt: skip
def test_what_the_machine_lacks_is_no_bug(error, words, monkeypatch, capsys):
    breaking(monkeypatch, error)
    code, said = ended(capsys)
    assert code == 1 and said.count("\n") == 1 and words in said and "bug" not in said


def test_the_help_names_the_option(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0 and "--traceback" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [("run", "x" * 300), ("init", "ps_kd", "--out", "x" * 300),
                                       ("compare", "ps_kd", "ctkd", "--recipe", "x" * 300),
                                       ("init", "ps_kd", "--out", "loop"), ("run", "loop")])  # fmt: skip
def test_a_path_that_no_file_system_takes_is_a_mistake(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    code, said = ended(capsys, arguments)
    assert code == 2 and said.count("\n") == 1 and "refused" not in said


def test_a_name_that_no_terminal_shows_is_printed_all_the_same(tmp_path):
    out = os.fsencode(tmp_path) + b"/\xff.yaml"
    command = [sys.executable, "-m", "redistill", "init", "ps_kd", "--out", out]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    )
    assert done.returncode == 0 and "\\udcff.yaml" in done.stdout and os.path.exists(out), done.stderr
