"""Features of any named layers of any network, by hooks that are gone afterwards: the user's model stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from redistill.core.errors import UserError, unknown
from redistill.core.world import is_sharded


@contextmanager
def tapped(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within the block, every forward pass of ``network`` leaves what ``layers`` put out in the dictionary.

    ``layers``: names as in ``network.named_modules()``. A layer that gives a tuple is read at its first element.
    Raises :class:`UserError` for a name that is no layer, with the nearest one.
    """
    found: dict[str, Tensor] = {}
    modules = dict(network.named_modules())
    for name in layers:
        if name not in modules:
            raise unknown("layer", name, [m for m in modules if m], place="layers")
    hooks = [modules[name].register_forward_hook(_keep(found, name)) for name in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _keep(found: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        found[name] = output[0] if isinstance(output, tuple) else output

    return hook


def features(network: nn.Module, layers: Sequence[str], *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The network's output and what each of ``layers`` put out on the way, in the order of ``layers``.

    Raises :class:`UserError` when a layer was not reached.
    """
    with tapped(network, layers) as found:
        output = network(*inputs)
    for name in layers:
        if name not in found:
            raise UserError(f"the forward pass never reached {name!r}", place="layers")
    return output, [found[name] for name in layers]


def classifier_layer(network: nn.Module) -> str:
    """The name of the last linear layer, which gives the scores of most classifiers.

    Raises :class:`UserError` when there is none.
    """
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise UserError("the network has no linear layer; name the layer that gives the scores", place="head")
    return names[-1]


def scores_and_embedding(network: nn.Module, head: str, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The network's output, and what its layer ``head`` read to give it: [B, N], [B, d].

    Raises :class:`UserError` when the layer was not reached, or reads anything but one vector a row.
    """
    read: list[Tensor] = []
    hook = network.get_submodule(head).register_forward_pre_hook(lambda module, given: read.append(given[0]))
    try:
        output = network(*inputs)
    finally:
        hook.remove()
    if len(read) != 1 or read[0].ndim != 2:
        shapes = [tuple(value.shape) for value in read]
        raise UserError(f"{head!r} read {shapes}, not one vector a row; name the classifier", place="head")
    if is_sharded(list(network.parameters())):
        # fully_shard gathers the weights for the backward pass when that reaches the network's output, so it must
        # reach it even where only the embedding is used; the sum of nothing is 0 and gives no gradient
        read[0] = read[0] + output.flatten()[:0].sum()
    return output, read[0]
