"""Runs that are watched: held-out numbers, the best weights, curves, grids; and that watching changes no bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from redistill.cli.app import run as command
from redistill.cli.curves import draw
from redistill.cli.judges import judge_of
from redistill.cli.samples import grid
from redistill.core import Loss, Method, Plan, UserError, fit
from redistill.core.method import bare_progress
from redistill.data.picked import Picked, split
from redistill.models.nets import mlp
from redistill.supervised.classifier import Classification

# a layer that draws (dropout) and one with statistics: what a look could disturb
MODULE = """
import torch
from torch import nn
def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "nets_of_mine.py").write_text(MODULE)
    for name, rows in (("rows", 24), ("others", 10)):
        image, label = rng.random((rows, 1, 4, 4), dtype=np.float32), np.arange(rows) % 3
        np.savez(f"{name}.npz", image=image, label=label)
    np.savez("far.npz", image=image, label=label + 3)
    return tmp_path


def recipe(folder: Path, **changes) -> str:
    given = {
        "method": "ps_kd", "models": {"student": {"kind": "torch", "path": "nets_of_mine:net"}},
        "options": {"classes": 3}, "data": {"kind": "table", "path": "rows.npz"},
        "plan": {"steps": 12, "batch_size": 8, "lr": 0.05, "log_every": 2, "device": "cpu", "save_every": 6},
        "out": "out", **changes,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(given))
    return "recipe.yaml"


def logged(out: str) -> list[dict]:
    return [json.loads(line) for line in Path(out, "log.jsonl").read_text().splitlines()]


def student(out: str) -> dict[str, torch.Tensor]:
    return load_file(f"{out}/student/model.safetensors")


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_held_out_rows_are_looked_at_and_change_no_bit_of_the_run(folder):
    file = recipe(folder)
    assert command(["run", file]) == 0
    assert command(["run", file, "data.held_out=others.npz", "watch.every=4", "out=watched"]) == 0
    assert same(student("out"), student("watched"))

    rows = logged("watched")
    assert [row["step"] for row in rows if "held_out/accuracy" in row] == [4, 8, 12]
    found = json.loads(Path("watched/run.json").read_text())
    assert [step for step, _ in found["held_out"]["accuracy"]] == [4, 8, 12]
    assert found["last"] == rows[-1] and found["student_of_step"] == 12 and found["rows"] == 24
    with Image.open("watched/curves.png") as picture:
        assert min(picture.size) > 200

    rows = np.load("others.npz")
    net = __import__("nets_of_mine").net()
    net.load_state_dict(student("watched"))
    right = net.eval()(torch.from_numpy(rows["image"])).argmax(1).numpy() == rows["label"]
    assert found["held_out"]["accuracy"][-1][1] == pytest.approx(right.mean())


def test_a_share_is_held_out_whole_and_equal_for_every_seed(folder):
    rows = {"image": np.arange(20), "label": np.arange(20)}
    train, held = split(rows, 0.25, 0)
    assert len(held["label"]) == 5 and sorted([*train["label"], *held["label"]]) == list(range(20))
    picked = split([{"row": k} for k in range(20)], 0.25, 0)[1]
    assert [picked[k]["row"] for k in range(5)] == held["label"].tolist()
    assert len(split(list(range(3)), 0.01, 0)[1]) == 1 and len(split(list(range(3)), 0.99, 0)[0]) == 1

    file = recipe(folder, data={"kind": "table", "path": "rows.npz", "held_out": 0.25})
    for seed in (1, 2):
        assert command(["run", file, f"plan.seed={seed}", f"out=seed{seed}"]) == 0
        assert json.loads(Path(f"seed{seed}/run.json").read_text())["rows"] == 18


def test_picked_rows_of_a_table_are_taken_many_at_a_time():
    class Table:
        columns = ("row",)

        def __len__(self) -> int:
            return 9

        def __getitems__(self, index):
            return {"row": torch.tensor(index)}

    from redistill.core.source import table

    assert table(Picked(Table(), np.array([7, 2, 5]))).__getitems__([2, 0])["row"].tolist() == [5, 7]


BEST = {"data": {"kind": "table", "path": "rows.npz", "held_out": "others.npz"}, "keep": "best", "watch": {"every": 2}}


def test_the_best_weights_are_those_that_a_run_had_at_that_step(folder, capsys):
    rectifier = {"name": "fixed", "alpha": 0.5}  # one that does not grow with the share of the run that is done
    file = recipe(folder, **BEST, options={"classes": 3, "rectifier": rectifier})
    seeds = []
    for seed in range(6):
        assert command(["run", file, f"plan.seed={seed}", f"out=best{seed}"]) == 0
        looks = json.loads(Path(f"best{seed}/run.json").read_text())["held_out"]["accuracy"]
        first = next(step for step, value in looks if value == max(v for _, v in looks))
        if first < 12:
            seeds.append((seed, first))
            assert f"after 12 steps, as it was after {first}" in capsys.readouterr().out
    seed, first = seeds[0]  # a run whose last weights are not its best ones
    assert command(["run", file, f"plan.seed={seed}", f"plan.steps={first}", "keep=last", "out=short"]) == 0
    assert same(student(f"best{seed}"), student("short"))


def test_a_run_that_goes_on_ends_with_the_same_best_weights(folder):
    file = recipe(folder, **BEST)
    assert command(["run", file]) == 0
    whole, record = student("out"), Path("out/best.safetensors").read_bytes()

    for name in (
        "student",
        "checkpoints/step-000000012",
    ):  # as if killed after step 12 was judged and before it was saved
        shutil.rmtree(f"out/{name}")
    assert command(["run", file, "--resume"]) == 0
    assert same(student("out"), whole) and Path("out/best.safetensors").read_bytes() == record
    assert [row["step"] for row in logged("out")] == [2, 4, 6, 8, 10, 12]

    with pytest.raises(UserError, match="was chosen by other held-out rows"):
        command(["run", file, "--resume", "data.held_out=rows.npz"])
    Path("out/best.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is damaged"):
        command(["run", file, "--resume"])


def test_a_run_stops_early_goes_on_and_becomes_longer(folder, capsys):
    rectifier = {"name": "fixed", "alpha": 0.5}
    file = recipe(folder, **BEST, options={"classes": 3, "rectifier": rectifier})
    assert command(["run", file, "plan.steps=18", "out=whole"]) == 0
    assert command(["run", file, "--until", "1"]) == 0
    assert "student after 1 steps: weights" in capsys.readouterr().out  # nothing was looked at
    for arguments in (["--until", "7"], [], ["plan.steps=18"]):
        assert command(["run", file, "--resume", *arguments]) == 0
    assert same(student("out"), student("whole"))
    with pytest.raises(UserError, match=r"its rate \(cosine\) depends on; plan the longest run and stop it with until"):
        assert command(["run", file, "plan.schedule=cosine", "out=bent"]) == 0
        command(["run", file, "plan.schedule=cosine", "out=bent", "plan.steps=18", "--resume"])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.held_out=gone.npz"], "no such file"),
        (["data.held_out=1.5"], "data.held_out: 1.5 is no share"),
        (["data.held_out=0"], "is no share"),
        (["data.held_out=far.npz"], "labels 3 to 4 where the network has 3 classes"),
        (["keep=best"], "keep: no rows say which weights are best; give data.held_out"),
        (["keep=bst"], "keep"),
        (["watch.evry=3"], "did you mean 'every'"),
        (["watch.every=0"], "watch"),
        (["watch.samples=4"], "watch.samples: the student is a Sequential"),
    ],
)
def test_mistakes_in_what_is_watched_are_one_line(folder, overrides, said):
    with pytest.raises(UserError, match=said) as caught:
        command(["run", recipe(folder), *overrides])
    assert "\n" not in str(caught.value) and not (folder / "out").exists()


class Noisy(Method):
    """Two turns that draw, on rows without labels."""

    trains = {"critic": ["critic"], "student": ["student"]}

    def __init__(self, student, critic) -> None:
        super().__init__()
        self.student, self.critic = student, critic

    def loss(self, turn, batch, now):
        noise = now.randn(len(batch["image"]), 3)
        return Loss({"square": (getattr(self, turn)(batch["image"]) - noise).square().mean()})


def test_the_own_loss_is_that_of_every_turn_with_the_same_noise_at_every_look():
    method = Noisy(mlp(16, 3, [4]), mlp(16, 3, [4]))
    judge = judge_of(method, {"image": torch.rand(10, 16)}, batch_size=4)
    looks = [judge.numbers(method, bare_progress(step, seed=3)) for step in (0, 5)]
    assert looks[0] == looks[1] and set(looks[0]) == {"critic", "student"}
    assert looks[0] != judge.numbers(method, bare_progress(0, seed=4))
    assert judge.goal == ""


def test_observers_take_no_time_of_the_rows_per_second():
    import time

    def slow(now, row, method):
        time.sleep(0.3)

    rows = {"image": torch.rand(64, 16), "label": torch.arange(64) % 3}
    plan = Plan(steps=4, batch_size=8, log_every=1, device="cpu")
    done = fit(Classification(mlp(16, 3, [4])), rows, plan, observers=[slow])
    assert min(row["rows_per_second"] for row in done.history[1:]) > 8 / 0.3


def test_curves_are_drawn_for_whatever_a_log_holds(tmp_path):
    rows = [{"step": k, "epoch": 0, "ce": 10.0**-k, "held_out/accuracy": k / 5} for k in range(1, 5)]
    draw(rows, tmp_path / "a.png")
    draw([{"step": 1, "only": 0.0}], tmp_path / "b.png")
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("a.png", "b.png"))
    draw([{"step": 1}], tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()


def test_a_grid_lays_pictures_in_rows():
    x = torch.stack([torch.full((1, 2, 2), value) for value in (-1.0, 0.0, 1.0)])
    page = np.asarray(grid(x))
    assert page.shape == (4, 4) and page[0, 0] == 0 and page[0, 2] == 128 and page[2, 0] == 255 and page[2, 2] == 0
    assert np.asarray(grid(torch.zeros(5, 3, 2, 2))).shape == (4, 6, 3)


def test_a_generator_draws_grids_of_fixed_noise_and_trains_to_the_same_bits(folder):
    from diffusers import DDIMScheduler, UNet2DModel

    torch.manual_seed(0)
    UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        num_class_embeds=3,
    ).save_pretrained("teacher/unet")  # fmt: skip
    DDIMScheduler().save_pretrained("teacher/scheduler")
    image = np.random.default_rng(0).random((6, 3, 8, 8), dtype=np.float32)
    np.savez("pictures.npz", image=image, label=np.arange(6) % 2)
    models = {"teacher": {"kind": "diffusers", "path": "teacher/unet"}, "student": {"kind": "copy", "path": "teacher"}}
    file = recipe(
        folder, method="dmd2", models=models, options={"critic_turns": 1, "condition": "label", "steps": 2},
        data={"kind": "table", "path": "pictures.npz"},
        plan={"steps": 2, "batch_size": 2, "device": "cpu", "log_every": 1, "lr": 0.01},
    )  # fmt: skip
    assert command(["run", file]) == 0
    watched = ["watch.samples=5", "watch.every=1", "data.held_out=pictures.npz", "out=watched"]
    assert command(["run", file, *watched]) == 0
    one, two = (load_file(f"{out}/student/unet/diffusion_pytorch_model.safetensors") for out in ("out", "watched"))
    assert same(one, two)

    pages = [np.asarray(Image.open(f"watched/samples/step-{step:09d}.png")) for step in (1, 2)]
    assert pages[0].shape == (16, 24, 3) and not np.array_equal(*pages)
    assert np.abs(pages[0].astype(int) - pages[1]).mean() < 40  # two updates do little to the same noise
    assert {"held_out/critic", "held_out/student"} <= logged("watched")[-1].keys()
    with pytest.raises(UserError, match="keep: the method trains several networks"):
        command(["run", file, *watched[:-1], "keep=best", "out=none"])


def test_language_rows_are_judged_by_the_methods_own_loss(folder):
    from redistill.beds import lm

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    lm.blank(0, **sizes, num_key_value_heads=2, head_dim=8, max_position_embeddings=256).save("model")
    rows = [{"prompt": f"RV{a}bcd", "demonstration": f"<d/c/b/{a}>"} for a in "aefgh"]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    file = recipe(
        folder, method="sdft", models={"student": {"kind": "causal_lm", "path": "model", "options": {"lora_rank": 2}}},
        options={"max_new_tokens": 4, "skip_tokens": 0},
        data={"kind": "jsonl", "path": "rows.jsonl", "held_out": 0.4}, keep="best", watch={"every": 1},
        plan={"steps": 3, "batch_size": 2, "device": "cpu", "lr": 0.1, "log_every": 1},
    )  # fmt: skip
    assert command(["run", file]) == 0
    assert all(row["held_out/loss"] >= 0 for row in logged("out"))
    with safe_open("out/best.safetensors", "pt") as stored:
        assert all("lora_" in name for name in stored.keys())  # noqa: SIM118, no dict
        assert stored.metadata()["rows"] == "2"
