"""Numbers by counting: the published words, laws that statistics can check, and no number for another's rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from redistill.core import noise
from redistill.core.progress import Progress, Rows

CPU, ROWS, SIZE = torch.device("cpu"), range(400), 500


def drawn(law: str, key: int = 5, rows: range = ROWS, size: int = SIZE) -> np.ndarray:
    return getattr(noise, law)(key, rows, size, CPU).double().numpy()


def test_the_words_are_those_of_splitmix64():
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [int(word) % 2**64 for word in noise.words(1234567, 0, 4, CPU)] == published
    assert [int(word) % 2**64 for word in noise.words(1234567, 2, 2, CPU)] == published[2:]


def test_every_bit_of_a_word_is_one_half_of_the_time():
    word = noise.words(2**63 - 1, 10**15, 40_000, CPU).numpy()
    ones = np.array([(word >> bit & 1).mean() for bit in range(64)])
    assert np.abs(ones - 0.5).max() < 5 * 0.5 / np.sqrt(len(word))


@pytest.mark.parametrize(("law", "cdf"), [("uniform", stats.uniform.cdf), ("normal", stats.norm.cdf)])
@pytest.mark.parametrize("key", [0, 5, 2**63 - 1])
def test_numbers_follow_their_law(law, cdf, key):
    assert stats.kstest(drawn(law, key).ravel(), cdf).pvalue > 1e-3


def test_normal_numbers_have_the_moments_and_the_tails_of_their_law():
    x = drawn("normal", rows=range(2000), size=1000).ravel()
    n = len(x)
    assert abs(x.mean()) < 5 / np.sqrt(n) and abs(x.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs((x**4).mean() - 3) < 5 * np.sqrt(96 / n)
    far = (np.abs(x) > 4).sum()
    assert abs(far - n * 2 * stats.norm.sf(4)) < 5 * np.sqrt(n * 2 * stats.norm.sf(4))


@pytest.mark.parametrize("law", ["uniform", "normal"])
@pytest.mark.parametrize("step", [1, 2, 3, SIZE, SIZE + 1])
def test_neighbours_in_a_row_and_across_rows_are_not_correlated(law, step):
    x = drawn(law).ravel()
    assert abs(np.corrcoef(x[:-step], x[step:])[0, 1]) < 5 / np.sqrt(len(x))


def test_uniform_numbers_stay_below_one_and_logarithms_finite():
    x = drawn("uniform", rows=range(2000), size=1000)
    assert 0 <= x.min() < 1e-5 and 1 - 1e-5 < x.max() < 1
    extreme = torch.tensor([0, -1, 2**32 - 1, -(2**32)])  # words of zeros, of ones, of both halves
    assert torch.isfinite(_normal_of(extreme)).all()


def _normal_of(word: torch.Tensor) -> torch.Tensor:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(noise, "words", lambda key, first, count, device: word.clone())
        return noise.normal(0, range(1), 2 * len(word), CPU)


def test_normal_numbers_are_those_of_box_and_muller():
    word = noise.words(11, 0, 5000, CPU)
    u, x = ((word >> 32) % 2**32).double() + 0.5, ((word >> 1) % 2**31).double() * 2**-30 - 1
    radius, angle = (-2 * (u * 2**-32).log()).sqrt(), x * torch.pi / 2
    wanted = torch.stack([radius * angle.sin(), radius * angle.cos() * (2 * (word & 1) - 1)], -1).flatten()
    torch.testing.assert_close(noise.normal(11, range(1), 10_000, CPU)[0].double(), wanted, rtol=0, atol=5e-6)


def test_integers_are_even_over_their_range():
    x = noise.integers(3, -2, 5, range(1000), 70, CPU).numpy().ravel()
    assert set(x) == set(range(-2, 5))
    assert stats.chisquare(np.bincount(x + 2)).pvalue > 1e-3


def progress(start: int = 0, stop: int = 8, **more: int) -> Progress:
    now = Progress(**more, rows=Rows(start, stop, 8))
    now.reseed(0, "loss")
    return now


@pytest.mark.parametrize("draw", ["randn", "rand", "integers"])
def test_a_row_has_the_same_numbers_however_the_batch_is_cut(draw):
    def of(now: Progress, shape: tuple[int, ...]) -> torch.Tensor:
        rows = now.rows.stop - now.rows.start
        return now.randint(0, 10**6, rows, *shape) if draw == "integers" else getattr(now, draw)(rows, *shape)

    for shape in ((), (3,), (2, 5), (1, 1)):
        whole, parts = of(progress(), shape), [of(progress(a, b), shape) for a, b in ((0, 3), (3, 4), (4, 8))]
        assert torch.equal(whole, torch.cat(parts)) and whole.shape == (8, *shape)


def test_seeds_steps_streams_and_calls_have_numbers_of_their_own():
    now = progress()
    found = [now.randn(8, 50), now.randn(8, 50)]
    now.reseed(1, "loss")
    found.append(now.randn(8, 50))
    now.reseed(0, "loss")
    assert torch.equal(now.randn(8, 50), found[0])
    found += [progress(**{what: 1}).randn(8, 50) for what in ("seed", "step")]
    table = np.corrcoef(torch.stack(found).flatten(1).numpy())
    assert np.abs(table - np.eye(len(found))).max() < 5 / np.sqrt(400)


def test_nobody_draws_for_the_rows_of_others(monkeypatch):
    counted, words = [], noise.words
    monkeypatch.setattr(noise, "words", lambda key, first, count, device: (
        counted.append((first, count)) or words(key, first, count, device)))  # fmt: skip
    now = progress(2, 4)
    now.randn(2, 10), now.rand(2, 10), now.randint(0, 5, 2, 10)
    assert counted == [(2 * 5, 2 * 5), (2 * 5, 2 * 5), (2 * 10, 2 * 10)]


def test_shared_numbers_are_those_of_all_ranks():
    ranks = [progress(0, 3), progress(3, 8)]
    assert len({now.shared_rand() for now in ranks}) == len({now.shared_randint(0, 2**40) for now in ranks}) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_another_device_draws_the_same_numbers():
    here, there = torch.device("cpu"), torch.device("cuda")
    assert torch.equal(noise.words(7, 1, 99, here), noise.words(7, 1, 99, there).cpu())
    assert torch.equal(noise.uniform(7, ROWS, 9, here), noise.uniform(7, ROWS, 9, there).cpu())
    assert torch.equal(noise.normal(7, ROWS, 9, here), noise.normal(7, ROWS, 9, there).cpu())
