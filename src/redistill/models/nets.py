"""Tiny reference networks of the test beds: image [B, C, H, W] -> logits [B, classes]."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(inputs: int, outputs: int, hidden: Sequence[int] = (128, 128)) -> nn.Sequential:
    """ReLU layers of the widths ``hidden`` on flattened inputs, and a linear head."""
    widths = [inputs, *hidden]
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], outputs))


def convnet(channels: int, outputs: int, widths: Sequence[int] = (16, 32, 64)) -> nn.Sequential:
    """A 3x3 convolution, group norm and ReLU a stage, halving between stages; mean over pixels and a linear head."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(zip([channels, *widths], widths)):
        layers += [nn.Conv2d(a, b, 3, stride=1 if i == 0 else 2, padding=1), nn.GroupNorm(min(8, b), b), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], outputs))


def staged_convnet(channels: int, outputs: int, widths: Sequence[int] = (16, 32, 64), depth: int = 1) -> nn.Sequential:
    """Batch-normalised convolutions in named stages (``stage1``, ``stage2``, ...), each ``depth`` deep and half as wide
    in pixels as the one before; ``pool`` gives the embedding [B, widths[-1]], ``head`` the logits."""
    net = nn.Sequential()
    for i, (a, b) in enumerate(zip([channels, *widths], widths)):
        strides = [1 if i == 0 else 2] + [1] * (depth - 1)
        ins = [a] + [b] * (depth - 1)
        net.add_module(f"stage{i + 1}", nn.Sequential(*[conv_block(c, b, s) for c, s in zip(ins, strides)]))
    net.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    net.add_module("head", nn.Linear(widths[-1], outputs))
    return net


def conv_block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution, batch norm and ReLU."""
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())
