"""Command scores equal plain log-likelihoods, whatever was in the cache before."""

from __future__ import annotations

import pytest
import torch

from redistill.core.errors import UserError
from redistill.methods.language.in_context.agents import Context, Step, Window
from redistill.methods.language.in_context.scoring import (
    CommandScorer,
    CopyPolicy,
    ScoringPolicy,
    by_analogy,
    choose,
    overlap,
)

transformers = pytest.importorskip("transformers")


class Bytes:
    """A tokenizer of bytes."""

    padding_side, pad_token, eos_token, pad_token_id, eos_token_id = "left", "0", "0", 0, 0

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": list(text.encode())}


@pytest.fixture(scope="module")
def lm():
    from redistill.models.transformers import CausalLm

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    return CausalLm(transformers.LlamaForCausalLM(config).eval(), Bytes())


def plainly(lm, prompt, command):
    ids, tail = list(prompt.encode()), list(f" {command}\n".encode())
    with torch.no_grad():
        logp = lm(torch.tensor([ids + tail])).log_softmax(-1)[0]  # [T, V]
    return sum(logp[len(ids) - 1 + i, t] for i, t in enumerate(tail)) / len(tail)


def test_scores_are_mean_log_likelihoods_and_the_prefix_is_read_once(lm):
    scorer, commands = CommandScorer(lm), ["go", "take apple", "x"]
    for prompt, reused in (("look: a room\n>", 0), ("look: a room\n> go\nlook: b\n>", 13), ("look: c", 6), ("q", 0)):
        scores, usage = scorer.score(prompt, commands)
        expected = torch.stack([plainly(lm, prompt, c) for c in commands])
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
        assert (usage.input, usage.cached) == (len(prompt), reused)


def test_samples_follow_the_softmax_of_the_scores():
    uniforms = (torch.arange(1000) + 0.5) / 1000
    picks = torch.bincount(torch.tensor(choose([0.0, 1.0], 0.5, uniforms.tolist())), minlength=2)
    assert picks[1] / 1000 == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item(), abs=1e-3)
    assert choose([0.0, 1.0], 0, [0.1]) == [1]


def test_policy_counts_every_sample_and_refuses_free_text(lm):
    policy = ScoringPolicy(lm)
    context = Context("g", observation="o")
    reply = policy.act(context, ["a", "bb"], 3, [0.1, 0.5, 0.9])
    assert len(reply.actions) == 3 and reply.usage.calls == 3
    assert reply.usage.input == 3 * len(context.prompt()) and reply.usage.cached == 2 * len(context.prompt())
    with pytest.raises(UserError, match="admissible"):
        policy.act(context, [], 1, [0.5])
    with pytest.raises(UserError, match="lower k"):
        ScoringPolicy(lm, max_tokens=3).act(context, ["a"], 1, [0.5])


def test_copying_by_analogy():
    theirs, ours = "clean the mug and put it in the desk", "heat the egg and put it in the sofa"
    assert by_analogy("put mug in desk", theirs, ours) == "put egg in sofa"
    assert overlap("a b", "b, c") == pytest.approx(1 / 3)
    window = Window(theirs, "", (Step("study: desk", "put mug in desk"),), 0)
    context = Context(ours, examples=(window,), observation="study: sofa")
    commands = ["go to study", "put egg in sofa"]
    assert CopyPolicy._match(context, window, "put soap in sofa") == 0  # not what this goal is about
    assert CopyPolicy(temperature=0).act(context, commands, 1, [0.0]).actions == ("put egg in sofa",)
    guess = CopyPolicy().act(Context(ours, observation="study: sofa"), commands, 2, [0.2, 0.7])
    assert guess.actions == tuple(commands)
