"""Whether networks are what a method or procedure takes, and take what the rows hold: asked before anything trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import torch

from redistill import files
from redistill.core.build import hints_of
from redistill.core.errors import UserError
from redistill.core.modes import evaluating
from redistill.core.source import table
from redistill.models.doors import raised_at

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
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), evaluating(net):
            net(image)
    except UserError:
        raise
    except (RuntimeError, IndexError, TypeError, ValueError, AssertionError) as error:  # of layers, to another shape
        why = f"{files.first_line(error)}{raised_at(error)}"
        agree = "make its input and the data agree"
        remedy = agree if image.is_floating_point() else "store them as float32 on its scale, as image / 255"
        shape = list(image.shape[1:])
        raise UserError(f"does not take the data's images {shape} ({why}); {remedy}", place=place) from error
