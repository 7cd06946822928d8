"""A recipe of two agents in the household: what it writes, an index that is used again, and what it refuses."""

from __future__ import annotations

import json

import pytest
import yaml

from redistill.cli.app import run as command
from redistill.core.errors import UserError

PARTS = """
import hashlib
import torch
from redistill.beds import household
from redistill.methods.language.in_context.scoring import CopyPolicy

def student():
    return CopyPolicy(temperature=0.2)

def teacher():
    return household.Planner(slip=0.0)

def encoder():
    def encode(texts):  # a bag of hashed words
        rows = torch.zeros(len(texts), 64)
        for row, text in zip(rows, texts):
            for word in text.split():
                row[int(hashlib.md5(word.encode()).hexdigest(), 16) % 64] += 1
        return torch.nn.functional.normalize(rows + 1e-6, dim=1)
    return encode

def train():
    return household.games(0, 12, 4)[0]

def test():
    return household.games(0, 12, 4)[1]

def nothing():
    return []
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe file beside a module of agents and worlds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "agent_parts.py").write_text(PARTS)
    given = {
        "method": "in_context",
        "models": {n: {"kind": "torch", "path": f"agent_parts:{n}"} for n in ("student", "teacher")},
        "options": {"demonstrations": "agent_parts:train", "worlds": "agent_parts:test", "max_steps": 15},
        "data": {"kind": "none"}, "out": "out",
    }  # fmt: skip
    given["models"]["encode"] = {"kind": "torch", "path": "agent_parts:encoder"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(given))
    return tmp_path


def test_two_agents_play_and_the_index_serves_again(recipe, capsys):
    assert command(["run", "recipe.yaml"]) == 0
    assert "success" in capsys.readouterr().out
    told = json.loads((recipe / "out" / "summary.json").read_text())
    assert told["teacher"]["success"] == 1.0 and told["demonstrations"]["episodes"] == 12
    lines = [json.loads(line) for line in (recipe / "out" / "episodes.jsonl").read_text().splitlines()]
    assert sum(line["success"] for line in lines) / 4 == told["student"]["success"]
    assert sum(len(line["steps"]) for line in lines) / 4 == told["student"]["steps"]
    assert command(["run", "recipe.yaml", "out=again", "options.demonstrations=out/index"]) == 0
    again = json.loads((recipe / "again" / "summary.json").read_text())
    assert again["student"] == told["student"] and "demonstrations" not in again


def test_a_teacher_whose_price_is_nothing_makes_the_students_the_only_cost(recipe):
    assert command(["run", "recipe.yaml", "options.teacher_price=[0, 0]", "options.cascade.name=random_mix",
                    "options.cascade.share=1.0"]) == 0  # fmt: skip
    told = json.loads((recipe / "out" / "summary.json").read_text())
    assert told["teacher"]["cost"] == 0 and told["student"]["cost"] > 0
    assert told["student"]["teacher_steps"] == 1.0 and told["student"]["success"] == 1.0


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("options.worlds=agent_parts:nothing", "no list of worlds"),
        ("options.worlds=agent_parts", "module:function"),
        ("options.demonstrations=agent_parts:gone", "cannot import"),
        ("options.k=-1", "give a whole number from 0"),
        ("options.teacher_price=[-1, 2]", "give a number from 0 up"),
        ("options.cascade.name=guess", "self_consistency"),
        ("options.max_steps=1", "reached no goal"),
        ("options.wrlds=x", "worlds"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(recipe, override, part):
    with pytest.raises(UserError) as mistake:
        command(["run", "recipe.yaml", override])
    assert part in str(mistake.value) and "\n" not in str(mistake.value)
    assert not (recipe / "out").exists()
