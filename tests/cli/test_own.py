"""A method of one's own in a recipe, and an adapter written apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from redistill.cli.app import run as command
from redistill.core.errors import UserError

MODULE = """
from typing import Literal
import torch
from redistill import Loss, Method

class Mine(Method):
    needs = ("image", "label")

    def __init__(self, student: torch.nn.Module, *, smoothing: float = 0.1,
                 kind: Literal["sum", "mean"] = "mean", broken: bool = False) -> None:
        super().__init__()
        self.student, self.smoothing, self.broken = student, smoothing, broken
        if smoothing < 0:
            raise ValueError(f"smoothing is {smoothing}")

    def loss(self, turn, batch, now):
        if self.broken:
            batch["image"] + "text"
        z = self.student(batch["image"])
        loss = torch.nn.functional.cross_entropy(z, batch["label"], label_smoothing=self.smoothing)
        return Loss({"ce": loss})

class Positional(Method):
    def __init__(self, student: torch.nn.Module, alpha: float = 1.0) -> None:
        super().__init__()

class Unknown(Method):
    def __init__(self, student: "Nowhere", *, alpha: float = 1.0) -> None:
        super().__init__()

class Forgetful(Method):
    def __init__(self, student: torch.nn.Module) -> None:
        self.student = student

def function(student):
    return student
"""
NET = {"kind": "torch", "path": "redistill.models.nets:mlp", "options": {"inputs": 16, "outputs": 3, "hidden": [8]}}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez("rows.npz", image=rng.random((24, 1, 4, 4), dtype=np.float32), label=np.arange(24) % 3)
    (tmp_path / "methods_of_mine.py").write_text(MODULE)
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('not today')\n")
    return tmp_path


def recipe(folder: Path, method: str = "methods_of_mine:Mine", **changes) -> str:
    given = {
        "method": method, "models": {"student": NET}, "options": {}, "data": {"kind": "table", "path": "rows.npz"},
        "plan": {"steps": 3, "batch_size": 8, "device": "cpu"}, "out": "out", **changes,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(given))
    return "recipe.yaml"


def test_a_method_of_ones_own_trains_and_resumes(folder):
    file = recipe(folder, options={"smoothing": 0.2})
    assert command(["run", file]) == 0
    with pytest.raises(UserError, match=r"options.smoothing was 0.2, is 0.3 here"):
        command(["run", file, "--resume", "options.smoothing=0.3"])
    assert command(["run", file, "--resume"]) == 0
    assert (folder / "out" / "student" / "model.safetensors").exists()


def test_a_published_rival_is_run_in_the_same_way(folder):
    assert command(["run", recipe(folder, "redistill.rivals.cs_kd:ClassWise", options={"tau": 2.0})]) == 0
    assert (folder / "out" / "student" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("methods_of_mine:Mine", {"smothing": 0.1}, "options.smothing: unknown option 'smothing'; did you mean"),
        ("methods_of_mine:Mine", {"smoothing": "much"}, "options.smoothing"),
        ("methods_of_mine:Mine", {"kind": "max"}, "options.kind"),
        ("methods_of_mine:Mine", {"smoothing": -1.0}, r"methods_of_mine.py:\d+: ValueError: smoothing is -1.0"),
        ("methods_of_mine:Mine", {"broken": True}, r"methods_of_mine.py:\d+: TypeError: .*--traceback"),
        ("methods_of_mine:Forgetful", {}, r"methods_of_mine.py:\d+: AttributeError"),
        ("methods_of_mine:Positional", {}, "'alpha' is no network; write it after a . in Positional.__init__"),
        ("methods_of_mine:Unknown", {}, "cannot read the annotations of methods_of_mine:Unknown .*Nowhere"),
        ("methods_of_mine:function", {}, "is a function; a recipe runs a subclass of redistill.Method"),
        ("methods_of_mine:Min", {}, "cannot import 'methods_of_mine:Min'"),
        ("broken_module:Mine", {}, r"cannot import 'broken_module:Mine' \(not today; broken_module.py:1\)"),
        ("nowhere:Mine", {}, "cannot import"),
        ("methods_of_mine:", {}, "write module:function"),
    ],
)
def test_mistakes_in_a_method_of_ones_own_are_one_line(folder, method, options, said):
    with pytest.raises(UserError, match=said) as caught:
        command(["run", recipe(folder, method, options=options)])
    assert "\n" not in str(caught.value)
    assert not list(folder.glob("out/student"))


def lora_recipe(folder: Path, **changes) -> str:
    from redistill.beds import lm

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    lm.blank(0, **sizes, num_key_value_heads=2, head_dim=8, max_position_embeddings=256).save("model")
    rows = [{"prompt": "RVabcd", "demonstration": "<d/c/b/a>"}, {"prompt": "RVbcda", "demonstration": "<a/d/c/b>"}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    student = {"kind": "causal_lm", "path": "model", "options": {"lora_rank": 2}}
    return recipe(
        folder, "sdft", models={"student": student}, options={"max_new_tokens": 4, "skip_tokens": 0},
        data={"kind": "jsonl", "path": "rows.jsonl"},
        plan={"steps": 2, "batch_size": 2, "device": "cpu", "lr": 0.1}, **changes,
    )  # fmt: skip


def test_an_adapter_written_apart_gives_the_merged_students_scores(folder, capsys):
    import peft
    from transformers import AutoModelForCausalLM

    file = lora_recipe(folder, merge=False)
    assert command(["run", file]) == 0
    assert "PeftModel.from_pretrained" in capsys.readouterr().out
    assert command(["run", file, "merge=true", "out=merged"]) == 0

    base = AutoModelForCausalLM.from_pretrained("model")
    ids = torch.arange(5)[None]
    before = base(ids).logits
    apart = peft.PeftModel.from_pretrained(base, "out/student")(ids).logits
    merged = AutoModelForCausalLM.from_pretrained("merged/student")(ids).logits
    torch.testing.assert_close(apart, merged)
    assert not torch.allclose(apart, before)


def test_a_student_without_adapter_has_none_to_write(folder):
    with pytest.raises(UserError, match="merge: the student has no adapter"):
        command(["run", recipe(folder, "ps_kd", options={"classes": 3}, merge=False)])
    with pytest.raises(UserError, match="merge: repeated_sd is no single training"):
        command(["run", recipe(folder, "repeated_sd", models={}, plan={}, merge=False)])
    assert not (folder / "out").exists()
