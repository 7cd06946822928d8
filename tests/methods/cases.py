"""One small case of every method that trains: how to build it and its rows, in float64. A new method adds one
function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from redistill.core import Method

Case = Callable[[], tuple[Method, Any]]


def _random(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ps_kd() -> tuple[Method, Any]:
    from redistill.methods.supervised.ps_kd import PsKd
    from redistill.models.nets import mlp

    torch.manual_seed(0)
    data = {"image": _random(22, 6), "label": torch.arange(22) % 3}
    return PsKd(mlp(6, 3, [8]), rows=22, classes=3).double(), data


def dmd2() -> tuple[Method, Any]:
    from redistill.diffusion.denoiser import Denoiser
    from redistill.diffusion.discriminator import TokenHead
    from redistill.diffusion.nets import DenoiserMlp
    from redistill.methods.score.dmd2 import Dmd2

    torch.manual_seed(0)
    student, teacher = (Denoiser(DenoiserMlp(2, 16), time_scale=1.0) for _ in range(2))
    method = Dmd2(student, teacher, None, TokenHead(16), steps=2, critic_turns=2, gan_student=0.1, gan_critic=0.1)
    return method.double(), {"image": _random(22, 2)}


def sdft() -> tuple[Method, Any]:
    from redistill.beds import lm
    from redistill.language import contexts
    from redistill.methods.language.sdft import Sdft

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    student = lm.blank(0, **small, num_key_value_heads=2, head_dim=8)
    questions = [f"RV{a}{b}cd" for a in "abcdef" for b in "ghi"]
    seen = [contexts.asked(q + "!<a/b/c/d>") for q in questions]
    data = contexts.two_contexts(student.tokenizer, [contexts.asked(q) for q in questions], seen)
    return Sdft(student, max_new_tokens=5, skip_tokens=1).double(), data


def pruned_data_kd() -> tuple[Method, Any]:
    from redistill.methods.supervised.pruned_data_kd import PrunedDataKd
    from redistill.models.nets import mlp

    torch.manual_seed(0)
    data = {"image": _random(22, 6), "label": torch.arange(22) % 3}
    return PrunedDataKd(mlp(6, 3, [8]), mlp(6, 3, [8]), fraction=0.3).double(), data


def ctkd() -> tuple[Method, Any]:
    from redistill.methods.supervised.ctkd import Ctkd
    from redistill.models.nets import mlp
    from redistill.supervised.temperature import InstanceCurriculum

    torch.manual_seed(0)
    data = {"image": _random(22, 6), "label": torch.arange(22) % 3}
    each = InstanceCurriculum(3, hidden=4, low=0.5, span=2.0)
    return Ctkd(mlp(6, 3, [8]), mlp(6, 3, [12]), temperature=each).double(), data


def sla(**options: float) -> tuple[Method, Any]:
    from redistill.methods.supervised.sla import Sla
    from redistill.models.nets import convnet

    torch.manual_seed(0)
    data = {"image": _random(22, 2, 6, 6), "label": torch.arange(22) % 3}
    return Sla(convnet(2, 3, (4, 6)), joint_weight=4.0, **options).double(), data


def sla_alone() -> tuple[Method, Any]:
    return sla(single_weight=0.0, distill_weight=0.0)


def ssld() -> tuple[Method, Any]:
    from redistill.methods.supervised.ssld import Ssld
    from redistill.models.nets import mlp

    torch.manual_seed(0)
    return Ssld(mlp(6, 3, [8]), mlp(6, 3, [12])).double(), {"image": _random(22, 6)}


def boss() -> tuple[Method, Any]:
    from redistill.methods.supervised.boss import Boss
    from redistill.models.nets import mlp

    torch.manual_seed(0)
    data = {"image": _random(22, 6), "label": torch.arange(22) % 3}
    return Boss(mlp(6, 3, [8]), mlp(6, 3, [8]), alpha=0.3).double(), data


def adr() -> tuple[Method, Any]:
    from redistill.methods.supervised.adr import Adr
    from redistill.methods.supervised.adr.attacks import Trades
    from redistill.models.nets import mlp

    torch.manual_seed(0)
    data = {"image": _random(22, 6).sigmoid(), "label": torch.arange(22) % 3}
    return Adr(mlp(6, 3, [8]), attack=Trades(eps=0.1, step=0.05, steps=2)).double(), data


def lsskd() -> tuple[Method, Any]:
    from redistill.methods.supervised.lsskd import Lsskd
    from redistill.models.nets import mlp

    torch.manual_seed(0)  # stages of vectors: their branches have no batch norm, which would mix the rows
    net, shape = mlp(72, 3, (8, 6)), [2, 6, 6]
    method = Lsskd(net, layers=["2", "4"], input_shape=shape, rows=22, classes=3, ramp=0.5)
    return method.double(), {"image": _random(22, 2, 6, 6), "label": torch.arange(22) % 3}


def random_teachers() -> tuple[Method, Any]:
    from redistill.methods.analysis.random_teachers import RandomTeachers
    from redistill.methods.analysis.random_teachers.dino import EveryStep
    from redistill.models.nets import mlp

    torch.manual_seed(0)
    method = RandomTeachers(mlp(6, 3, [8]), mlp(6, 3, [8]), following=EveryStep(0.9))
    return method.double(), {"image": _random(22, 6)}


def guided_targets() -> tuple[Method, Any]:
    from redistill.methods.analysis.guided_targets import GuidedTargets
    from redistill.models.nets import mlp

    torch.manual_seed(0)
    method = GuidedTargets(mlp(6, 3, [8]), mlp(6, 3, [8]), alpha=0.35, penalty=0.0)  # norms refuse shards
    return method.double(), {"image": _random(22, 6), "label": torch.arange(22) % 3}


def dcs() -> tuple[Method, Any]:
    from redistill.methods.supervised.dcs import Dcs
    from redistill.models.nets import mlp
    from redistill.supervised.weights import Boosting

    torch.manual_seed(0)
    data = {"image": _random(22, 6), "label": torch.arange(22) % 3}
    return Dcs(mlp(6, 3, [8]), mlp(6, 3, [8]), rows=22, weight=Boosting(warmup=0)).double(), data


def rfs() -> tuple[Method, Any]:
    from redistill.methods.supervised.rfs import Rfs
    from redistill.models.nets import convnet

    torch.manual_seed(0)
    data = {"image": _random(22, 3, 6, 6), "label": torch.arange(22) % 3}
    nets = [convnet(3, 3, (4, 6)) for _ in range(2)]
    return Rfs(*nets).double(), data


def mekd() -> tuple[Method, Any]:
    from redistill.methods.supervised.mekd import Mekd
    from redistill.models.gan import mlp_discriminator, mlp_generator
    from redistill.models.nets import mlp

    torch.manual_seed(0)
    gan = mlp_generator(3, (6,), (8,), norm=False), mlp_discriminator(6, (8,), dropout=0.0)
    method = Mekd(mlp(6, 3, [8]), mlp(6, 3, [12]), *gan, classes=3, gan_steps=2, pool=8, image_weight=5.0)
    return method.double(), {"image": _random(22, 6)}


def sd_darts() -> tuple[Method, Any]:
    from redistill.methods.supervised.sd_darts import SdDarts
    from redistill.models.cells import CellNet
    from redistill.supervised.darts import halves

    torch.manual_seed(0)
    data = halves({"image": _random(28, 2, 6, 6), "label": torch.arange(28) % 3})
    supernet = CellNet(2, 3, widths=(4, 6), nodes=3, norm="group").double()
    return SdDarts(supernet, snapshots=2, warmup=0.3, distil_alpha=True).double(), data


CASES: dict[str, Case] = {
    "boss": boss,
    "ps_kd": ps_kd,
    "dmd2": dmd2,
    "sdft": sdft,
    "ctkd": ctkd,
    "pruned_data_kd": pruned_data_kd,
    "sla": sla,
    "ssld": ssld,
    "adr": adr,
    "lsskd": lsskd,
    "random_teachers": random_teachers,
    "guided_targets": guided_targets,
    "dcs": dcs,
    "rfs": rfs,
    "mekd": mekd,
    "sd_darts": sd_darts,
}

VARIANTS = {"sla_alone": sla_alone}  # settings that train in another way than a slug's defaults
