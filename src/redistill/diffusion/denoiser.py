"""One door to every diffusion network: whatever it predicts and however it is told the time, a denoiser answers x0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from redistill.core.errors import UserError, nearest, unknown
from redistill.core.slot import Configured
from redistill.core.types import NonNegative
from redistill.diffusion.paths import Flow, Path, working

Condition = Tensor | Mapping[str, Any] | None


class Denoiser(Configured, nn.Module):
    """``net(x_t, time[, condition])`` with its path and prediction kind, as ``denoiser(x_t, t, condition) -> x0``.

    ``time_scale``: what the network is told is ``time_scale * t``; None = the convention of diffusers' networks
    (:meth:`Path.clock`). ``scale_input``: divide x_t by its standard deviation first (EDM). ``bottleneck``: dotted
    name of the submodule whose activations :meth:`features` returns. ``shape``: of one sample, where it is known. A
    condition is a tensor (third argument) or a mapping (keyword arguments); an answer may be a tensor, a tuple or an
    object with ``.sample``, as in diffusers.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        path: Path | None = None,
        kind: str = "flow",
        time_scale: float | None = None,
        scale_input: bool = False,
        bottleneck: str = "mid_block",
        shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.path, self.kind, self.shape = net, path or Flow(), kind, shape
        self.time_scale, self.scale_input, self.bottleneck = time_scale, scale_input, bottleneck
        if kind not in self.path.kinds:
            raise unknown("prediction kind", kind, self.path.kinds, place=f"Denoiser on {type(self.path).__name__}")

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition = None, *, features: bool = False) -> Any:
        """The denoised sample E[x0 | x_t], [B, ...], in float32 or finer; ``t`` is [B] or a scalar.

        With ``features``, the pair (x0, activations of the bottleneck) of one pass. Both leave through this door, since
        a sharded network gathers its weights for the backward pass when the gradient of an output arrives.
        """
        if not features:
            return self.path.to_x0(x_t, self.predict(x_t, t, condition), t, self.kind)
        with tap(self.net, self.bottleneck) as captured:
            x0 = self.path.to_x0(x_t, self.predict(x_t, t, condition), t, self.kind)
        return x0, captured[-1]

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """The raw prediction of the network, of this denoiser's ``kind``, [B, ...]."""
        like = next(self.net.parameters(), x_t)
        x = self.path.scale_input(x_t, t) if self.scale_input else x_t
        clock = self.clock(t).to(like.device, working(like)).expand(len(x))  # [B]; a narrow type would merge times
        output = _call(self.net, x.to(like.dtype), clock, condition)
        return output.to(working(x_t))

    def clock(self, t: Tensor) -> Tensor:
        """What the network is told instead of ``t``."""
        return self.path.clock(t) if self.time_scale is None else self.time_scale * t

    def features(self, x_t: Tensor, t: Tensor, condition: Condition = None) -> tuple[Tensor, Tensor]:
        """(x0, activations of the bottleneck), both from one pass; the network is left as it was."""
        return self(x_t, t, condition, features=True)


def _call(net: nn.Module, x: Tensor, clock: Tensor, condition: Condition) -> Tensor:
    if condition is None:
        answer = _alone(net, x, clock)
    elif isinstance(condition, Mapping):
        answer = net(x, clock, **condition)
    else:
        answer = net(x, clock, condition)
    return _tensor(answer)


def _alone(net: nn.Module, x: Tensor, clock: Tensor) -> Any:
    """The answer without a condition, for a network that can do without."""
    try:
        return net(x, clock)
    except (TypeError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"{type(net).__name__} wants a condition ({said}); give one", place="condition") from error


def _tensor(answer: Any) -> Tensor:
    """The tensor in an answer: itself, ``.sample``, or the first of a tuple."""
    if isinstance(answer, Tensor):
        return answer
    return answer.sample if hasattr(answer, "sample") else answer[0]


@contextmanager
def tap(net: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """Collects what the submodule ``name`` of ``net`` returns while the block runs; removes its hook afterwards."""
    modules = dict(net.named_modules())
    if name not in modules:
        raise UserError(
            f"the network has no submodule {name!r}; {nearest(name, [m for m in modules if m])}", place="bottleneck"
        )
    captured: list[Tensor] = []
    hook = modules[name].register_forward_hook(lambda module, args, answer: captured.append(_tensor(answer)))
    try:
        yield captured
    finally:
        hook.remove()


class Guided(Configured, nn.Module):
    """Classifier-free guidance as a denoiser: x0 = x0_null + scale (x0_cond - x0_null), two passes.

    On one path this equals guidance of eps, v or flow predictions, which are affine in x0. ``null``: the condition
    that says nothing (a tensor for one row or the batch, a mapping, or None for no condition); ``scale`` 1 is the
    plain conditional denoiser, in one pass.
    """

    def __init__(self, denoiser: Denoiser, scale: NonNegative = 1.0, *, null: Condition = None) -> None:
        super().__init__()
        self.denoiser, self.scale, self.null = denoiser, scale, null

    @property
    def path(self) -> Path:
        return self.denoiser.path

    @property
    def kind(self) -> str:
        return self.denoiser.kind

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """The guided x0, [B, ...]."""
        cond = self.denoiser(x_t, t, condition)
        if self.scale == 1 or condition is None:
            return cond
        return torch.lerp(self.denoiser(x_t, t, _rows(self.null, len(x_t), x_t)), cond, self.scale)


def guided(denoiser: Denoiser, scale: float, *, condition: str | None, null: int | None) -> Denoiser | Guided:
    """``denoiser`` itself for ``scale`` 1, else guided away from the class ``null`` in the column ``condition``."""
    if scale == 1:
        return denoiser
    if condition is None or null is None:
        raise UserError(
            "needs condition, the column of the classes, and null, the class that says nothing", place="guidance"
        )
    return Guided(denoiser, scale, null=torch.tensor(null))


def _rows(null: Condition, rows: int, x: Tensor) -> Condition:
    """The null condition for ``rows`` rows on the device of ``x``."""
    if isinstance(null, Mapping):
        return {key: _rows(value, rows, x) for key, value in null.items()}
    if not isinstance(null, Tensor):
        return null
    null = null.to(x.device)
    return null.expand(rows, *null.shape[1:]) if null.dim() else null.expand(rows)
