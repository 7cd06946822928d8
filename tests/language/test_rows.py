"""Rows of text as tokens: what is read, what is learned, and every mistake with its row."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml

from redistill.beds import lm
from redistill.cli.app import run as command
from redistill.core.errors import UserError
from redistill.language.rows import Tokens, chat, encode, has_text

TALK = [
    {"role": "user", "content": "RVab"}, {"role": "assistant", "content": "b/a"},
    {"role": "user", "content": "RVcd"}, {"role": "assistant", "content": "d/c"},
]  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<a>{{ m.content }}{{ eos_token }}{% else %}{{ m.content }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
)
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
)


def learned(tokenizer, encoded) -> str:
    ids, counts = encoded
    assert len(ids) == len(counts)
    return tokenizer.decode([i for i, counts_ in zip(ids, counts) if counts_])


@pytest.fixture(scope="module")
def model():
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    made = lm.blank(0, **sizes, num_key_value_heads=2, head_dim=8, max_position_embeddings=256)
    made.tokenizer.chat_template = TEMPLATE  # the bed's own forgets who spoke
    return made


def test_every_turn_of_the_assistant_is_learned_and_nothing_else(model):
    words, end = model.tokenizer, model.tokenizer.eos_token
    encoded = chat(words, TALK)
    assert learned(words, encoded).replace(" ", "") == f"b/a{end}d/c{end}"
    whole = words.apply_chat_template(TALK, tokenize=False)
    assert words.decode(encoded[0]).replace(" ", "") == whole[: len(words.decode(encoded[0]))].replace(" ", "")
    assert chat(words, [*TALK, {"role": "user", "content": "more"}]) == encoded  # nobody answers it

    template = words.chat_template
    try:
        words.chat_template = MARKED
        assert learned(words, chat(words, TALK)).replace(" ", "") == f"b/a{end}d/c{end}"
        words.chat_template = "{{ messages[-1].content }}"  # forgets what came before
        with pytest.raises(UserError, match="rewrites earlier turns"):
            chat(words, TALK)
    finally:
        words.chat_template = template


def test_the_formats_of_a_row(model):
    words, end = model.tokenizer, model.tokenizer.eos_token
    assert learned(words, encode(words, {"prompt": "ab", "completion": "cd"})).replace(" ", "") == f"cd{end}"
    assert learned(words, encode(words, {"text": "abcd"})).replace(" ", "") == f"abcd{end}"
    only_last = encode(words, {"prompt": TALK[:3], "completion": TALK[3:]})
    assert learned(words, only_last).replace(" ", "") == f"d/c{end}" and only_last[0] == chat(words, TALK)[0]


def test_batches_are_padded_and_long_rows_lose_their_end(model):
    rows = [{"prompt": "ab", "completion": "cdef"}, {"prompt": "abcdefgh", "completion": "c"}]
    batch = Tokens(rows, model).__getitems__([0, 1])
    assert batch["mask"].sum(1).tolist() == [7, 10] and batch["loss_mask"].sum(1).tolist() == [5, 2]
    assert batch["loss_mask"][0].tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0, 0]
    with pytest.warns(UserWarning, match="2 rows are longer than 4 tokens and lose their end; 1 have nothing to learn"):
        short = Tokens(rows, model, max_length=4)
    assert len(short) == 1
    with pytest.raises(UserError, match="no row has a token to learn within 4 tokens"):
        Tokens(rows[1:], model, max_length=4)
    assert has_text(rows) and has_text({"text": np.array(["a"])}) and not has_text({"ids": np.ones((2, 3))})


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a"}, r"data: row 1: has \['prompt'\]; give 'messages', 'prompt' with 'completion', 'text'"),
        ({"prompt": "a", "completion": " "}, "'completion' is empty"),
        ({"prompt": "a", "completion": 3}, "'completion' is no text but int"),
        ({"messages": "hello"}, "is no list of messages"),
        ({"messages": [{"role": "user"}]}, "lacks the text 'role' or 'content'"),
        ({"messages": TALK[:1]}, "no turn of the assistant"),
    ],
)
def test_mistakes_in_a_row_name_it(model, row, said):
    with pytest.raises(UserError, match=said):
        Tokens([{"text": "ab"}, row], model)


@pytest.fixture
def folder(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    model.save("model")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    lm.blank(1, **sizes, num_key_value_heads=2, head_dim=8, max_position_embeddings=256).save("teacher")
    pairs = [("RVabcd", "d/c/b/a"), ("RVbcda", "a/d/c/b"), ("RVcdab", "b/a/d/c"), ("RVdabc", "c/b/a/d")]
    talks = [[{"role": "user", "content": p}, {"role": "assistant", "content": c}] for p, c in pairs]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps({"messages": t}) + "\n" for t in talks))
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in pairs))
    (tmp_path / "pairs.csv").write_text("prompt,completion\n" + "".join(f"{p},{c}\n" for p, c in pairs))
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"messages": talks}), "chat.parquet")
    return tmp_path


def recipe(folder, **changes) -> str:
    models = {
        role: {"kind": "causal_lm", "path": path} for role, path in (("student", "model"), ("teacher", "teacher"))
    }
    given = {
        "method": "kd", "models": models, "options": {"soft_weight": 0.5},
        "data": {"kind": "jsonl", "path": "chat.jsonl", "held_out": 0.25},
        "plan": {"steps": 2, "batch_size": 2, "device": "cpu", "lr": 0.01, "log_every": 1}, "out": "out", **changes,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(given))
    return "recipe.yaml"


def weights(out: str) -> dict:
    from safetensors.torch import load_file

    return load_file(f"{out}/student/model.safetensors")


def test_kd_of_a_language_model_reads_every_kind_of_file(folder):
    file = recipe(folder)
    for kind, path in (
        ("jsonl", "chat.jsonl"),
        ("table", "chat.parquet"),
        ("jsonl", "pairs.jsonl"),
        ("table", "pairs.csv"),
    ):
        assert command(["run", file, f"data.kind={kind}", f"data.path={path}", f"out=out-{path}"]) == 0
    for one, other in (("chat.jsonl", "chat.parquet"), ("pairs.jsonl", "pairs.csv")):
        a, b = weights(f"out-{one}"), weights(f"out-{other}")
        assert all(torch.equal(a[name], b[name]) for name in a)
    row = json.loads((folder / "out-chat.parquet" / "log.jsonl").read_text().splitlines()[-1])
    assert {"hard", "soft", "held_out/cross_entropy"} <= row.keys()


@pytest.mark.parametrize("path", ["chat.jsonl", "pairs.jsonl"])
def test_answers_of_conversations_and_completions_are_demonstrations(folder, path):
    file = recipe(
        folder, method="sdft", models={"student": {"kind": "causal_lm", "path": "model"}},
        options={"max_new_tokens": 4, "skip_tokens": 0}, data={"kind": "jsonl", "path": path},
    )  # fmt: skip
    assert command(["run", file]) == 0
