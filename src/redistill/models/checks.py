"""Whether networks are what a method or procedure takes, and take what the rows hold: asked before anything trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from redistill.core.build import hints_of
from redistill.core.errors import UserError, reading
from redistill.core.modes import evaluating
from redistill.core.source import table

WORDS = {"Denoiser": "diffusers", "CausalLm": "causal_lm"}  # class of a network -> the kind that gives one


def check_types(target: Callable[..., Any], name: str, models: dict[str, Any]) -> None:
    """Refuse networks of another kind than the annotations of a method or procedure called ``name`` ask for."""
    hints = hints_of(target)
    for role, net in models.items():
        hint = hints[role]
        kinds = [k for k in get_args(hint) or [hint] if isinstance(k, type) and k not in (Any, type(None))]
        if kinds and not isinstance(net, tuple(kinds)):
            word = WORDS.get(kinds[0].__name__)
            remedy = f"give kind: {word}" if word else "give a network"
            raise UserError(
                f"{name} needs a {kinds[0].__name__} here, got a {type(net).__name__}; {remedy}",
                place=f"models.{role}",
            )


def check_inputs(models: dict[str, Any], rows: Any) -> None:
    """Refuse, before anything is trained, classifiers that do not take the images of ``rows``: the first two are shown
    to them. Not asked: a server (no parameters), and networks that take more than images."""
    count = 0 if rows is None else min(2, len(table(rows)))
    first = table(rows).__getitems__(list(range(count))) if count else {}
    for role in ("student", "teacher"):
        net = models.get(role)
        if "image" in first and net is not None and any(True for _ in net.parameters()) and not hasattr(net, "edges"):
            _check_input(net, first["image"], f"models.{role}")


def _check_input(net: Any, image: Any, place: str) -> None:
    agree = "make its input and the data agree"
    remedy = agree if image.is_floating_point() else "store them as float32 on its scale, as image / 255"
    asked = reading(f"does not take the data's images {list(image.shape[1:])}", place=place, remedy=remedy)
    with asked, torch.no_grad(), torch.random.fork_rng(devices=[]), evaluating(net):
        answer = net(image)
    if not isinstance(answer, Tensor):
        raise UserError(f"gives a {type(answer).__name__} for images; its forward must return one tensor", place=place)
    if answer.isnan().any():
        raise UserError("gives NaN for the data's first images; look at its weights and at their scale", place=place)


def check_values(net: Any, place: str) -> None:
    """Refuse a network with weights that are NaN, infinite, or not there yet (device meta)."""
    for name, weight in net.named_parameters() if isinstance(net, nn.Module) else ():
        if weight.is_meta:
            raise UserError(f"{name!r} has no values yet (device meta); give it some with net.to_empty", place=place)
        if not is_lazy(weight) and not weight.isfinite().all():
            raise UserError(f"{name!r} holds NaN or infinity; give the weights of a run that went well", place=place)
