"""Whatever is wrong with a user's files, folders and values ends in one line, exit code 2, and nothing written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from redistill.cli import main
from redistill.core.errors import Diverged
from redistill.models.nets import mlp

NET = {"kind": "torch", "path": "redistill.models.nets:mlp", "options": {"inputs": 16, "outputs": 3, "hidden": [8]}}
PLAIN = {"kind": "torch", "path": "redistill.models.nets:mlp", "options": {"inputs": 192, "outputs": 192}}
PLAN = {"steps": 2, "batch_size": 4, "device": "cpu"}


def write_recipe(name: str, **given) -> None:
    Path(name).write_text(yaml.safe_dump({"plan": PLAN, "out": "out", **given}))


def write_models() -> None:
    """A tiny text encoder, and a diffusers pipeline."""
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
    from tokenizers import Tokenizer, models
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]").save_pretrained("encoder")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=4, **sizes)).save_pretrained("encoder")
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    DDIMPipeline(unet, DDIMScheduler()).save_pretrained("pipe")


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A folder in which everything is right."""
    import datasets

    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_models()
        rng = np.random.default_rng(0)
        image = rng.random((12, 1, 4, 4), dtype=np.float32)
        np.savez("rows.npz", image=image, label=np.arange(12) % 3)
        np.savez("index.npz", rows=np.arange(6), total=12)
        Path("table.csv").write_text("a,y\n" + "".join(f"{k},{k % 5}\n" for k in range(40)))
        Path("texts.jsonl").write_text("".join(f'{{"text": "{w}", "label": "{w}"}}\n' for w in ("good", "bad") * 4))
        Path("runs.csv").write_text("N,D,loss,teacher_loss\n" + "1e6,1e8,3,\n" * 9)
        Path("file").write_text("x")
        save_file(mlp(16, 3, [8]).state_dict(), "weights.safetensors")
        datasets.Dataset.from_dict({"image": image.tolist(), "label": [0, 1, 2] * 4}).save_to_disk("set")
        Path("images/a").mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", (8, 8), "red").save(f"images/a/{k}.png")
        progressive = {"classes": 3, "rectifier": {"name": "progressive", "alpha": 0.5}}
        write_recipe("ps_kd.yaml", method="ps_kd", models={"student": NET}, options=progressive,
                     data={"kind": "table", "path": "rows.npz"})  # fmt: skip
        classes = {"classes": ["bad", "good"]}
        write_recipe("dcs.yaml", method="dcs", data={"kind": "jsonl", "path": "texts.jsonl"},
                     models={"student": {"kind": "classifier", "path": "encoder", "options": classes}},
                     options={"weight": "equal", "soft_weight": 0, "hard_weight": 1})  # fmt: skip
        teacher = {"kind": "diffusers", "path": "pipe"}
        write_recipe("dmd2.yaml", method="dmd2", options={"critic_turns": 1},
                     models={"teacher": teacher, "student": {"kind": "copy", "path": "teacher"}},
                     data={"kind": "images", "path": "images", "options": {"size": 8}})  # fmt: skip
        write_recipe("d_ode.yaml", method="d_ode", models={"teacher": teacher}, data={"kind": "none"}, plan={},
                     options={"steps": 2, "scale": 2, "batch": 2})  # fmt: skip
        write_recipe("ridge.yaml", method="repeated_sd", options={"target": "y", "rounds": 1}, plan={},
                     data={"kind": "table", "path": "table.csv"})  # fmt: skip
    return folder


@pytest.fixture
def folder(good, tmp_path, monkeypatch) -> Path:
    shutil.copytree(good, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


Break = Callable[[], object]


def nothing() -> None:
    """The mistake is on the command line."""


def write(name: str, text: str | bytes) -> Break:
    return lambda: Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())


def cut(name: str) -> Break:
    """The first half of a file, as an interrupted copy leaves it."""
    return lambda: Path(name).write_bytes(Path(name).read_bytes()[: Path(name).stat().st_size // 2])


def add(name: str, text: str | bytes) -> Break:
    return lambda: Path(name).write_bytes(
        Path(name).read_bytes() + (text if isinstance(text, bytes) else text.encode())
    )


def remove(name: str) -> Break:
    return lambda: shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()


def columns(name: str = "rows.npz", **arrays) -> Break:
    return lambda: np.savez(name, **arrays)


def config(name: str, **changes) -> Break:
    return lambda: Path(name).write_text(json.dumps(json.loads(Path(name).read_text()) | changes))


def strange(name: str) -> Break:
    return lambda: save_file({"x": torch.ones(2)}, name)


def folder_for(name: str) -> Break:
    return lambda: (Path(name).unlink(), Path(name).mkdir())


def loop(name: str) -> Break:
    """A link to itself in the place of a file or folder."""
    return lambda: (remove(name)() if Path(name).exists() else None, Path(name).symlink_to(Path(name).name))


def pipe_for(name: str) -> Break:
    """A pipe that nobody writes to."""
    return lambda: (Path(name).unlink(), os.mkfifo(name))


def module(name: str, body: str) -> Break:
    """A user's own module with a factory ``make``."""
    return write(f"{name}.py", f"import torch\nfrom torch import nn\n{body}\n")


def net(body: str) -> str:
    """Source of a factory of a network whose forward pass is ``body``."""
    head = "class Net(nn.Module):\n def __init__(self):\n  super().__init__(); self.l = nn.Linear(16, 3)"
    return f"{head}\n def forward(self, x):\n  {body}\nmake = Net"


def poison(name: str, value: float) -> Break:
    """Weights of which one is ``value``."""

    def spoil() -> None:
        weights = load_file(name)
        weights[sorted(weights)[0]].view(-1)[0] = value
        save_file(weights, name, metadata={"format": "pt"})

    return spoil


def pickled(name: str, ending: str) -> Break:
    """Weights as torch.save writes them in the place of a safetensors file."""

    def swap() -> None:
        torch.save(load_file(name), Path(name).parent / ending)
        Path(name).unlink()

    return swap


def tokenizer(words: dict[str, int]) -> Break:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, **words}, unk_token="[UNK]"))
    fast = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")
    return lambda: fast.save_pretrained("encoder")


def image(width: int, height: int) -> Break:
    return lambda: Image.new("1", (width, height)).save("images/a/0.png")


def texts(text: str, label: str = "0") -> Break:
    return write("texts.jsonl", f'{{"text": "{text}", "label": {label}}}\n' * 2)


IMAGE, LABEL = np.zeros((4, 16), np.float32), np.arange(4) % 3
P, D, M, O, R = (["run", f"{name}.yaml"] for name in ("ps_kd", "dcs", "dmd2", "d_ode", "ridge"))
IMAGES = [*P, "data={kind: images, path: images, options: {size: 4}}", "models.student.options.inputs=48"]
DISK = [*P, "data={kind: disk, path: set}"]
SCALE = ["plan", "--budget", "1e21", "--student", "300M", "--runs", "runs.csv"]
UNET = [*M, "models.teacher.path=pipe/unet"]
WEIGHTS = [*P, "models.student.weights=weights.safetensors"]
LONG = "x" * 5000
PICK = [*P, "data.rows=index.npz"]
BIN = "pipe/unet/diffusion_pytorch_model.safetensors"
CASES: list[tuple[Break, list[str] | str, str]] = [
    # tables
    (cut("rows.npz"), P, "rows.npz is no whole npz file"),
    (write("rows.npz", "hello"), P, "rows.npz is no whole npz file"),
    (write("rows.npz", ""), P, "rows.npz is no whole npz file"),
    (columns(image=np.array([{}], dtype=object)), P, "pickled objects are not read"),
    (lambda: (np.save("x.npy", IMAGE), Path("x.npy").rename("rows.npz")), P, "one array (npy)"),
    (folder_for("rows.npz"), P, "rows.npz is a folder; give a file"),
    (columns(), P, "no arrays"),
    (columns(image=np.float32(1), label=np.int64(1)), P, "a column has a number or text in each row"),
    (columns(image=IMAGE, label=LABEL[:3]), P, "columns of unequal length"),
    (columns(image=IMAGE[:0], label=LABEL[:0]), P, "the data set is empty"),
    (columns(image=IMAGE, label=np.array(list("abca"))), P, "column 'label' is text, as 'a'"),
    (columns(image=IMAGE.astype(np.uint8), label=LABEL), P, "image / 255"),
    (columns(image=np.full_like(IMAGE, np.nan), label=LABEL), P, "row 0 of column 'image' is not finite"),
    (columns(image=np.zeros((4, 20), np.float32), label=LABEL), P, "models.student: does not take the data's images"),
    (write("table.csv", "a,y\n1,é\n".encode("latin-1")), R, "table.csv:2: not UTF-8"),
    (write("table.csv", ""), R, "table.csv: the file has no rows"),
    (write("table.csv", "a,y\n"), R, "table.csv: the file has no rows"),
    (write("table.csv", "a,y\n1,2\n1\n"), R, "table.csv:3: 1 fields where the header has 2"),
    (write("table.csv", "a,y\n1,2\n2,3\n"), R, "rows to fit are too few"),
    (write("table.csv", "a,a,y\n" + "1,2,3\n" * 9), R, "table.csv:1: two columns are called 'a'"),
    (write("table.csv", "a,y\n" + "1" * 200000 + ",2\n"), R, "table.csv:2: not CSV"),
    (add("table.csv", "x,2\n"), R, "column 'a': 'x' in line 42 among numbers"),
    (nothing, [*R, "data.options.txt=[a]"], "did you mean 'text'?"),
    (nothing, [*R, "data.options.text=[aa]"], "unknown column 'aa'"),
    (nothing, [*R, "options.seed=-1"], "options.seed: give a whole number from 0, below 2^63, got -1"),
    (columns(image=IMAGE, label=np.array([2**63, 0, 1, 2], np.uint64)), P, "'label' holds 9223372036854775808, more"),
    (columns(image=np.full((4, 16), 1e300), label=LABEL), P, "row 0 of column 'image' is not finite"),
    (columns(image=IMAGE, label=np.stack([LABEL, LABEL], 1)), P, "give one whole number a row"),
    (columns(img=IMAGE, label=LABEL), P, "needs 'image' in every row; did you mean 'img'?"),
    # index files
    (columns("index.npz", rows=np.arange(0), total=12), PICK, "index.npz holds no rows"),
    (cut("index.npz"), PICK, "index.npz is no whole npz file"),
    (columns("index.npz", rows=np.array([0.5]), total=12), PICK, "index.npz is no index file"),
    (columns("index.npz", rows=np.zeros((2, 2), int), total=12), PICK, "index.npz is no index file"),
    (columns("index.npz", rows=np.arange(2), total=np.arange(2)), PICK, "index.npz is no index file"),
    # JSON lines
    (add("texts.jsonl", '{"text": \n'), D, "texts.jsonl:9: not JSON"),
    (add("texts.jsonl", b'{"text": "\xe9"}\n'), D, "texts.jsonl:9: not UTF-8"),
    (add("texts.jsonl", "[1]\n"), D, "texts.jsonl:9: a row must be an object"),
    (add("texts.jsonl", "[" * 100000), D, "texts.jsonl:9: not JSON that can be read"),
    (add("texts.jsonl", '{"text": "good"}\n'), D, "row 8: has no 'label'"),
    (add("texts.jsonl", '{"label": "good"}\n'), [*D, "data.columns={text: text}"], "row 8: columns.text: unknown"),
    (texts("\\ud800"), D, "texts.jsonl:1: not JSON that can be read ('utf-8' codec can't encode"),
    (texts("good", "true"), D, "row 0: label True is none of the classes"),
    (texts("good", "1e400"), D, "row 0: label inf is none of the classes"),
    (texts("good " * 10**6), D, "row 0: 'text' has 5000000 characters; give at most"),
    (write("texts.jsonl", "[" * 5 * 10**6), D, "texts.jsonl:1: not JSON that can be read"),
    (nothing, [*D, "data.options.max_length=9999"], "data.options.max_length: max_length=9999; give a number of"),
    (nothing, [*D, f"data.options.max_length={10**30}"], "up to the model's 512"),
    (write("texts.jsonl", ""), D, "texts.jsonl: the file has no rows"),
    (folder_for("texts.jsonl"), D, "texts.jsonl is a folder"),
    # recipes
    (write("ps_kd.yaml", "method: [a\nmodels: }"), P, "ps_kd.yaml:2: not YAML"),
    (write("ps_kd.yaml", "- a\n"), P, "a recipe is a table of keys"),
    (add("ps_kd.yaml", "method: dcs\n"), P, "the key 'method' stands here a second time"),
    (add("ps_kd.yaml", b"# \xe9\n"), P, "not UTF-8"),
    (add("ps_kd.yaml", b"\x00"), P, "not YAML"),
    (write("ps_kd.yaml", "method: 2020-13-45\n"), P, "not YAML that can be read"),
    (write("ps_kd.yaml", "[" * 3000), P, "not YAML that can be read"),
    (nothing, ["run", "images"], "images is a folder; give a file"),
    (nothing, [*P, "plan.lr=\x01"], "plan.lr"),
    (nothing, [*P, "plan.betas=[1.5, 2]"], "plan.betas.0: give a number from 0, below 1, got 1.5"),
    (nothing, [*P, "plan.device=gpu"], "plan.device: unknown device 'gpu'"),
    (write("ps_kd.yaml", "method: [" + "a," * 10**6 + "]"), P, "2000010 characters of YAML; give at most"),
    (nothing, [*P, "plan.device=mps"], "plan.device: 'mps' is not available here"),
    (nothing, [*P, "plan.device=xpu"], "plan.device: 'xpu' is not available here"),
    (nothing, [*P, "plan.device=vulkan"], "plan.device: 'vulkan' is not available here"),
    (nothing, [*P, "plan.workers=100000"], "plan.workers: give a whole number from 0 to 64, got 100000"),
    (nothing, [*P, "plan.device=meta"], "plan.device: unknown device 'meta'"),
    (nothing, [*P, f"plan.seed={2**70}"], "plan.seed"),
    (nothing, [*P, "data={kind: none}"], "data.kind: PsKd needs rows"),
    # images and data sets
    (cut("images/a/1.png"), [*IMAGES, "plan.batch_size=3"], "images/a/1.png as an image"),
    (write("images/a/1.png", ""), IMAGES, "cannot read images/a/1.png as an image"),
    (lambda: Path("images/a/d.png").mkdir(), IMAGES, "cannot read images/a/d.png as an image"),
    (lambda: Path("images/a/d.png").symlink_to("nowhere"), IMAGES, "cannot read images/a/d.png as an image"),
    (lambda: [p.unlink() for p in Path("images/a").iterdir()], IMAGES, "no images in images"),
    (nothing, [*IMAGES, "data.path=file"], "no such folder: file"),
    (nothing, [*IMAGES, "data.options.size=0"], "data.options.size: give the side of the images in pixels"),
    (nothing, [*IMAGES, "data.options.size=abc"], "data.options.size: give the side of the images in pixels"),
    (nothing, [*IMAGES, "data.options.scale=sined"], "did you mean 'signed'?"),
    (nothing, [*IMAGES, "data.options.size=8"], "does not take the data's images [3, 8, 8]"),
    (cut("set/data-00000-of-00001.arrow"), DISK, "no whole data set"),
    (write("set/state.json", "{}"), DISK, "no whole data set"),
    (nothing, [*DISK, "data.path=images"], "no whole data set"),
    (pipe_for("images/a/1.png"), IMAGES, "cannot read images/a/1.png as an image (1.png is no file)"),
    (loop("images/a/1.png"), IMAGES, "Too many levels of symbolic links"),
    (image(13000, 13000), IMAGES, "Image size (169000000 pixels) exceeds limit"),
    (nothing, [*IMAGES, "data.options.size=200000"], "give the side of the images in pixels, from 1 to 8192"),
    (nothing, [*IMAGES, f"data.options.size={10**30}"], "data.options.size"),
    # names that no file can have, links to themselves, pipes
    (nothing, [*IMAGES, f"data.path={LONG}"], "data.path: cannot look for 'xxx"),
    (nothing, [*DISK, f"data.path={LONG}"], "data.path: cannot look for 'xxx"),
    (nothing, [*D, f"models.student.path={LONG}"], "models.student: path: cannot look for 'xxx"),
    (nothing, [*M, f"models.teacher.path={LONG}"], "models.teacher: cannot load 'xxx"),
    (nothing, [*P, 'data.path="a\\0b"'], "data.path: no such file"),
    (loop("rows.npz"), P, "data.path: no such file: rows.npz"),
    (loop("encoder"), D, "encoder: no such folder"),
    (pipe_for("rows.npz"), P, "data.path: no such file: rows.npz"),
    # folders to write
    (loop("out"), P, "out: out is a file; choose a folder"),
    (nothing, [*P, "out=file"], "out: file is a file; choose a folder"),
    (nothing, [*R, "out=file/x"], "is a file; choose a folder"),
    (nothing, [*P, "out=" + "x" * 300], "can be no folder"),
    (nothing, [*P, "--resume", "out=images"], "out: images holds no run to go on with"),
    (nothing, ["reproduce", "ps_kd", "--smoke", "--out", "file"], "--out: file is a file"),
    (nothing, ["report", "ps_kd", "--out", "file/x"], "is a file; choose a folder"),
    (nothing, ["demo", "--out", "file"], "--out: file is a file"),
    (nothing, ["reproduce", "ps_kd", "--smoke", "--seeds=-1"], "a seed is a whole number from 0"),
    (nothing, ["reproduce", "ps_kd", "--smoke", "--seeds=1.5"], "no list of whole numbers"),
    # scaling runs
    (write("runs.csv", "N,D,loss\n1,2,3\n"), SCALE, "no column 'teacher_loss'"),
    (write("runs.csv", "N,D,loss,teacher_loss\n1e6,-1,3,\n"), SCALE, "run 1: D: '-1' is no number above 0"),
    (write("runs.csv", "N,D,loss,teacher_loss\ninf,1,3,\n"), SCALE, "run 1: N: 'inf' is no number above 0"),
    (write("runs.csv", "N,D,loss,teacher_loss\n1,1,3,2,9\n"), SCALE, "run 1: more fields than the header's 4"),
    (write("r.json", '[{"N": 1%s}]' % ("0" * 5000)), [*SCALE[:-1], "r.json"], "not JSON that can be read"),
    # weights and networks
    (cut("weights.safetensors"), WEIGHTS, "no whole safetensors file"),
    (strange("weights.safetensors"), WEIGHTS, "does not fit the network (it lacks '1.bias')"),
    (nothing, [*P, "models.student.weights=absent"], "models.student.weights: no such file"),
    (nothing, [*P, "models.student.path=./x.py:f"], "write module:function"),
    (write("bad_syntax.py", "def f(:\n"), [*P, "models.student.path=bad_syntax:f"], "cannot import 'bad_syntax:f'"),
    (nothing, [*P, "models.student.options.inputs=-4"], "does not take these options"),
    (nothing, [*P, "models.student.options={inputs: 17, outputs: 3}"], "does not take the data's images [1, 4, 4]"),
    (nothing, [*P, "models.student={kind: diffusers, path: pipe}"], "does not take the data's images"),
    (remove("encoder/config.json"), D, "encoder: not a model folder"),
    (write("encoder/config.json", "{"), D, "encoder/config.json: not JSON"),
    (config("encoder/config.json", num_attention_heads=3), D, "not a multiple of the number of attention heads"),
    (remove("encoder/tokenizer.json"), D, "no tokenizer that transformers can read"),
    (write("encoder/tokenizer_config.json", "[]"), D, "no tokenizer that transformers can read"),
    (cut("encoder/model.safetensors"), D, "transformers can't load it"),
    (strange("encoder/model.safetensors"), D, "its weights are another network's"),
    (nothing, [*D, "models.student.options.seed=a"], "models.student.options.seed: give a whole number from 0"),
    (nothing, [*D, "models.student.options.class=2"], "did you mean 'classes'?"),
    (poison("weights.safetensors", float("nan")), WEIGHTS, "models.student: '1.bias' holds NaN or infinity"),
    (poison("encoder/model.safetensors", float("inf")), D, "holds NaN or infinity"),
    (poison(BIN, float("nan")), M, "models.teacher: 'net.conv_in.bias' holds NaN or infinity"),
    (lambda: torch.save({}, "w.pt"), [*P, "models.student.weights=w.pt"], "w.pt is pickled, and nothing is unpickled"),
    (lambda: torch.save({}, "w.pt"), [*P, "models.student.path=w.pt"], "w.pt is pickled, and nothing is unpickled"),
    (lambda: torch.save({}, "w.pt"), [*D, "models.student.path=w.pt"], "w.pt is pickled, and nothing is unpickled"),
    (lambda: torch.save({}, "w.pt"), [*M, "models.teacher.path=w.pt"], "w.pt is pickled, and nothing is unpickled"),
    (pickled("encoder/model.safetensors", "pytorch_model.bin"), D, "pytorch_model.bin is pickled"),
    (pickled(BIN, "diffusion_pytorch_model.bin"), M, "diffusion_pytorch_model.bin is pickled"),
    (pickled(BIN, "diffusion_pytorch_model.bin"), UNET, "diffusion_pytorch_model.bin is pickled"),
    (write("x.gguf", "garbage"), [*D, "models.student.path=x.gguf"], "does not start with the GGUF magic bytes"),
    (write("x.gguf", b"GGUF\3\0\0\0" + bytes(8) + b"\xff" * 7), [*D, "models.student.path=x.gguf"], "no tokenizer"),
    (tokenizer({"good": 2, "bad": 900}), D, "its tokenizer has the id 900 ('bad'), the model 4 embeddings"),
    (nothing, [*D, f"models.student.options.seed={2**70}"], "models.student.options.seed: give a whole number from 0"),
    (nothing, [*D, f"models.student.options.classes={10**12}"], "give their number, from 2 to"),
    (nothing, [*P, "models.student.options.hidden=[100000000000]"], "can't allocate memory"),
    # a user's own modules
    (module("own_dict", "def make(): return {}"), "own_dict", "needs a Module here, got a dict"),
    (module("own_key", "def make(): raise KeyError('x')"), "own_key", "(KeyError: 'x'; own_key.py:3)"),
    (module("own_exit", "def make(): raise SystemExit(0)"), "own_exit", "(SystemExit: 0; own_exit.py:3)"),
    (module("own_memory", "def make(): raise MemoryError"), "own_memory", "(MemoryError; own_memory.py:3)"),
    (module("own_file", "def make(): open('absent')"), "own_file", "models.student.options: own_file:make does not"),
    (module("own_import", "1 / 0"), "own_import", "cannot import 'own_import:make' (division by zero; own_import"),
    (module("own_left", "raise SystemExit(0)"), "own_left", "models.student.path: cannot import 'own_left:make'"),
    (module("own_deep", "def make(): return make()"), "own_deep", "maximum recursion depth exceeded"),
    (module("own_meta", "def make(): return nn.Linear(16, 3, device='meta')"), "own_meta", "has no values yet"),
    (module("own_lookup", net("return {}['a']")), "own_lookup", "does not take the data's images"),
    (module("own_table", net("return {'logits': x}")), "own_table", "gives a dict for images"),
    (module("own_none", net("return None")), "own_none", "gives a NoneType for images"),
    (module("own_nan", net("return self.l(x.flatten(1)) * float('nan')")), "own_nan", "gives NaN for the data's first"),
    # diffusers
    (write("pipe/model_index.json", "{"), M, "pipe/model_index.json: not JSON"),
    (remove("pipe/unet"), M, "diffusers cannot load it"),
    (remove("pipe/scheduler"), M, "diffusers cannot load it"),
    (cut(BIN), M, "diffusers cannot load it"),
    (strange(BIN), M, "its weights are another network's"),
    (config("pipe/unet/config.json", block_out_channels=[16, 16]), M, "diffusers cannot load it"),
    (write("pipe/unet/config.json", "[]"), UNET, "expected an object with named fields"),
    (config("pipe/unet/config.json", _class_name="AutoencoderKL"), UNET, "AutoencoderKL takes no noise away"),
    (config("pipe/scheduler/scheduler_config.json", beta_start="a"), UNET, "beta_start is 'a'"),
    (config("pipe/scheduler/scheduler_config.json", num_train_timesteps=-1), UNET, "num_train_timesteps is -1"),
    (nothing, [*UNET, "models.teacher.options={scheduler: absent}"], "absent: has no scheduler_config.json"),
    (nothing, [*M, f"models.teacher={json.dumps(PLAIN)}"], "Dmd2 needs a Denoiser here, got a Sequential"),
    (nothing, [*M, f"models.student={json.dumps(PLAIN)}"], "models.student: Dmd2 needs a Denoiser"),
    (nothing, [*O, f"models.teacher={json.dumps(PLAIN)}"], "models.teacher: d_ode needs a Denoiser"),
    (nothing, [*M, "data.options.size=16"], "samples of [3, 8, 8]"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "arguments", "words"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_one_line_says_what_is_broken(damage, arguments, words, folder, capsys):
    damage()
    if isinstance(arguments, str):  # the module of a factory
        arguments = [*P, f"models.student={{kind: torch, path: '{arguments}:make'}}"]
    before = sorted(p for p in folder.rglob("*") if p.name != "__pycache__")
    with pytest.raises(SystemExit) as left:
        main(arguments)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("redistill: ")]
    assert left.value.code == 2 and len(said) == 1 and words in said[0], said
    assert sorted(p for p in folder.rglob("*") if p.name != "__pycache__") == before


def test_marks_of_other_programs_do_no_harm(folder):
    for name in ("table.csv", "ridge.yaml"):
        Path(name).write_text("\ufeff" + Path(name).read_text())
    Path("table.csv").write_text(Path("table.csv").read_text().replace("a,y", "a, y") + "\n\n")
    with pytest.raises(SystemExit) as left:
        main([*R, "options.target=y"])
    assert left.value.code == 0
    Path("texts.jsonl").write_text("\ufeff" + '{"text": "good\u2028bad", "label": "good"}\r\n' * 2)
    with pytest.raises(SystemExit) as left:
        main([*D, "out=texts"])
    assert left.value.code == 0


def test_a_table_of_whole_numbers_has_labels(folder):
    from redistill.data import read_table
    from redistill.data.doors import numbers

    Path("t.csv").write_text("x,label\n0.5,1\n1,0\n")
    found = numbers(read_table("t.csv"))
    assert found["label"].dtype == np.int64 and found["x"].dtype == np.float32


def test_a_column_may_be_named_text(folder):
    from redistill.data import read_table

    Path("t.csv").write_text("title\n1917\n300\nJaws\n")
    assert read_table("t.csv", text=["title"])["title"].tolist() == ["1917", "300", "Jaws"]


def test_a_loss_that_is_not_finite_is_one_line_too(monkeypatch, capsys):
    def diverge(arguments):
        raise Diverged("step 3: 'ce' is nan")

    monkeypatch.setattr("redistill.cli.app.run", diverge)
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 1 and "'ce' is nan" in capsys.readouterr().err


def test_every_tracker_names_an_extra_that_installs_it(folder, monkeypatch):
    import tomllib

    from redistill.cli import run
    from redistill.core.errors import UserError
    from redistill.core.plan import Plan

    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    for name in Plan.model_fields["trackers"].annotation.__args__[0].__args__:
        with pytest.raises(UserError) as refused:
            run._plan({**PLAN, "trackers": [name]})
        extra = str(refused.value).split("redistill[")[1].split("]")[0]
        assert any(need.startswith(name) for need in extras["optional-dependencies"][extra])


@pytest.mark.parametrize("kind", ["uint16", "uint64", "bool", "int8", "uint8", ">i8", ">i4", "float16"])
def test_labels_of_every_kind_are_the_same_labels(kind):
    from redistill.core.source import table
    from redistill.data.doors import numbers

    label = np.arange(4) % 2
    found = table(numbers({"image": IMAGE.astype(">f8"), "label": label.astype(kind)})).__getitems__([0, 1, 3])
    assert found["label"].dtype == torch.int64 and found["label"].tolist() == [0, 1, 1]
    assert found["image"].dtype == torch.float32
