"""A recipe of scaling runs on the user's own text: the table that ``redistill plan`` reads, and what it refuses."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml

from redistill.beds import markov
from redistill.cli.app import run as command
from redistill.core import Plan
from redistill.core.errors import UserError

SOURCE = markov.random_source(0, symbols=6)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with text, a student's configuration, a teacher who is sure and wrong, and text that does not fit."""
    folder = tmp_path_factory.mktemp("scaling")
    ids = SOURCE.text(80, 8, 0).numpy()
    np.savez(folder / "text.npz", ids=ids)
    np.savez(folder / "unknown.npz", ids=ids + 3)
    np.savez(folder / "reals.npz", ids=ids.astype(np.float32))
    np.savez(folder / "other.npz", tokens=ids)
    markov.student(6, 8, 0).save(folder / "student")
    loud = markov.student(6, 8, 0)
    loud.net.lm_head.weight.data.mul_(300.0)
    loud.save(folder / "loud")
    return folder


def recipe(made: Path, out: Path, **changes) -> str:
    model = {"kind": "causal_lm", "path": str(made / "student")}
    given = {
        "method": "scaling_laws", "models": {"student": model},
        "options": {"tokens": [128, 512], "validation": 0.2, **changes.pop("options", {})},
        "data": {"kind": "table", "path": str(made / changes.pop("text", "text.npz"))},
        "plan": {"epochs": 1, "batch_size": 8, "lr": 0.01, "device": "cpu"}, "out": str(out / "out"),
    }  # fmt: skip
    if "teacher" in changes:
        given["models"]["teacher"] = changes.pop("teacher")
    file = out / "recipe.yaml"
    file.write_text(yaml.safe_dump(given | changes))
    return str(file)


def runs(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "out" / "runs.csv").read_text().splitlines()))


def test_runs_on_the_text_alone(made, tmp_path, capsys):
    assert command(["run", recipe(made, tmp_path)]) == 0
    found = runs(tmp_path)
    assert [row["D"] for row in found] == ["128", "512"] and {row["teacher_loss"] for row in found} == {""}
    assert f"redistill plan --budget 1e21 --student 300M --runs {tmp_path}" in capsys.readouterr().out


def test_a_teacher_adds_its_runs_from_the_same_start(made, tmp_path):
    assert command(["run", recipe(made, tmp_path)]) == 0
    alone = runs(tmp_path)
    (tmp_path / "out" / "runs.csv").unlink()
    text = {"kind": "torch", "path": "tests.cli.test_scaling_recipe:exact"}
    with pytest.raises(UserError, match=r"models\.teacher: must be of kind causal_lm"):
        command(["run", recipe(made, tmp_path, teacher=text)])
    trained = trained_teacher(tmp_path / "trained")
    assert command(["run", recipe(made, tmp_path, teacher={"kind": "causal_lm", "path": str(trained)})]) == 0
    found = runs(tmp_path)
    assert found[:2] == alone and len(found) == 4
    assert float(found[2]["teacher_loss"]) == float(found[3]["teacher_loss"]) < np.log(6)
    assert found[2]["loss"] != found[0]["loss"]


def exact() -> markov.ExactModel:
    return markov.ExactModel(SOURCE)


def trained_teacher(folder: Path) -> Path:
    from redistill.methods.analysis.scaling_laws.runs import run

    teacher = markov.student(6, 8, 1)
    plan = Plan(epochs=1, batch_size=8, lr=0.02, device="cpu")
    run(teacher, None, SOURCE.text(400, 8, 5), SOURCE.text(8, 8, 6), plan)
    return teacher.save(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text": "other.npz"}, r"data\.columns: unknown column 'ids'; valid: tokens"),
        ({"text": "reals.npz"}, "data: ids must be whole numbers"),
        ({"text": "unknown.npz"}, "data: ids must be 0 to 5, the words that the models know"),
        ({"data": {"kind": "none"}}, "needs rows"),
        (
            {"options": {"tokens": [128, 4096]}},
            r"options\.tokens: \[128, 4096\]; give numbers of tokens from one",
        ),
        ({"options": {"tokens": []}}, r"options\.tokens: \[\]"),
        ({"options": {"tokens": [8]}}, r"from one batch \(64\) to all of the text \(512\)"),
        ({"options": {"validation": 1.0}}, r"options\.validation: give a number above 0, below 1"),
        ({"options": {"temprature": 2.0}}, "did you mean 'temperature'"),
        ({"teacher": "loud"}, r"models\.teacher: the teacher's loss is .* no better than guessing among 6 words"),
    ],
)
def test_mistakes_are_one_line(made, tmp_path, changes, said):
    if isinstance(changes.get("teacher"), str):
        changes = {"teacher": {"kind": "causal_lm", "path": str(made / changes["teacher"])}}
    with pytest.raises(UserError, match=said) as mistake:
        command(["run", recipe(made, tmp_path, **changes)])
    assert "\n" not in str(mistake.value)
    assert not (tmp_path / "out").exists()


def test_the_starter_recipe_is_read(tmp_path, monkeypatch):
    from redistill.cli.recipe import read

    monkeypatch.chdir(tmp_path)
    assert command(["init", "scaling_laws"]) == 0
    found = read(Path("scaling_laws.yaml"))
    assert Plan(**found.plan).epochs == 1
    assert set(found.models) == {"student", "teacher"} and found.options["tokens"][0] == 1_000_000
