"""The encoder in two parts is the encoder."""

from __future__ import annotations

import pytest
import torch

from redistill.beds import minilm

TEXTS = ["The whale sank.", "Emma was clever, handsome and rich, and she had never been vexed by anything at all."]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REDISTILL_CACHE", str(tmp_path))


@pytest.mark.parametrize("layer", [4, 5, 6])
def test_lower_and_upper_layers_make_the_sentence_vector(layer):
    hidden, mask = minilm.states(TEXTS, layer, 24)
    assert hidden.shape == (2, 24, 384) and mask.sum(1).tolist() == [6, 22]
    upper = minilm.UpperLayers(layer, 384, seed=0).eval()
    upper.head = torch.nn.Identity()
    vector = torch.nn.functional.normalize(upper(hidden, mask), dim=-1)
    torch.testing.assert_close(vector, minilm.encoder().encode(TEXTS), rtol=1e-4, atol=1e-5)


def test_every_network_starts_from_the_same_weights_and_owns_them():
    one, other = minilm.UpperLayers(5, 3, seed=0), minilm.UpperLayers(5, 3, seed=1)
    assert torch.equal(one.layers[0].output.dense.weight, other.layers[0].output.dense.weight)
    assert not torch.equal(one.head.weight, other.head.weight)
    with torch.no_grad():
        one.layers[0].output.dense.weight.zero_()
    assert other.layers[0].output.dense.weight.any()
