"""Random numbers by counting: number ``i`` of a stream is a function of the stream's key and of ``i`` alone.

The words are those of SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014):
a Weyl sequence, mixed. Nothing is stepped through, so whoever owns some rows of a batch makes their numbers and no
others, on the device where they are needed. A row's words follow one another, and rows follow rows.

All of it is made of integer operations and of sums, products, quotients and roots, which every device rounds alike; a
library's log and sin are not: they depend on the device and even on a number's place in its vector. So a row has the
same bits however a batch is cut, and on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_GAMMA, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_LOW_24, _LOW_31 = (1 << 24) - 1, (1 << 31) - 1
_PIECE = 1 << 15  # words


def words(key: int, first: int, count: int, device: torch.device) -> Tensor:
    """The outputs ``first``, ``first + 1``, ... of SplitMix64 seeded with ``key``: ``count`` times 64 bits [count],
    int64."""
    z = torch.arange(first + 1, first + 1 + count, device=device)
    z *= _signed(_GAMMA)
    z += _signed(key)
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        z ^= _shifted(z, shift)
        z *= _signed(factor)
    z ^= _shifted(z, 31)
    return z


def uniform(key: int, rows: range, size: int, device: torch.device) -> Tensor:
    """Numbers in [0, 1) for ``rows`` of a batch [R, size], multiples of 2^-24; two to a word."""
    return _two_a_word(_uniform, key, rows, size, device)


def normal(key: int, rows: range, size: int, device: torch.device) -> Tensor:
    """Standard normal numbers for ``rows`` of a batch [R, size] (Box and Muller 1958); two to a word, at most 6.7."""
    return _two_a_word(_normal, key, rows, size, device)


def integers(key: int, low: int, high: int, rows: range, size: int, device: torch.device) -> Tensor:
    """Integers in [low, high) for ``rows`` of a batch [R, size], int64; one to a word, uneven by less than
    (high - low) / 2^63."""
    z = words(key, rows.start * size, len(rows) * size, device)
    return (low + _shifted(z, 1) % (high - low)).view(len(rows), size)


def _two_a_word(
    law: Callable[[Tensor, Tensor], None], key: int, rows: range, size: int, device: torch.device
) -> Tensor:
    """What ``law`` makes of the words of ``rows`` [R, size]. A processor works in pieces that stay in its cache."""
    each = -(-size // 2)
    first, count = rows.start * each, len(rows) * each
    out = torch.empty(count, 2, device=device)
    piece = _PIECE if device.type == "cpu" else max(count, 1)
    for start in range(0, count, piece):
        part = out[start : start + piece]
        law(words(key, first + start, len(part), device), part)
    return out.view(len(rows), 2 * each)[:, :size]


def _uniform(z: Tensor, out: Tensor) -> None:
    out[:, 0], out[:, 1] = _shifted(z, 40), (z >> 8) & _LOW_24
    out.mul_(2.0**-24)


def _normal(z: Tensor, out: Tensor) -> None:
    """The upper half of a word gives the radius, the lower half half a turn and a side."""
    radius = _log(_shifted(z, 32).to(torch.float32).add_(0.5).mul_(2.0**-32)).mul_(-2).clamp_(min=0).sqrt_()
    x = ((z >> 1) & _LOW_31).to(torch.float32).mul_(2.0**-30).sub_(1)  # a quarter of a turn to either side, [-1, 1]
    side = (z & 1).to(torch.float32).mul_(2).sub_(1)
    sine = _sin_quarter(x)
    cosine = _sin_quarter(1 - x.abs())  # its size: the sine of what is left to a quarter
    out[:, 0], out[:, 1] = sine.mul_(radius), cosine.mul_(side).mul_(radius)


def _log(u: Tensor) -> Tensor:
    """The natural logarithm of float32 in (0, 1]: exponent and mantissa apart, then the series of artanh."""
    bits = u.view(torch.int32)
    exponent = (bits >> 23).sub_(127).to(torch.float32)
    m = ((bits & 0x7FFFFF) | 0x3F800000).view(torch.float32)  # in [1, 2)
    f = (m - math.sqrt(2)) / (m + math.sqrt(2))  # |f| < 0.172; log m = log(2) / 2 + 2 artanh f
    square = f * f
    series = torch.full_like(f, 2 / 9)
    for k in (7, 5, 3, 1):
        series.mul_(square).add_(2 / k)
    return series.mul_(f).add_(exponent.add_(0.5).mul_(math.log(2)))


def _sin_quarter(x: Tensor) -> Tensor:
    """sin(x pi / 2) for x in [-1, 1], wrong by at most 2e-7 (polynomial of Hastings 1955, sheet 16)."""
    square = x * x
    series = torch.full_like(x, 0.00015148419)
    for c in (-0.00467376557, 0.07968967928, -0.64596371106, 1.57079631847):
        series.mul_(square).add_(c)
    return series.mul_(x)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """``z`` shifted right with zeros coming in: torch's own shift copies the sign."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    """The same 64 bits as a signed number; products and sums wrap around alike."""
    return (word + 2**63) % 2**64 - 2**63
