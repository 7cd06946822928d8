"""What the arms about the document share is read and measured once, and no arm changes it for the next."""

from __future__ import annotations

import pytest

from redistill.beds import lm as tiny
from redistill.core.followers import same_weights
from redistill.models.transformers import load_causal_lm
from redistill.studies import sdft
from redistill.studies import sdft_knowledge as study

SMALL = dict(
    hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=8
)
BUDGET = {"facts_questions": 1, "facts_steps": 1}


@pytest.fixture
def loads(tmp_path, monkeypatch):
    """The seeds that a small model was loaded with in the place of SmolLM2; its answers pass as a teacher's."""
    seeds = []
    tiny.blank(**SMALL, max_position_embeddings=512).save(tmp_path)

    def load(*, seed):
        seeds.append(seed)
        return load_causal_lm(tmp_path, lora_rank=2, seed=seed)

    monkeypatch.setattr(study.bed, "load", load)
    monkeypatch.setattr(study, "FLOOR", 0.0)
    for kept in (study.loaded, study.untrained, study.teacher_score):
        kept.cache_clear()
    yield seeds
    for kept in (study.loaded, study.untrained, study.teacher_score):
        kept.cache_clear()


def test_the_model_is_read_once_a_seed_and_measured_untrained_once(loads):
    ones = [sdft.cell("facts_before", seed, BUDGET) for seed in (1, 2)]
    assert ones[0] == ones[1] and ones[0] is not ones[1]  # each cell writes its seconds into its own
    assert ones[0].metrics == study.answered(study.bed.load(seed=2), 1).metrics
    loads.clear()
    trained = [sdft.cell(arm, 1, BUDGET) for arm in ("facts_sft", "facts_sdft")]
    assert loads == [1]
    assert same_weights(study.loaded(1), study.bed.load(seed=1))
    assert trained[0].metrics["facts_kl"] > 0
