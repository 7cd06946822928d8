"""Recipes: three methods on models and files made here, and every mistake as one line with its place and remedy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image

import redistill
from redistill.cli.app import run as command
from redistill.core import Plan, fit
from redistill.core.errors import UserError
from redistill.models import doors
from redistill.models.nets import mlp
from redistill.supervised.classifier import Classification

NET = "redistill.models.nets:mlp"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a table, a folder of images, JSON lines, a diffusers folder's worth of mistakes."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez("column.npz", image=rng.random((24, 1, 4, 4), dtype=np.float32), label=np.arange(24)[:, None] % 3)
    np.savez("far.npz", image=rng.random((24, 1, 4, 4), dtype=np.float32), label=np.arange(24) % 4)
    for name in ("a", "b"):
        (tmp_path / "holes" / name).mkdir(parents=True)
    Image.new("RGB", (6, 5), "red").save(tmp_path / "holes" / "a" / "x.png")
    np.savez("rows.npz", image=rng.random((24, 1, 4, 4), dtype=np.float32), label=np.arange(24) % 3)
    (tmp_path / "broken.csv").write_text("a,b\n1,2\n3\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "hello"}\n')
    (tmp_path / "broken.jsonl").write_text('{"prompt": "hello"}\nnot json\n')
    (tmp_path / "list.jsonl").write_text("[1, 2]\n")
    (tmp_path / "text.txt").write_text("words")
    (tmp_path / "nothing").mkdir()
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (6, 5), "red").save(tmp_path / "images" / name / "x.png")
    (tmp_path / "fakes" / "a").mkdir(parents=True)
    (tmp_path / "fakes" / "a" / "x.png").write_text("no image")
    return tmp_path


def recipe(folder: Path, **changes) -> Path:
    given = {
        "method": "ps_kd",
        "models": {"student": {"kind": "torch", "path": NET, "options": {"inputs": 16, "outputs": 3, "hidden": [8]}}},
        "options": {"classes": 3, "rectifier": {"name": "progressive", "alpha": 0.5}},
        "data": {"kind": "table", "path": "rows.npz"},
        "plan": {"steps": 3, "batch_size": 8, "device": "cpu"},
        "out": "out",
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({k: v for k, v in {**given, **changes}.items() if v is not None}))
    return file


def test_a_recipe_trains_saves_and_resumes(folder):
    from safetensors.torch import load_file

    from redistill.models.nets import mlp

    file = str(recipe(folder))
    assert command(["run", file, "plan.steps=4", "options.rectifier.alpha=0.2"]) == 0
    mlp(16, 3, [8]).load_state_dict(load_file("out/student/model.safetensors"))
    with pytest.raises(UserError, match="holds another run"):
        command(["run", file])
    assert command(["run", file, "plan.steps=4", "options.rectifier.alpha=0.2", "--resume"]) == 0


def test_the_readme_of_a_student_runs_in_a_fresh_process(folder):
    assert command(["run", str(recipe(folder)), "plan.steps=1"]) == 0
    weights = safetensors.torch.load_file("out/student/model.safetensors")
    code = (folder / "out" / "student" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    told = subprocess.run([sys.executable, "-c", code], cwd="out/student", capture_output=True, text=True, check=True)
    net = mlp(16, 3, [8])
    net.load_state_dict(weights)
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", told.stdout)]
    assert numbers == pytest.approx(net(torch.zeros(1, 1, 4, 4))[0].tolist(), abs=1e-3)


def test_a_student_of_a_methods_own_making_gets_no_call_that_would_fail(tmp_path):
    spec = doors.ModelSpec(kind="torch", path=NET, options={"inputs": 4, "outputs": 2})
    doors.save_student(torch.nn.Sequential(torch.nn.Linear(4, 2)), None, tmp_path, 1, spec=spec)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_recipe_changes_its_training_images(folder):
    augment = {"name": "crop_flip_jitter", "border": 1}
    file = recipe(folder, data={"kind": "table", "path": "rows.npz", "augment": augment})
    weights = {}
    for out, overrides in (("changed", []), ("plain", ["data.augment=null"])):
        command(["run", str(file), f"out={out}", *overrides])
        weights[out] = (folder / out / "student" / "model.safetensors").read_bytes()
    assert weights["changed"] != weights["plain"]


def test_a_folder_of_images_gives_rows_and_classes(folder):
    models = {"student": {"kind": "torch", "path": NET, "options": {"inputs": 48, "outputs": 2}}}
    data = {"kind": "images", "path": "images", "options": {"size": 4}}
    assert command(["run", str(recipe(folder, models=models, data=data, options={}))]) == 0


def unet(**options):
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), **options,
    )  # fmt: skip


def dmd2_recipe(folder: Path, net, scheduler, *, size: int = 8, **options) -> str:
    net.save_pretrained("teacher/unet")
    scheduler.save_pretrained("teacher/scheduler")
    models = {"teacher": {"kind": "diffusers", "path": "teacher/unet"}, "student": {"kind": "copy", "path": "teacher"}}
    data = {"kind": "images", "path": "images", "options": {"size": size}}
    plan = {"steps": 1, "batch_size": 2, "device": "cpu"}
    options = {"critic_turns": 1, **options}
    return str(recipe(folder, method="dmd2", models=models, data=data, plan=plan, options=options))


@pytest.mark.parametrize(("net", "options"), [({}, {}), ({"num_class_embeds": 3}, {"condition": "label", "guidance": 2,
                                                                                   "null": 2})])  # fmt: skip
def test_dmd2_from_a_diffusers_folder_to_a_pipeline(folder, net, options):
    from diffusers import DDIMScheduler, DiffusionPipeline

    assert command(["run", dmd2_recipe(folder, unet(**net), DDIMScheduler(), **options)]) == 0
    assert DiffusionPipeline.from_pretrained("out/student").unet.config.sample_size == 8


@pytest.mark.parametrize(
    ("net", "scheduler", "options", "part"),
    [
        ({}, "EDMEulerScheduler", {"steps": 4}, "steps: no stock scheduler adds fresh noise on an EDM path"),
        ({}, "FlowMatchEulerDiscreteScheduler", {"steps": 4}, "steps: no stock scheduler has several steps on a shift"),
        ({"num_class_embeds": 3}, "DDIMScheduler", {}, "UNet2DModel wants a condition"),
        ({}, "DDIMScheduler", {"guidance": 8}, "guidance: needs condition"),
        ({}, "DDIMScheduler", {"size": 16}, r"images of shape \[3, 16, 16\], samples of \[3, 8, 8\]"),
        ({"in_channels": 4, "out_channels": 4}, "DDIMScheduler", {}, r"samples of \[4, 8, 8\]"),
    ],
)
def test_what_dmd2_cannot_train_or_export_is_refused_at_once(folder, net, scheduler, options, part):
    import diffusers

    shift = {"shift": 3.0} if scheduler.startswith("Flow") else {}
    file = dmd2_recipe(folder, unet(**net), getattr(diffusers, scheduler)(**shift), **options)
    with pytest.raises(UserError, match=part):
        command(["run", file])
    assert not (folder / "out").exists()


def test_sdft_from_json_lines_to_a_transformers_folder(folder):
    from transformers import AutoModelForCausalLM

    from redistill.beds import lm

    student = lm.load()
    student.config.max_position_embeddings = 256  # the request of the teacher's prompt alone has 100 characters
    student.save("model")
    rows = [{"prompt": "RVabcd", "demonstration": "<d/c/b/a>"}, {"prompt": "RVbcda", "demonstration": "<a/d/c/b>"}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    file = recipe(
        folder, method="sdft", models={"student": {"kind": "causal_lm", "path": "model"}},
        options={"max_new_tokens": 6, "skip_tokens": 0, "divergence": "reverse_kl"},
        data={"kind": "jsonl", "path": "rows.jsonl"}, plan={"steps": 1, "batch_size": 2, "device": "cpu"},
    )  # fmt: skip
    assert command(["run", str(file)]) == 0
    AutoModelForCausalLM.from_pretrained("out/student")


@pytest.mark.parametrize(
    ("change", "options", "part"),
    [
        ({"prompt": "  "}, {}, "data: row 1: 'prompt' is empty"),
        ({"demonstration": ""}, {}, "data: row 1: 'demonstration' is empty"),
        ({"demonstration": ["<d>"]}, {}, "data: row 1: 'demonstration' is no text but list"),
        ({"demonstration": None, "answer": "d"}, {}, r"row 1 has no 'demonstration'; has \['answer', 'prompt'\]"),
        (
            {"demonstration": "abcd" * 300},
            {},
            r"row 1: its prompt with the demonstration has 1\d+ tokens, the model 256",
        ),
        ({}, {"max_length": 0}, "data.options.max_length: max_length=0; give a number of tokens"),
        ({}, {"max_lenght": 9}, "data.options.max_lenght: unknown option 'max_lenght'; did you mean 'max_length'"),
    ],
)
def test_mistakes_in_demonstrations_are_one_line(folder, change, options, part):
    file = demonstrations(folder, change, options)
    with pytest.raises(UserError, match=part):
        command(["run", file])
    assert not (folder / "out").exists()


def test_answers_of_which_nothing_is_left_are_refused(folder):
    file = demonstrations(folder, {}, {})
    with pytest.raises(UserError, match="skip_tokens: 50 leaves nothing of answers of"):
        command(["run", file, "options.skip_tokens=50"])
    assert not (folder / "out").exists()


def test_demonstrations_are_cut_on_request_and_a_model_without_template_is_refused(folder):
    file = demonstrations(folder, {"demonstration": "abcd" * 300}, {"max_length": 40})
    with pytest.warns(UserWarning, match="2 of 2 prompts are longer than 40 tokens"):
        assert command(["run", file]) == 0
    (folder / "model" / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="data: the tokenizer has no chat template"):
        command(["run", file, "out=other"])
    assert not (folder / "other").exists()


def demonstrations(folder: Path, change: dict, options: dict) -> str:
    """A recipe of SDFT on a blank model of 256 positions and two rows, of which the second one is changed."""
    from redistill.beds import lm

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    lm.blank(0, **sizes, num_key_value_heads=2, head_dim=8, max_position_embeddings=256).save("model")
    second = {"prompt": "RVbcda", "demonstration": "<a/d/c/b>", **change}
    rows = [{"prompt": "RVabcd", "demonstration": "<d/c/b/a>"}, {k: v for k, v in second.items() if v is not None}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(recipe(
        folder, method="sdft", models={"student": {"kind": "causal_lm", "path": "model"}},
        options={"max_new_tokens": 4, "skip_tokens": 0},
        data={"kind": "jsonl", "path": "rows.jsonl", "options": options},
        plan={"steps": 1, "batch_size": 2, "device": "cpu"},
    ))  # fmt: skip


@pytest.fixture
def texts(folder) -> Path:
    """A pre-trained encoder of a few words without a head, and labelled sentences as JSON lines, CSV and a data set."""
    import datasets
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "good", "bad", "film", "book"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]").save_pretrained("encoder")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained("encoder")
    rows = [{"text": f"{mood} {thing} " * (1 + n % 3), "label": mood} for n in range(6) for mood in ("good", "bad")
            for thing in ("film", "book")]  # fmt: skip
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    numbers = [(row["text"], int(row["label"] == "good")) for row in rows]
    (folder / "texts.csv").write_text("sentence,label\n" + "".join(f"{text},{label}\n" for text, label in numbers))
    datasets.Dataset.from_dict({"text": [t for t, _ in numbers], "label": [k for _, k in numbers]}).save_to_disk("set")
    return folder


def text_recipe(folder: Path, **changes) -> str:
    student = {"kind": "classifier", "path": "encoder", "options": {"classes": ["bad", "good"], "seed": 3}}
    given = {
        "method": "dcs", "models": {"student": student, "teacher": {"kind": "classifier", "path": "first/student"}},
        "options": {"weight": {"name": "boosting", "eta": 0.3}}, "data": {"kind": "jsonl", "path": "texts.jsonl"},
        "plan": {"epochs": 4, "batch_size": 8, "lr": 0.01, "device": "cpu"},
    }  # fmt: skip
    return str(recipe(folder, **{**given, **changes}))


FIRST = ["models.teacher=null", "options.soft_weight=0", "options.hard_weight=1", "options.weight=equal", "out=first"]


def test_dcs_fine_tunes_a_text_classifier_twice(texts):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    file = text_recipe(texts)
    assert command(["run", file, *FIRST]) == 0
    assert command(["run", file]) == 0
    assert "contradicts" in (texts / "out" / "log.jsonl").read_text()
    for name in ("first", "out"):
        net = AutoModelForSequenceClassification.from_pretrained(f"{name}/student").eval()
        tokenizer = AutoTokenizer.from_pretrained(f"{name}/student")
        said = net(**tokenizer(["good film good film", "bad book"], padding=True, return_tensors="pt")).logits.argmax(1)
        assert [net.config.id2label[int(k)] for k in said] == ["good", "bad"]


def test_texts_come_from_any_table_and_a_teachers_answers_can_be_stored(texts):
    from safetensors.torch import load_file

    for kind, path, columns in (("table", "texts.csv", {"text": "sentence"}), ("disk", "set", {})):
        data = {"kind": kind, "path": path, "columns": columns, "options": {"max_length": 4}}
        assert command(["run", text_recipe(texts, data=data), *FIRST[:-1], f"out={kind}"]) == 0
    one, two = (load_file(f"{kind}/student/model.safetensors") for kind in ("table", "disk"))
    assert all(torch.equal(one[name], two[name]) for name in one)  # the same head, batches and dropout
    assert command(["run", text_recipe(texts), *FIRST]) == 0
    data = {"kind": "jsonl", "path": "texts.jsonl", "teacher_logits": "answers.npy"}
    assert command(["run", text_recipe(texts, data=data)]) == 0
    assert np.load("answers.npy").shape == (24, 2)


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["models.student.options.classes=[good, nice]"], "data: row 2: unknown label 'bad'"),
        (["models.student.options.classes=1"], "classes=1"),
        (["models.student.options.classes=[bad, bad]"], "different names"),
        (["data.options.max_length=0"], "max_length=0"),
        (["data.columns.text=txt"], "txt"),
        (["models.teacher=null", "data.teacher_logits=null"], "'teacher_logits'"),
        (["models.teacher=null", "options.soft_weight=0"], "give models.teacher"),
    ],
)
def test_mistakes_in_a_recipe_of_texts(overrides, part, texts):
    student = text_recipe(texts)
    if "models.teacher=null" not in overrides:
        overrides = ["models.teacher.path=encoder", *overrides]
    with pytest.raises(UserError, match=part):
        command(["run", student, *overrides])
    assert not (texts / "out").exists()


def d_ode_recipe(folder: Path, net, **changes) -> str:
    from diffusers import DDIMPipeline, DDIMScheduler

    DDIMPipeline(net, DDIMScheduler()).save_pretrained("teacher")
    given = {"options": {"steps": 3, "scale": 2, "batch": 2}, "data": {"kind": "none"}, **changes}
    models = {"teacher": {"kind": "diffusers", "path": "teacher"}}
    return str(recipe(folder, method="d_ode", models=models, plan=None, **given))


def test_a_solver_is_fitted_around_a_pipeline(folder, capsys):
    from diffusers import DiffusionPipeline

    file = d_ode_recipe(folder, unet())
    assert command(["run", file]) == 0
    assert "less error" in capsys.readouterr().out
    assert len(json.loads((folder / "out" / "lambdas.json").read_text())["lambdas"]) == 3
    pipeline = DiffusionPipeline.from_pretrained("out/pipeline", trust_remote_code=True)
    assert pipeline(batch_size=1, num_inference_steps=3, output_type="np").images.shape == (1, 8, 8, 3)
    assert command(["run", file, "options.steps=1", "out=one"]) == 0
    assert ": 0 % less error" in capsys.readouterr().out  # the first x0 has no predecessor, so nothing is fitted
    with pytest.raises(UserError, match=r"options.batch: give a whole number from 1"):
        command(["run", file, "options.batch=0", "out=none"])


def test_a_solver_is_fitted_with_the_classes_of_the_data(folder):
    data = {"kind": "images", "path": "images", "options": {"size": 8}}
    file = d_ode_recipe(folder, unet(num_class_embeds=3), data=data)
    with pytest.raises(UserError, match="UNet2DModel wants a condition"):
        command(["run", file])
    with pytest.raises(UserError, match="did you mean 'label'"):
        command(["run", file, "options.condition=labl"])
    guided = ["options.condition=label", "options.guidance=2.0", "options.null=2", "options.batch=3"]
    assert command(["run", file, *guided]) == 0
    assert json.loads((folder / "out" / "lambdas.json").read_text())["guidance"] == 2.0


def test_a_table_is_fitted_by_repeated_ridge(folder, capsys):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 2))
    y = X @ [1.0, -2.0] + 3
    (folder / "table.csv").write_text("a,b,y\n" + "".join(f"{a},{b},{c}\n" for (a, b), c in zip(X, y)))
    file = recipe(
        folder, method="repeated_sd", models=None, plan=None, options={"target": "y", "rounds": 1},
        data={"kind": "table", "path": "table.csv"},
    )  # fmt: skip
    assert command(["run", str(file)]) == 0
    found = json.loads((folder / "out" / "model.json").read_text())
    assert found["coefficients"] == pytest.approx({"a": 1.0, "b": -2.0}, abs=1e-3)
    assert found["intercept"] == pytest.approx(3, abs=1e-3)
    with pytest.raises(UserError, match="another run"):
        command(["run", str(file)])
    with pytest.raises(UserError, match="did you mean 'y'"):
        command(["run", str(file), "options.target=yy", "out=other"])
    with pytest.raises(UserError, match="cannot go on where it was"):
        command(["run", str(file), "--resume"])
    with pytest.raises(UserError, match="does not train"):
        command(["run", str(file), "plan.steps=3", "out=other"])
    assert not (folder / "other").exists()


def test_a_procedure_starts_from_the_seed_and_goes_on_when_asked(folder):
    cells = {"channels": 1, "outputs": 3, "widths": [4, 4], "nodes": 3}
    models = {"student": {"kind": "torch", "path": "redistill.models.cells:CellNet", "options": cells}}
    plan = {"epochs": 2, "batch_size": 8, "device": "cpu"}
    file = str(recipe(folder, method="sd_darts", models=models, options={"retrain_epochs": 1}, plan=plan))
    for out, *more in (["one"], ["two"], ["other", "plan.seed=1"], ["one", "--resume"]):
        assert command(["run", file, f"out={out}", *more]) == 0
    found = {out: (folder / out / "architecture.json").read_text() for out in ("one", "two", "other")}
    assert found["one"] == found["two"] != found["other"]


def test_every_number_of_a_table_is_an_input_and_holes_are_named(folder, capsys):
    rng = np.random.default_rng(0)
    counted, X = rng.integers(0, 9, 80), rng.normal(size=(80, 2)).astype(np.float32)
    columns = {"counted": counted, "a": X[:, 0], "name": np.array(["x"] * 80), "y": X[:, 0] + 2 * counted}
    np.savez("table.npz", **columns)
    lines = [",".join(map(str, row)) for row in zip(counted, X[:, 0], columns["y"])]
    holes = {"input": ["", "0", "0"], "target": ["0", "0", ""], "nan": ["nan", "0", "0"]}
    for name, cells in holes.items():
        (folder / f"{name}.csv").write_text("\n".join(["counted,a,y", *lines[:3], ",".join(cells), *lines[4:]]) + "\n")
    (folder / "same.csv").write_text("\n".join(["a,y", *[f"{a},3" for a in X[:, 0]]]) + "\n")
    options = {"target": "y", "rounds": 3}
    file = str(recipe(folder, method="repeated_sd", models=None, plan=None, options=options))
    assert command(["run", file, "data.path=table.npz"]) == 0
    found = json.loads((folder / "out" / "model.json").read_text())
    assert found["coefficients"] == pytest.approx({"counted": 2.0, "a": 1.0}, abs=1e-3)
    assert len(found["xi_bar"]) == 3
    assert command(["run", file, "data.path=same.csv", "out=constant"]) == 0
    assert json.loads((folder / "constant" / "model.json").read_text())["xi"] == [0, 0, 0]
    mistakes = {
        "data.path=input.csv": "row 3 has no number in column 'counted'",
        "options.target=name": "needs numbers in 'name'", "options.validation=1": "above 0, below 1",
        "data.path=target.csv": "row 3 has no number in column 'y'",
        "data.path=nan.csv": "row 3 has no number in column 'counted'", "data.kind=none": "needs rows",
        "data.teacher_logits=x.npy": "leave it out",
    }  # fmt: skip
    for override, part in mistakes.items():
        with pytest.raises(UserError, match=part):
            command(["run", file, "data.path=table.npz", override, "out=never"])
    assert not (folder / "never").exists()


def test_a_mixture_that_no_rounds_reach_is_written_as_it_is(folder, monkeypatch):
    from redistill.methods.analysis import repeated_sd

    (folder / "table.csv").write_text("a,y\n" + "".join(f"{k},{k % 3}\n" for k in range(80)))
    file = str(recipe(folder, method="repeated_sd", models=None, plan=None, options={"target": "y"},
                      data={"kind": "table", "path": "table.csv"}))  # fmt: skip
    monkeypatch.setattr(repeated_sd, "_tune", lambda *given: (0.0, np.array([1.0, -1.0, 1.0, -1.0])))
    assert command(["run", file]) == 0
    found = json.loads((folder / "out" / "model.json").read_text())
    assert found["xi_bar"] == [1, -1, 1, -1] and "xi" not in found


def kept() -> torch.nn.Module:
    """A network with one layer that is drawn anew in each call and one that is always the same."""
    net = mlp(16, 3, [8])
    with torch.no_grad():
        net[1].weight.copy_(torch.arange(128.0).view(8, 16))
    return net


class Attends(torch.nn.Module):
    """Weights that no layer knows how to draw again."""

    def __init__(self):
        super().__init__()
        self.token = torch.nn.Parameter(torch.randn(1, 1, 16))
        self.attention = torch.nn.MultiheadAttention(16, 2, batch_first=True)
        self.last = torch.nn.Linear(16, 3)

    def forward(self, image):
        rows = torch.cat([self.token.expand(len(image), -1, -1), image.flatten(1)[:, None]], 1)
        return self.last(self.attention(rows, rows, rows)[0][:, 0])


def test_a_fresh_start_draws_every_weight_as_the_architecture_does(folder):
    from redistill.models.doors import ModelSpec, make_anew
    from redistill.procedures.job import Job

    teacher = ModelSpec(kind="torch", path=f"{__name__}:Attends", weights=folder / "teacher.safetensors")
    specs = {"student": ModelSpec(kind="copy", path="teacher"), "teacher": teacher}
    given = Attends()
    job = Job(folder, make=partial(make_anew, specs))
    fresh, same = (job.starts("student", given, fresh=fresh) for fresh in (True, False))
    for (name, one), other, again in zip(
        *(fresh(k).named_parameters() for k in (1,)), *(fresh(k).parameters() for k in (2, 1))
    ):
        assert torch.equal(one, again) and (torch.equal(one, other) == ("bias" in name and "last" not in name)), name
    assert all(torch.equal(p, q) for p, q in zip(same(1).parameters(), given.parameters()))
    options = {"weights": [1.5], "validation": 0.5}
    student = {"kind": "torch", "path": f"{__name__}:kept"}
    plan = {"steps": 2, "weight_decay": 0.01, "device": "cpu"}
    file = str(recipe(folder, method="label_noise_sd", models={"student": student}, options=options, plan=plan))
    with pytest.raises(UserError, match=r"comes with weights, so no start is new: 1\.weight; set"):
        command(["run", file])
    assert command(["run", file, "options.fresh=false"]) == 0


@pytest.mark.parametrize(("accuracies", "said"), [((0.5,) * 6, "accuracies .0.5."), ((0.1, 0.2), "2 runs")])
def test_nothing_is_explained_where_nothing_varies(accuracies, said):
    from redistill.procedures.soft_label_study import effects_of

    rows = [{"repeat": k, "tau": k % 2, "soft_weight": 0.5, "student": "s", "share": 1, "accuracy": a}
            for k, a in enumerate(accuracies)]  # fmt: skip
    assert re.search(said, effects_of(rows, ["tau", "soft_weight"]))


def test_labels_alone_are_one_run_however_many_settings_share_it():
    from redistill.procedures.soft_label_study import effects_of

    rng = np.random.default_rng(0)
    rows = [{"repeat": r, "tau": t, "soft_weight": w, "student": "s", "share": 1, "accuracy": rng.random()}
            for r in range(3) for w in (0, 0.5, 1) for t in (1, 2, 4)]  # fmt: skip
    for row in rows:
        row["accuracy"] = rows[9 * row["repeat"]]["accuracy"] if row["soft_weight"] == 0 else row["accuracy"]
    few = [row for row in rows if row["soft_weight"] or row["tau"] == 1]
    factors = ["tau", "soft_weight"]
    assert effects_of(rows, factors) == effects_of(few, factors)


def test_a_soft_label_study_says_which_factor_counts(folder, capsys):
    rng = np.random.default_rng(0)
    label = np.arange(60) % 3
    np.savez("rows.npz", image=np.float32(rng.random((60, 1, 4, 4)) + label[:, None, None, None]), label=label)
    nets = {role: {"kind": "torch", "path": NET, "options": {"inputs": 16, "outputs": 3, "hidden": [h]}}
            for role, h in (("student", 4), ("teacher", 8), ("other_teacher", 6))}  # fmt: skip
    options = {"temperatures": [1, 4], "weights": [0, 0.7], "parts": ["whole", "average"], "repeats": 2}
    file = str(recipe(folder, method="soft_label_study", models=nets, options=options))
    assert command(["run", file]) == 0
    assert "8 settings" in capsys.readouterr().out
    lines = (folder / "out" / "soft_label_study.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 8 and lines[0].startswith("repeat,tau,soft_weight")
    table = (folder / "out" / "soft_label_study.md").read_text().splitlines()
    assert [line.split(" | ")[0][2:] for line in table[2:]] == [
        "tau", "soft_weight", "form", "part", "share", "teacher", "tau x soft_weight"
    ]  # fmt: skip
    for override, part in {"parts=[averge]": "average", "repeats=0": "from 1", "weights=[2]": "from 0 to 1"}.items():
        with pytest.raises(UserError, match=part):
            command(["run", file, f"options.{override}", "out=never"])
    assert not (folder / "never").exists()


def test_a_survey_ranks_the_baselines_on_the_users_own_pair(folder, capsys):
    rng = np.random.default_rng(0)
    label = np.arange(60) % 3
    image = np.float32(rng.random((60, 1, 4, 4)) + np.eye(3)[label].repeat(6, 1)[:, :16].reshape(60, 1, 4, 4))
    np.savez("rows.npz", image=image, label=label)
    torch.manual_seed(0)
    teacher = redistill.models.nets.mlp(16, 3, [8, 8])
    data = {"image": torch.from_numpy(image), "label": torch.from_numpy(label)}
    safetensors.torch.save_model(
        fit(Classification(teacher), data, Plan(steps=60, lr=0.01, device="cpu")).student, "teacher.safetensors"
    )
    nets = {role: {"kind": "torch", "path": NET, "options": {"inputs": 16, "outputs": 3, "hidden": [h, h]}}
            for role, h in (("student", 4), ("teacher", 8))}  # fmt: skip
    nets["teacher"]["weights"] = "teacher.safetensors"
    options = {"classes": 3, "input_shape": [1, 4, 4], "stages": ["2", "4"], "embedding": "4"}
    file = str(recipe(folder, method="survey", models=nets, options=options))
    assert command(["run", file]) == 0
    assert "is the most accurate" in capsys.readouterr().out
    names = [line.split(",")[0] for line in (folder / "out" / "survey.csv").read_text().splitlines()[1:]]
    assert len(names) == 13 and {"labels", "kd", "crd", "byot"} <= set(names) and "attention" not in names
    assert command(["run", file, "options.baselines={kd: 0.5}", "out=other"]) == 0
    assert len((folder / "other" / "survey.md").read_text().splitlines()) == 4
    mistakes = {
        "baselines=[kdd]": "did you mean", "baselines=[attention]": "name other layers", "stages=['2', '5x']": "layer",
        "validation=2": "above 0, below 1",
    }  # fmt: skip
    for override, part in mistakes.items():
        with pytest.raises(UserError, match=part):
            command(["run", file, f"options.{override}", "out=third"])
    for parameter in teacher.parameters():
        parameter.data.zero_()
    safetensors.torch.save_model(teacher, "teacher.safetensors")
    with pytest.raises(UserError, match="hardly better than chance"):
        command(["run", file, "out=third"])
    assert not (folder / "third").exists()


def test_weights_beyond_one_are_tried_and_held_out_rows_choose(folder, capsys):
    options = {"weights": [0.5, 1.5], "validation": 0.5}
    plan = {"steps": 20, "lr": 0.01, "weight_decay": 0.01, "device": "cpu"}
    file = str(recipe(folder, method="label_noise_sd", options=options, plan=plan))
    assert command(["run", file]) == 0
    table = {row["weight"]: row["accuracy"] for row in json.loads((folder / "out" / "weights.json").read_text())}
    assert set(table) == {0.0, 0.5, 1.5}
    assert f"weight {max(table, key=table.get):g} is best" in " ".join(capsys.readouterr().out.split())
    assert redistill.models.nets.mlp(16, 3, [8]).load_state_dict(
        safetensors.torch.load_file(folder / "out" / "model.safetensors")
    )
    for override, part in {
        "weights=[]": "no weight",
        "validation=0": "above 0, below 1",
        "weight=[1]": "weights",
    }.items():
        with pytest.raises(UserError, match=part):
            command(["run", file, f"options.{override}", "out=other"])
    assert not (folder / "other").exists()


def test_a_teachers_answers_are_stored_once_and_then_stand_for_it(folder):
    from safetensors.torch import load_file

    nets = {role: {"kind": "torch", "path": NET, "options": {"inputs": 16, "outputs": 3, "hidden": [h]}}
            for role, h in (("student", 4), ("teacher", 8))}  # fmt: skip
    data = {"kind": "table", "path": "rows.npz", "teacher_logits": "answers.npy"}
    file = str(recipe(folder, method="pruned_data_kd", models=nets, options={"fraction": 0.5}, data=data))
    torch.manual_seed(0)
    assert command(["run", file]) == 0
    assert np.load(folder / "answers.npy").shape == (24, 3)
    file = str(
        recipe(
            folder, method="pruned_data_kd", models={"student": nets["student"]}, options={"fraction": 0.5}, data=data
        )
    )
    torch.manual_seed(0)
    assert command(["run", file, "out=again"]) == 0
    one, two = (load_file(folder / out / "student" / "model.safetensors") for out in ("out", "again"))
    assert one.keys() == two.keys()
    with pytest.raises(UserError, match="no teacher's answers"):
        command(["run", file, "out=third", "data.teacher_logits=gone.npy"])
    with pytest.raises(UserError, match="needs a teacher"):
        command(["run", file, "out=third", "data.teacher_logits=null"])


def test_a_random_teacher_meets_the_rows_of_the_recipe(folder):
    from redistill.data import read_table
    from redistill.methods.analysis.random_teachers import RandomTeachers
    from redistill.models.nets import staged_convnet

    spec = {"kind": "torch", "path": "redistill.models.nets:staged_convnet",
            "options": {"channels": 1, "outputs": 3, "widths": [4, 4]}}  # fmt: skip
    models = {"student": spec, "teacher": spec}
    file = str(recipe(folder, method="random_teachers", models=models, options={"alpha": 0.25}))
    assert command(["run", file]) == 0
    found = safetensors.torch.load_file("out/student/model.safetensors")
    torch.manual_seed(0)
    student, teacher = staged_convnet(1, 3, [4, 4]), staged_convnet(1, 3, [4, 4])
    method = RandomTeachers(student, teacher, alpha=0.25)
    method.meet(read_table("rows.npz"))
    fit(method, read_table("rows.npz"), Plan(steps=3, batch_size=8, device="cpu"))
    assert all(torch.equal(value, found[name]) for name, value in student.state_dict().items())
    with pytest.raises(UserError, match=r"options.alpha: give a number from 0 to 1"):
        command(["run", file, "out=other", "options.alpha=1.5"])
    assert not (folder / "other").exists()


def test_text_that_no_network_reads_is_left_out_and_tied_weights_come_back(folder):
    from redistill.data.doors import numbers
    from redistill.models.doors import ModelSpec, with_weights

    rows = numbers({"image": np.ones((2, 3)), "name": np.array(["a", "b"]), "score": np.array([1.0, np.nan])})
    assert rows["image"].dtype == np.float32 and set(rows) == {"image", "score"}

    def tied():
        net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
        net[1].weight = net[0].weight
        return net

    net, again = tied(), tied()
    safetensors.torch.save_model(net, "tied.safetensors")
    with_weights(again, ModelSpec(kind="torch", path="m:f", weights="tied.safetensors"), "models.teacher")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters()))


def test_a_start_with_resume_takes_a_folder_that_only_a_job_or_a_tracker_wrote_to(folder):
    file = str(recipe(folder))
    (folder / "out" / "out").mkdir(parents=True)
    (folder / "out" / "job-7.out").write_text("")
    assert command(["run", file, "--resume"]) == 0
    assert (folder / "out" / "student").is_dir()


def test_what_takes_no_images_or_is_no_network_is_not_asked(folder):
    from redistill.models.checks import check_inputs

    class Server(torch.nn.Module):
        def forward(self, image):
            raise AssertionError("asked")

    class Supernet(torch.nn.Linear):
        edges = 3

    rows = {"image": torch.ones(2, 5)}
    check_inputs({"student": Supernet(3, 3), "teacher": Server()}, rows)
    with pytest.raises(UserError, match=r"models.student: does not take the data's images \[5\] .*; make its input"):
        check_inputs({"student": torch.nn.Linear(3, 3)}, rows)


RECIPES = sorted(p.stem for p in (Path(redistill.__file__).parent / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("slug", RECIPES)
def test_starter_recipes_are_valid(slug, folder):
    from redistill.cli.recipe import read
    from redistill.cli.run import check_roles, runnable
    from redistill.core import Plan
    from redistill.core.slot import options

    assert command(["init", slug]) == 0
    written, target = read(folder / f"{slug}.yaml"), runnable(slug)
    check_roles(target, slug, written.models)
    assert set(written.options) <= set(options(target))
    assert not written.plan or Plan(**written.plan)
    with pytest.raises(UserError, match="exists"):
        command(["init", slug])


STUDENT = {"kind": "torch", "path": NET, "options": {"inputs": 16, "outputs": 3}}
TAUGHT = {"models": {"student": STUDENT, "teacher": STUDENT}, "options": {}}
MISTAKES: list[tuple[dict, list[str], str]] = [
    ({"method": "ps_kdd"}, [], "did you mean 'ps_kd'"),
    ({"method": "hyper_sd"}, [], "planned, not built"),
    ({"method": None}, [], "method"),
    ({"method": 3}, [], "method"),
    ({"modles": {}}, [], "did you mean 'models'"),
    ({"out": None}, [], "out"),
    ({"plan": None}, [], "plan"),
    ({"plan": {"steps": 1, "lrr": 1}}, [], "plan.lrr: unknown key 'lrr'; did you mean 'lr'"),
    ({"plan": {"steps": "many"}}, [], "plan.steps"),
    ({"plan": {"steps": 0}}, [], "plan.steps"),
    ({"plan": {"steps": 1, "lr": -1}}, [], "plan.lr"),
    ({"plan": {"steps": 1, "epochs": 1}}, [], "either steps or epochs"),
    ({"plan": {}}, [], "either steps or epochs"),
    ({"plan": {"steps": 1, "optimizer": "adamx"}}, [], "did you mean 'adam"),
    ({"plan": {"steps": 1, "schedule": "cosin"}}, [], "did you mean 'cosine'"),
    ({"plan": {"steps": 1, "precision": "fp16"}}, [], "bf16"),
    ({"plan": {"steps": 1, "batch_size": 0}}, [], "plan.batch_size"),
    ({"plan": {"steps": 1, "accumulate": 0}}, [], "plan.accumulate"),
    ({"plan": {"steps": 1, "keep": 0}}, [], "plan.keep"),
    ({"plan": {"steps": 1, "momentum": 1.5}}, [], "plan.momentum"),
    ({"plan": {"steps": 1, "clip": 0}}, [], "plan.clip"),
    ({"plan": {"steps": 1, "device": "cuda"}}, [], "write cpu or auto"),
    ({"plan": {"steps": 1, "device": "cpu", "parallel": "shard"}}, [], "needs several processes"),
    ({"plan": {"steps": 1, "device": "cpu", "turns": {"studnt": {"lr": 1}}}}, [], "plan.turns"),
    ({"plan": {"steps": 1, "trackers": ["tensorbord"]}}, [], "plan.trackers"),
    ({"models": {}}, [], "needs a student"),
    ({"models": {"teacher": STUDENT, "student": STUDENT}}, [], "models.teacher: unknown role"),
    ({"models": {"studnet": STUDENT}}, [], "did you mean 'student'"),
    ({"models": {"student": {"kind": "troch", "path": NET}}}, [], "did you mean 'torch'"),
    ({"models": {"student": {"kind": "torch", "pth": NET}}}, [], "did you mean 'path'"),
    ({"models": {"student": {"kind": "torch", "path": "nowhere:net"}}}, [], "cannot import"),
    ({"models": {"student": {"kind": "torch", "path": "redistill.models.nets:mpl"}}}, [], "cannot import"),
    ({"models": {"student": {"kind": "torch", "path": "mlp"}}}, [], "module:function"),
    ({"models": {"student": {"kind": "torch", "path": NET, "options": {"input": 1}}}}, [], "models.student.options"),
    ({"models": {"student": {**STUDENT, "weights": "gone.safetensors"}}}, [], "models.student.weights"),
    ({"models": {"student": {**STUDENT, "weights": "text.txt"}}}, [], "models.student.weights"),
    ({"models": {"student": {"kind": "copy", "path": "teacher"}}}, [], "role to copy"),
    ({"models": {"student": {"kind": "causal_lm", "path": "gone"}}}, [], "models.student"),
    ({"models": {"student": {"kind": "causal_lm", "path": "nothing"}}}, [], "models.student"),
    ({"models": {"student": {"kind": "diffusers", "path": "gone"}}}, [], "models.student"),
    ({"models": {"student": {"kind": "diffusers", "path": "nothing"}}}, [], "models.student"),
    ({"models": {"student": {**STUDENT, "options": {"inputs": 16, "outputs": 4}}}}, [], "not 3 logits"),
    ({"options": {"classes": 3, "rectifer": "progressive"}}, [], "did you mean 'rectifier'"),
    ({"options": {"classes": 3, "rectifier": "progresive"}}, [], "did you mean 'progressive'"),
    ({"options": {"classes": 3, "rectifier": {"name": "fixed", "alfa": 1}}}, [], "did you mean 'alpha'"),
    ({"options": {"classes": 3, "rectifier": {"name": "fixed", "alpha": 2.0}}}, [], "0 to 1"),
    ({"options": {"classes": 3, "rectifier": {"name": "fixed", "alpha": "x"}}}, [], "rectifier.alpha"),
    ({"options": {"classes": 3, "rectifier": {"name": ["fixed"]}}}, [], "rectifier"),
    ({"options": {"classes": -1}}, [], "options.classes: give a whole number from 2"),
    ({"options": {"classes": "three"}}, [], "options.classes"),
    ({"options": {}}, [], "needs a value for 'classes'"),
    ({"options": {"classes": 2}}, [], "set classes to fit"),
    ({"data": {"kind": "tabel", "path": "rows.npz"}}, [], "did you mean 'table'"),
    ({"data": {"kind": "table", "file": "rows.npz"}}, [], "data"),
    ({"data": {"kind": "table", "path": "gone.npz"}}, [], "no such file"),
    ({"data": {"kind": "table", "path": "text.txt"}}, [], "give .csv or .npz"),
    ({"data": {"kind": "table", "path": "broken.csv"}}, [], "broken.csv:3"),
    ({"data": {"kind": "table", "path": "empty.csv"}}, [], "no rows"),
    ({"data": {"kind": "table", "path": "rows.npz", "columns": {"label": "lable"}}}, [], "did you mean 'label'"),
    ({"data": {"kind": "table", "path": "rows.npz", "columns": {"target": "label"}}}, [], "needs 'label'"),
    ({"data": {"kind": "images", "path": "gone"}}, [], "no such folder"),
    ({"data": {"kind": "images", "path": "nothing"}}, [], "no images"),
    ({"data": {"kind": "images", "path": "fakes"}}, [], "cannot read"),
    ({"data": {"kind": "images", "path": "images", "options": {"sise": 4}}}, [], "data.options"),
    ({"data": {"kind": "disk", "path": "gone"}}, [], "no such folder"),
    ({"data": {"kind": "disk", "path": "nothing"}}, [], "save_to_disk"),
    ({"data": {"kind": "jsonl", "path": "rows.jsonl"}}, [], "causal_lm"),
    ({"data": {"kind": "jsonl", "path": "broken.jsonl"}}, [], "broken.jsonl:2"),
    ({"data": {"kind": "jsonl", "path": "list.jsonl"}}, [], "list.jsonl:1"),
    ({"data": {"kind": "table", "path": "column.npz"}}, [], "one whole number a row"),
    ({"method": "ctkd", "data": {"kind": "table", "path": "column.npz"}, **TAUGHT}, [], "one whole number a row"),
    ({"method": "ctkd", "data": {"kind": "table", "path": "far.npz"}, **TAUGHT}, [], "labels 0 to 3 where"),
    ({"data": {"kind": "images", "path": "holes"}}, [], "no images in holes/b"),
    ({}, ["data.augment=crop_flip"], "did you mean 'crop_flip_jitter'"),
    ({}, ["data.augment={name: crop_flip_jitter, boder: 2}"], "did you mean 'border'"),
    (
        {"method": "ctkd", **TAUGHT},
        ["data.augment=crop_flip_jitter", "data.teacher_logits=x.npy"],
        "leave augment out",
    ),
    ({"method": "repeated_sd", "models": None}, ["data.augment=crop_flip_jitter"], "leave augment out"),
    ({}, ["plan.steps"], "no override"),
    ({}, ["plna.steps=1"], "did you mean 'plan'"),
    ({}, ["methd=ps_kd"], "did you mean 'method'"),
    ({}, ["method.x=1"], "not a table"),
    ({}, ["plan.lr=[1"], "plan.lr"),
]


@pytest.mark.parametrize(("changes", "overrides", "said"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_one_line_and_nothing_is_written(changes, overrides, said, folder):
    file = recipe(folder, **changes)
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError) as caught:
        command(["run", str(file), *overrides])
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "gone.yaml"], "no such file"), (["run"], "RECIPE"), (["init", "hyper_sd"], "planned"),
        (["init", "ps_kd", "--out", "gone/x.yaml"], "no such folder"),
        (["reproduce"], "--all"), (["reproduce", "nope_kd"], "unknown"), (["reproduce", "hyper_sd"], "planned"),
        (["reproduce", "ps_kd", "--seeds", "1,x"], "whole numbers"), 
        (["reproduce", "ps_kd", "--seeds", "1,1"], "twice"),
        (["reproduce", "ps_kd", "--jobs", "0"], "jobs"), (["run", "recipe.yaml", "--resum"], "resum"),
        (["demo", "--out", "images"], "is not empty"), (["reprodce"], "reproduce"),
    ],
)  # fmt: skip
def test_mistaken_commands(arguments, said, folder):
    recipe(folder)
    with pytest.raises(UserError, match=said):
        command(arguments)


@pytest.mark.parametrize(("text", "said"), [("a: [1", "not YAML"), ("- 1", "table of keys"), ("", "table of keys")])
def test_files_that_are_no_recipes(text, said, folder):
    (folder / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        command(["run", "bad.yaml"])
