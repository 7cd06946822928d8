"""The sentences that ship: complete, in order, split without leaks."""

from __future__ import annotations

import numpy as np
import pytest

from redistill.beds import books
from redistill.core.errors import UserError


def test_every_book_gives_a_hundred_passages_of_four_consecutive_sentences():
    found = books.load()
    assert len(found) == 3600 and found.classes == 9 and (np.bincount(found.label) == 400).all()
    place = found.place.reshape(-1, 4)
    assert (np.diff(place, axis=1) == 1).all()
    starts = place[:, 0].reshape(9, 100)
    assert (np.diff(starts, axis=1) >= 4).all()  # passages in order, none overlaps
    words = [len(sentence.split()) for sentence in found.text]
    assert min(words) >= 6 and max(words) <= 32
    assert len(set(found.text)) > 3590 and not any("Gutenberg" in sentence for sentence in found.text)


def test_words_tell_the_books_apart_better_than_chance_but_not_perfectly():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    train, test = books.load().split(200, 200, seed=0)
    words = TfidfVectorizer(sublinear_tf=True).fit(train.text)
    model = LogisticRegression(C=10).fit(words.transform(train.text), train.label)
    assert 0.4 < model.score(words.transform(test.text), test.label) < 0.9


def test_passages_are_never_divided():
    found = books.load()
    train, test = found.split(40, 100, seed=3)
    assert (np.bincount(train.label) == 40).all() and (np.bincount(test.label) == 100).all()
    assert not set(zip(train.label, train.place)) & set(zip(test.label, test.place))
    starts = {(k, p) for k, p in zip(found.label[::4], found.place[::4])}
    whole = {(k, p) for k, p in zip(train.label, train.place)}
    assert sum(all((k, p + i) in whole for i in range(4)) for k, p in starts & whole) == 90
    again, other = found.split(40, seed=3)[0], found.split(40, seed=4)[0]
    assert again.text == train.text != other.text


def test_some_books_become_the_classes():
    found, whole = books.load().among(8, 3), books.load()
    assert found.names == ("Moby Dick", "Alice's Adventures in Wonderland") and len(found) == 800
    assert found.text[:400] == whole.text[3200:] and found.label.tolist() == [0] * 400 + [1] * 400
    assert found.split(8, seed=0)[0].classes == 2


@pytest.mark.parametrize(("sizes", "said"), [((10,), "multiples of the 4"), ((0,), "multiples"), ((300, 104), "400")])
def test_parts_that_cannot_be_are_refused(sizes, said):
    with pytest.raises(UserError, match=said):
        books.load().split(*sizes, seed=0)
