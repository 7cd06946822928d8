"""A teacher that can only be asked: what its replies count as, and a classifier behind a server."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from redistill.core import Slot, UserError
from redistill.core.types import Positive, ShareInside
from redistill.losses.precision import raised


class Reply(Slot, ABC):
    """Reads what the box said about B rows as logits t [B, C], at least float32."""

    def read(self, said: Tensor, classes: int) -> Tensor:
        """Logits [B, classes]; raises :class:`UserError` for a reply of another width."""
        if said.ndim != 2 or said.shape[1] != classes:
            raise UserError(f"the teacher replies {tuple(said.shape)}, not {classes} numbers a row", place="teacher")
        return self.logits(raised(said))

    @abstractmethod
    def logits(self, said: Tensor) -> Tensor:
        """From numbers [B, C] to logits [B, C]."""

    def confidence(self, logits: Tensor) -> Tensor:
        """Probability of the top class [B]."""
        return logits.softmax(-1).amax(-1)


class Logits(Reply):
    """The box gives logits. Rows that are probabilities are refused: softened once more they would be nearly flat."""

    def logits(self, said: Tensor) -> Tensor:
        if bool((said >= 0).all()) and bool(((said.sum(-1) - 1).abs() < 1e-2).all()):
            raise UserError("the teacher replies probabilities, not logits; write reply: probabilities", place="reply")
        return said


class Probabilities(Reply):
    """The box gives probabilities: t = log p less its mean over the classes."""

    def __init__(
        self,
        floor: ShareInside = 1e-6,  # the least p
    ) -> None:
        self.floor = floor

    def logits(self, said: Tensor) -> Tensor:
        if bool((said < 0).any()):
            raise UserError("the teacher replies negative numbers, so they are no probabilities", place="reply")
        log_p = said.clamp_min(self.floor).log()
        return log_p - log_p.mean(-1, keepdim=True)


class Labels(Reply):
    """The box names a class, or only its name is used: t = ``scale`` onehot(argmax), confidence 1.

    With scale 1 and temperature 5 the softened target of ten classes is nearly flat (0.12 at the top); a scale near the
    usual gap between logits keeps it sharp.
    """

    def __init__(
        self,
        scale: Positive = 1.0,  # the logit of the class that was named
    ) -> None:
        self.scale = scale

    def read(self, said: Tensor, classes: int) -> Tensor:
        if said.ndim > 1:
            return super().read(said, classes)
        if said.is_floating_point() or not bool(((said >= 0) & (said < classes)).all()):
            raise UserError(f"the teacher replies something other than classes 0..{classes - 1}", place="teacher")
        return self._one_hot(said, classes)

    def logits(self, said: Tensor) -> Tensor:
        return self._one_hot(said.argmax(-1), said.shape[-1])

    def confidence(self, logits: Tensor) -> Tensor:
        return torch.ones_like(logits[:, 0])

    def _one_hot(self, label: Tensor, classes: int) -> Tensor:
        return self.scale * nn.functional.one_hot(label, classes).to(torch.get_default_dtype())


class InferenceServer(nn.Module):
    """A classifier behind the Open Inference Protocol (Triton, KServe, TorchServe, OpenVINO): images [B, ...] in, its
    first output out, by ``POST url/v2/models/model/infer``. ``input``: the server's name of the image."""

    def __init__(self, url: str, model: str, *, input: str = "input", timeout: float = 60.0) -> None:
        super().__init__()
        if not url.startswith(("http://", "https://")):
            raise UserError(f"{url!r} is no address; write it like http://localhost:8000", place="url")
        self.address = f"{url.rstrip('/')}/v2/models/{model}/infer"
        self.input, self.timeout = input, timeout

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        rows = image.detach().float().cpu()
        asked = {"name": self.input, "shape": list(rows.shape), "datatype": "FP32", "data": rows.flatten().tolist()}
        answer = self._post({"inputs": [asked]})
        try:
            output = answer["outputs"][0]
            return torch.tensor(output["data"]).reshape(output["shape"]).to(image.device)
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError):
            raise UserError("the answer has no outputs with shape and data", place=self.address) from None

    def _post(self, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.address, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            said = " ".join(error.read(200).decode("utf-8", "replace").split())
            raise UserError(f"the server said {error.code}: {said}", place=self.address) from None
        except (OSError, ValueError) as error:
            raise UserError(f"no usable answer ({error}); is the server up?", place=self.address) from None
