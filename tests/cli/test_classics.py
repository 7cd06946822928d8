"""What systems are compared with: usable from a recipe by name, marked as classics, counted nowhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from redistill.catalog import CLASSICS, entries, load
from redistill.cli.app import run as command
from redistill.core import Method
from redistill.core.errors import UserError

NET = {"kind": "torch", "path": "redistill.models.nets:mlp", "options": {"inputs": 16, "outputs": 3, "hidden": [8]}}


def test_every_classic_is_a_method_and_no_system():
    for slug, told in CLASSICS.items():
        assert all(issubclass(load(told[key]), Method) for key in ("run", "text") if key in told)
        assert slug not in {e.slug for e in entries()}


def test_list_marks_them_and_other_commands_say_what_they_are(capsys):
    assert command(["list"]) == 0
    said = capsys.readouterr().out
    assert "classics  what systems are compared with" in said and "  kd " in said and "119 systems" in said
    assert command(["list", "--group", "score"]) == 0 and "classics" not in capsys.readouterr().out
    assert command(["list", "--json"]) == 0 and len(json.loads(capsys.readouterr().out)) == 119
    for arguments in (["show", "kd"], ["reproduce", "kd"]):
        with pytest.raises(UserError, match="'kd' is a classic that systems are compared with"):
            command(arguments)


def test_a_recipe_names_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(["init", "kd"]) == 0
    with pytest.raises(UserError, match="write that of kd and change the method"):
        command(["init", "cs_kd"])
    image = np.random.default_rng(0).random((24, 1, 4, 4), dtype=np.float32)
    np.savez("rows.npz", image=image, label=np.arange(24) % 3)
    given = {
        "method": "kd", "models": {"student": NET, "teacher": NET}, "options": {"hard_weight": 0.5},
        "data": {"kind": "table", "path": "rows.npz", "held_out": 0.25},
        "plan": {"steps": 2, "batch_size": 8, "device": "cpu"}, "out": "out",
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(given))
    assert command(["run", "recipe.yaml"]) == 0
    row = json.loads((tmp_path / "out" / "log.jsonl").read_text().splitlines()[-1])
    assert {"hard", "soft", "held_out/accuracy"} <= row.keys()
    given |= {"method": "cs_kd", "models": {"student": NET}, "options": {"tau": 2.0}, "out": "alone"}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(given))
    assert command(["run", "other.yaml"]) == 0
