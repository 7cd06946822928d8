"""Expensive tensors, made once and kept on this machine under a hash of what they were made from."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def home() -> Path:
    """The cache folder: ``REDISTILL_CACHE`` or ``~/.cache/redistill``."""
    return Path(os.environ.get("REDISTILL_CACHE", Path.home() / ".cache" / "redistill"))


def key(inputs: Mapping[str, Any]) -> str:
    """A short hash of JSON-like ``inputs``; arrays and tensors count with all their numbers."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=_as_json).encode()).hexdigest()[:20]


def _as_json(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    assert hasattr(value, "tolist"), f"what is kept cannot depend on a {type(value).__name__}"
    return value.tolist()


_CODE: ContextVar[str] = ContextVar("code", default="")  # empty: outside any study


@contextmanager
def of_code(code: str) -> Iterator[None]:
    """Within, what is remembered belongs to this hash of code: the runner of studies sets it, so that a recipe that
    changed is made anew and nobody counts versions by hand."""
    token = _CODE.set(code)
    try:
        yield
    finally:
        _CODE.reset(token)


@cache
def _package() -> str:
    """A hash of every source of this package."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:20]


def remember(name: str, inputs: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that ``make()`` gives, from the disk where the same code made them before from the same ``inputs``.

    ``inputs`` must hold everything else that the result depends on: seeds, sizes, steps. Outside a study the whole
    package is the code. A damaged file is made anew.
    """
    file = home() / name / f"{key({'inputs': inputs, 'code': _CODE.get() or _package()})}.safetensors"
    try:
        return load_file(file)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (SafetensorError, OSError) as error:
        warnings.warn(f"{file} is damaged ({error}); made anew", stacklevel=2)

    made = {k: t.detach().contiguous().clone() for k, t in make().items()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as beside:
            save_file(made, Path(beside) / file.name)
            os.replace(Path(beside) / file.name, file)
    except OSError as error:
        warnings.warn(f"cannot keep {file} ({error})", stacklevel=2)
    return made


def kept(name: str, net: nn.Module, inputs: Mapping[str, Any], make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """``net`` with the weights that ``make(net)`` gives it, trained once on this machine and then read; frozen, in
    evaluation mode."""
    net.load_state_dict(remember(name, inputs, lambda: dict(make(net).state_dict())))
    return net.eval().requires_grad_(False)
