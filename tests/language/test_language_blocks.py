"""Tokens, contexts, rollouts, retention and answers, on an untrained model of the lm bed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from redistill.beds import lm as bed
from redistill.core import UserError
from redistill.language import contexts, rollouts, tokens
from redistill.methods.language.sdft import answers, retention

SMALL = dict(
    hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=8
)


@pytest.fixture(scope="module")
def lm():
    return bed.blank(**SMALL).eval()


@pytest.fixture(scope="module")
def prompts(lm):
    return contexts.encode_conversations(lm.tokenizer, [contexts.asked(q) for q in ("RVabcd", "UPabcdefgh", "STab")])


def uniforms(rows, length, seed=0):
    return torch.rand(rows, length, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------------------- tokens


def test_until_end_keeps_the_first_end_token():
    ids = torch.tensor([[5, 1, 6, 1], [5, 6, 7, 8], [2, 5, 5, 5]])
    assert tokens.until_end(ids, (1, 2)).tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]


def test_skip_first_removes_exactly_the_first_valid_tokens():
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 0, 0]])
    assert tokens.skip_first(mask, 2).tolist() == [[0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert torch.equal(tokens.skip_first(mask, 0), mask)


def test_log_prob_of_is_the_log_softmax():
    logits, ids = torch.randn(3, 4, 7), torch.randint(0, 7, (3, 4))
    torch.testing.assert_close(
        tokens.log_prob_of(logits, ids), logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    )


# ----------------------------------------------------------------------------------------------------------- contexts


def test_completion_tokens_line_up_under_both_contexts(lm):
    student = [contexts.asked(q) for q in ("RVabcd", "UPab")]
    teacher = [contexts.asked(q + "!<a/b/c>") for q in ("RVabcd", "UPab")]
    batch = contexts.two_contexts(lm.tokenizer, student, teacher)
    batch["completion"], active = contexts.encode_completions(lm.tokenizer, ["dcba", "bc"])
    ours, theirs = contexts.context_scores(lm, lm, batch, active)
    assert not theirs.requires_grad and ours.requires_grad
    rows = [(["RVabcd", "UPab"][i], ["dcba", "bc"][i]) for i in (0, 1)]
    for scores, shown in ((ours, ""), (theirs, "!<a/b/c>")):
        expected = torch.cat([scores_of_one(lm, question + shown, completion) for question, completion in rows])
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)


def scores_of_one(lm, question, completion):
    """The scores of every completion token and of its end, from one unpadded sequence."""
    ids = lm.tokenizer(question + "<a>" + completion, return_tensors="pt")["input_ids"]
    return lm.net(ids).logits[0, -len(completion) - 1 :]


def test_prompts_are_cut_at_their_beginning(lm):
    talks = [contexts.asked("RVa"), contexts.asked("RVabcd")]
    whole, _ = contexts.encode_conversations(lm.tokenizer, talks)
    with pytest.warns(UserWarning, match="1 of 2 prompts are longer than 5 tokens; only the last 5 are used"):
        ids, mask = contexts.encode_conversations(lm.tokenizer, talks, max_length=5)
    assert torch.equal(ids, whole[:, -5:]) and mask.sum(1).tolist() == [4, 5]
    with pytest.warns(UserWarning):
        batch = contexts.two_contexts(lm.tokenizer, talks, talks, max_length=5)
    assert torch.equal(batch["context"], ids)
    with pytest.raises(UserError, match="max_length=0"):
        contexts.encode_conversations(lm.tokenizer, talks, max_length=0)


def test_a_row_that_fills_the_model_is_named(lm):
    talks = [contexts.asked("RVa"), contexts.asked("R" * 63), contexts.asked("R" * 62)]  # and the assistant's turn
    batch = contexts.two_contexts(lm.tokenizer, talks[::2], talks[:2])
    with pytest.raises(UserError, match="row 1: its prompt with the demonstration has 64 tokens, the model 64 pos"):
        contexts.require_fitting(lm, batch)
    contexts.require_fitting(lm, contexts.two_contexts(lm.tokenizer, talks[::2], talks[::2]))


def test_positions_are_those_of_the_configuration():
    def lm(**config):
        return SimpleNamespace(config=SimpleNamespace(**config))

    assert contexts.positions(lm()) is None
    assert contexts.positions(lm(max_position_embeddings=512)) == 512
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert contexts.positions(lm(max_position_embeddings=32768, rope_parameters=yarn)) == 131072


def test_a_tokenizer_without_a_chat_template_is_refused(lm):
    bare = bed.tokenizer()
    bare.chat_template = None
    with pytest.raises(UserError, match="no chat template; use an instruction-tuned model"):
        contexts.encode_conversations(bare, [contexts.asked("RVa")])


def test_a_teacher_that_cannot_do_the_task_is_refused():
    contexts.require_teacher(0.8, 0.8)
    with pytest.raises(UserError, match=r"teacher: .* solves 79% of sorting, less than the floor of 80%"):
        contexts.require_teacher(0.79, 0.8, task="sorting")


def test_the_prompt_of_the_paper_has_question_demonstration_and_request():
    text = contexts.shown("2 + 2?", "It is 4.")[0]["content"]
    assert text.index("2 + 2?") < text.index("It is 4.") < text.index("your own words")


# ----------------------------------------------------------------------------------------------------------- rollouts


def test_greedy_equals_transformers(lm, prompts):
    ids, mask = prompts
    ours = rollouts.sample(lm, ids, mask, uniforms(3, 6), temperature=0.0)
    theirs = lm.generate(ids, mask, 6)
    assert torch.equal(ours.ids, theirs[:, : ours.ids.shape[1]])


def test_rollouts_do_not_depend_on_the_cut_of_the_batch(lm, prompts):
    ids, mask = prompts
    numbers = uniforms(3, 8)
    whole = rollouts.sample(lm, ids, mask, numbers)
    for row in range(3):
        alone = rollouts.sample(lm, ids[row : row + 1], mask[row : row + 1], numbers[row : row + 1])
        length = int(alone.mask.sum())
        assert torch.equal(alone.ids[0, :length], whole.ids[row, :length])


def test_log_probabilities_are_those_of_a_fresh_pass(lm, prompts):
    ids, mask = prompts
    roll = rollouts.sample(lm, ids, mask, uniforms(3, 8), temperature=0.7)
    keep = roll.mask.bool()
    scores = contexts.completion_scores(lm, ids, mask, roll.ids, roll.mask) / 0.7
    torch.testing.assert_close(tokens.log_prob_of(scores, roll.ids[keep]), roll.logp[keep], atol=1e-5, rtol=1e-4)
    assert (roll.logp[~keep] == 0).all() and (roll.ids[~keep] == lm.pad).all()


def test_nothing_follows_the_end(lm, prompts):
    ids, mask = prompts
    many = 40
    roll = rollouts.sample(lm, ids.repeat(many, 1), mask.repeat(many, 1), uniforms(3 * many, 30))
    ends = (roll.ids == lm.eos[0]) & roll.mask.bool()
    assert (ends.any() and torch.equal(ends.sum(1) == 1, roll.mask.sum(1) < 30)) or roll.ids.shape[1] == 30
    last = roll.mask.sum(1) - 1
    finished = roll.mask.sum(1) < roll.ids.shape[1]
    assert (roll.ids.gather(1, last[:, None])[finished] == lm.eos[0]).all()


def test_pick_follows_the_law_and_never_takes_mass_zero():
    law = torch.tensor([0.0, 0.2, 0.0, 0.5, 0.3, 0.0])
    grid = (torch.arange(1000) + 0.5) / 1000
    taken = rollouts.pick(law.log().expand(1000, -1), grid)
    torch.testing.assert_close(torch.bincount(taken, minlength=6) / 1000, law)
    edge = torch.tensor([0.0, 1 - 2**-24])
    assert rollouts.pick(law.log().expand(2, -1), edge).tolist() == [1, 4]


def test_nucleus_keeps_the_smallest_set_of_that_mass():
    log_q = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log()
    kept = rollouts.nucleus(log_q, 0.6).exp()
    torch.testing.assert_close(kept, torch.tensor([[0.0, 2 / 3, 0.0, 1 / 3]]))
    assert rollouts.nucleus(log_q, 1e-9).exp().max() == 1


# ---------------------------------------------------------------------------------------------------------- retention


def test_kl_to_base_is_zero_for_the_base_and_positive_for_another(lm):
    talks = [contexts.asked("RVabcd"), contexts.asked("UPab")]
    other = bed.blank(1, **SMALL)
    assert retention.kl_to_base(lm, lm, talks, 5) == pytest.approx(0, abs=1e-6)
    assert retention.kl_to_base(other, lm, talks, 5) > 1e-4


def test_exact_match_reads_the_answer(lm):
    talks = [contexts.asked("RVabcd"), contexts.asked("UPab")]
    given = rollouts.answer_texts(lm, talks, 4)
    assert retention.exact_match(lm, talks, [given[0].strip(), "never"], 4) == 0.5
    assert retention.exact_match(lm, talks, ["x", "x"], 4, read=lambda text: "x") == 1.0


# ------------------------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{3} or \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("Thus the answer is: 42.", "42"),
        ("work\n#### 1,234", "1,234"),
        ("12 apples and 1,030.5 pears", "1030.5"),
        ("first\n  Paris ", "Paris"),
        ("", ""),
    ],
)
def test_final_answer(text, answer):
    assert answers.final_answer(text) == answer


def test_mentions_compares_whole_words():
    assert answers.mentions("It was the Grey Heron, I think.", "grey heron")
    assert not answers.mentions("the herons", "heron")


def test_majority_takes_the_earliest_of_equals():
    assert answers.majority(["b", "a", "a", "b", "c"]) == ("b", 0.4)
