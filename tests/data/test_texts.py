"""Labelled texts as rows of a classifier: tokens, padding, classes, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from redistill.core import UserError
from redistill.data import Texts

CLASSES = {"no": 0, "yes": 1}


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "the", "lazy", "dog"])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")


def test_texts_are_padded_to_the_longest_of_a_batch_and_cut(tokenizer):
    rows = [{"text": "the dog", "label": "yes"}, {"text": "dog", "label": 0}, {"text": "the lazy lazy dog", "label": 1}]
    texts = Texts(rows, tokenizer, CLASSES, max_length=3)
    assert len(texts) == 3 and texts.classes == ["no", "yes"]
    batch = texts.__getitems__([1, 0])
    assert batch["ids"].tolist() == [[4, 0], [2, 4]] and batch["mask"].tolist() == [[1, 0], [1, 1]]
    assert batch["label"].tolist() == [0, 1] and batch["label"].dtype == torch.int64
    assert texts.__getitems__([2])["ids"].tolist() == [[2, 3, 3]]


def test_a_text_without_tokens_is_refused_by_its_row(tokenizer):
    texts = Texts([{"text": "the"}, {"text": " "}], tokenizer, CLASSES)
    for index in ([0, 1], [1]):
        with pytest.raises(UserError, match="data: row 1: its text has no tokens"):
            texts.__getitems__(index)


def test_columns_data_sets_and_rows_without_labels(tokenizer):
    columns = {"text": np.array(["the", "dog"]), "label": np.array([1.0, 0.0])}  # a CSV file's numbers are floats
    assert Texts(columns, tokenizer, CLASSES).__getitems__([0, 1])["label"].tolist() == [1, 0]
    stored = [{"text": "the", "label": torch.tensor(1)}]  # what ``datasets`` gives
    assert Texts(stored, tokenizer, CLASSES).__getitems__([0])["label"].tolist() == [1]
    assert set(Texts([{"text": "the"}], tokenizer, CLASSES).__getitems__([0])) == {"ids", "mask"}


@pytest.mark.parametrize(
    ("rows", "options", "part"),
    [
        ([{"text": "the", "label": 1}, {"sentence": "dog", "label": 1}], {}, "row 1 has no text 'text'"),
        ([{"text": 3, "label": 1}], {}, "row 0 has no text"),
        ([{"text": "the", "label": "yess"}], {}, "did you mean 'yes'"),
        ([{"text": "the", "label": 2}], {}, r"none of the classes 0\.\.1"),
        ([{"text": "the", "label": 0.5}], {}, "row 0: label 0.5"),
        ([{"text": "the", "label": 0}, {"text": "dog"}], {}, "data: row 1: has no 'label'"),
        ([{"text": "the", "label": [1]}], {}, "row 0"),
        ([{"text": "the", "label": float("nan")}], {}, "row 0"),
        ([{"text": "the"}], {"max_length": 0}, "max_length=0"),
        ([{"text": "the"}], {"max_length": "long"}, "max_length='long'"),
    ],
)
def test_what_is_no_labelled_text_is_refused(rows, options, part, tokenizer):
    with pytest.raises(UserError, match=part):
        Texts(rows, tokenizer, CLASSES, **options)
