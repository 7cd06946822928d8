"""Does a generator that stands for the inverse of a teacher help a student that may only ask that teacher?

MNIST at 14x14: the teacher saw 2,000 labelled digits, the device holds 1,000 other ones without labels (or 1,000
digits of another data set), which only the GAN sees. Every student takes the same steps and questions, at the rate that
is best on validation digits; the arms differ in what it matches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from redistill.beds import digits as small_digits
from redistill.beds import metrics, mnist
from redistill.beds.bench import PLAN, columns, labelled, probabilities
from redistill.beds.figures import Figure, bars, tiles
from redistill.beds.images import Images
from redistill.core import Diverged, Method, Plan, fit
from redistill.core.cache import kept, remember
from redistill.core.claims import headline, higher, reaches, stays_below
from redistill.core.study import Budget, Outcome, Study
from redistill.methods.supervised.mekd import Mekd, OnceSoftened
from redistill.methods.supervised.mekd.black_box import Labels
from redistill.models.gan import mlp_discriminator, mlp_generator
from redistill.models.nets import mlp
from redistill.supervised.classifier import Distillation
from redistill.supervised.matches import LogitMse, TeacherLabel
from redistill.supervised.temperature import Constant

SIDE, RATES = 14, (0.03, 0.1, 0.3)
MATCHES: dict[str, dict[str, Any]] = {
    "kl": {"image_weight": 0.0}, "mse": {"image_weight": 0.0, "match": LogitMse()},
    "mekd": {"image_weight": 5.0},
    "hard_ce": {"reply": Labels(), "match": TeacherLabel(), "image_weight": 0.0},
    "hard_kl": {"reply": Labels(10.0), "image_weight": 0.0},
    "hard_mekd": {"reply": Labels(10.0), "image_weight": 5.0},
}  # fmt: skip
MATCHES |= {f"shifted_{arm}": MATCHES[arm] for arm in ("kl", "mse", "mekd")}


@dataclass
class Device:
    """The teacher, what the device holds, digits that choose the rate and that judge; pixels in [-1, 1]."""

    teacher: nn.Module
    local: Images
    shifted: Images
    held: Images
    test: Images


def device(seed: int, budget: Budget) -> Device:
    """Disjoint digits of one seed, and a teacher that saw the first of them."""
    sizes = (budget[part] for part in ("seen", "local", "held", "test"))
    seen, local, held, test = map(_signed, mnist.digits(seed, *sizes, side=SIDE))
    torch.manual_seed(seed)
    named = {"seed": seed, "seen": budget["seen"], "epochs": budget["epochs"]}
    teacher = kept("mekd", mlp(SIDE**2, 10), named, lambda net: labelled(net, seen, seed, epochs=budget["epochs"]))
    return Device(teacher, local, _signed(enlarged(seed, budget["local"])), held, test)


def _signed(images: Images) -> Images:
    return Images(2 * images.image - 1, images.label, images.classes)


def enlarged(seed: int, rows: int) -> Images:
    """Digits of 8x8 pixels by other writers, at 14x14."""
    found, _ = small_digits.load().split(rows, seed=seed)
    image = nn.functional.interpolate(torch.from_numpy(found.image), size=SIDE, mode="bilinear")
    return Images(image.numpy(), found.label, found.classes)


def generator(here: Device, arm: str, seed: int, budget: Budget) -> nn.Module:
    """The generator of an arm: of all arms with the same local images."""
    kind = "shifted" if arm.startswith("shifted") else "local"
    local, steps = getattr(here, kind), budget["gan_steps"][kind]
    torch.manual_seed(seed)
    made = mlp_generator(10, (1, SIDE, SIDE))
    gan = made, mlp_discriminator(SIDE**2)

    def learn() -> dict[str, Tensor]:
        method = Mekd(mlp(SIDE**2, 10, (8,)), here.teacher, *gan, classes=10, gan_steps=steps,
                      image_weight=0.0, match_weight=0.0)  # fmt: skip
        plan = Plan(steps=steps, batch_size=64, optimizer="adam", lr=5e-4, betas=(0.5, 0.999), seed=seed,
                    device="cpu", log_every=1000)  # fmt: skip
        fit(method, {"image": torch.from_numpy(local.image)}, plan)
        return dict(made.state_dict())

    made.load_state_dict(remember("mekd_gan", {"seed": seed, "kind": kind, "budget": dict(budget)}, learn))
    return made.eval().requires_grad_(False)


def cell(arm: str, seed: int, budget: Budget) -> Outcome:
    """Accuracy and agreement on test digits; for arms with a generator what its images are like."""
    here = device(seed, budget)
    if arm == "private":
        student, rate = at_best(partial(private, here), columns(here.local), here, seed, budget)
        return Outcome({**judged(student, here), "rate": rate})

    made = generator(here, arm, seed, budget)
    blank = partial(Mekd, teacher=here.teacher, generator=made, classes=10, **MATCHES[arm])
    student, rate = at_best(blank, None, here, seed, budget)
    images, found = pictures(here, made, seed)
    return Outcome({**judged(student, here), **found, "rate": rate}, {"images": images})


def private(here: Device, student: nn.Module) -> Method:
    """KL on the private images themselves."""
    return Distillation(student, here.teacher, match=OnceSoftened(), temperature=Constant(5.0), hard_weight=0.0,
                        soft_weight=1.0)  # fmt: skip


def at_best(
    make: Callable[[nn.Module], Method], data: Any, here: Device, seed: int, budget: Budget
) -> tuple[nn.Module, float]:
    """The student of the rate that is best on the held digits, and that rate."""
    best: tuple[float, nn.Module | None, float] = (-1.0, None, 0.0)
    for rate in RATES:
        torch.manual_seed(seed)
        student = mlp(SIDE**2, 10, budget["hidden"])
        plan = {**PLAN, "steps": budget["steps"], "lr": rate, "weight_decay": 5e-4, "seed": seed, "log_every": 1000}
        try:
            student = fit(make(student), data, Plan(**plan)).student.eval()
        except Diverged:
            continue
        score = metrics.accuracy(probabilities(student, here.held), here.held.label)
        best = max(best, (score, student, rate), key=lambda found: found[0])
    assert best[1] is not None, "every rate diverged"
    return best[1], best[2]


def judged(student: nn.Module, here: Device) -> dict[str, float]:
    """Accuracy, and how often the student says what the teacher says."""
    p, q = probabilities(student, here.test), probabilities(here.teacher, here.test)
    agreement = float((p.argmax(1) == q.argmax(1)).mean())
    return {"accuracy": metrics.accuracy(p, here.test.label), "agreement": agreement}


@torch.no_grad()
def pictures(here: Device, made: nn.Module, seed: int) -> tuple[np.ndarray, dict[str, float]]:
    """40 generated images; of 1,000 of them the share of the class that the teacher names least, and
    ``copies``: how many are nearer to a private image than the nearest hundredth of fresh real digits is."""
    image = made(torch.randn(1000, 10, generator=torch.Generator().manual_seed(seed)))
    t = here.teacher(image)
    share = torch.bincount(t.argmax(1), minlength=10).double() / len(t)
    held, fresh = (x.image.reshape(len(x), -1) for x in (here.local, here.test))
    near, usual = (cdist(x, held).min(1) for x in (image.flatten(1).numpy(), fresh))
    found = {"rarest": float(share.min()),
             "copies": float((near < np.quantile(usual, 0.01)).mean())}  # fmt: skip
    return image[:40].numpy(), found


PAPER = "above KD on the same synthetic images"
OURS = ("mekd", "hard_mekd", "shifted_mekd")
STUDY = Study(
    slug="mekd",
    question="Does comparing logits through a generator help a student that may only ask a teacher?",
    arms={
        "private": "KL on the private images themselves (breaks the rule)",
        "kl": "KL on generated images", "mse": "squared error of the logits on them",
        "mekd": "MEKD, w_F = 5",
        "hard_ce": "one-hot answers: cross-entropy", "hard_kl": "one-hot answers times 10: KL",
        "hard_mekd": "one-hot answers times 10: MEKD, w_F = 5",
        "shifted_kl": "generator from 8x8 digits: KL", "shifted_mse": "the same, squared error of the logits",
        "shifted_mekd": "the same, MEKD, w_F = 5",
    },
    cell=cell,
    ceiling="private",
    claims=(
        headline(higher("accuracy", "mekd", "kl", 0.01, PAPER,
                        said="MEKD beats KL on the same generated images, each at its best rate")),
        higher("accuracy", "mekd", "mse", 0.005),
        higher("accuracy", "hard_mekd", "hard_kl", 0.01, "works for hard answers as well"),
        higher("accuracy", "hard_mekd", "hard_ce", 0.01, "works for hard answers as well"),
        *(higher("accuracy", "shifted_mekd", f"shifted_{rival}", 0.01, PAPER) for rival in ("kl", "mse")),
        reaches("rarest", "mekd", 0.01, "a tenth of an even share: no class is missed"),
        reaches("rarest", "shifted_mekd", 0.01, "a tenth of an even share: no class is missed"),
        stays_below("copies", "mekd", 0.01, "one fresh digit in a hundred is as near to a private one"),
    ),
    figures=(
        Figure("arms", (bars("accuracy", ours=OURS, dots="agreement"),
                        tiles("images", 4, "generated digits", arms=("mekd",)),
                        tiles("images", 4, "from digits of another data set", arms=("shifted_mekd",)))),
    ),
    seeds=(4, 5, 6, 7, 8),
    budget={"seen": 2000, "local": 1000, "held": 500, "test": 1500, "epochs": 20, "steps": 1200, "hidden": (32,),
            "gan_steps": {"local": 3500, "shifted": 2000}},
    smoke={"seen": 200, "local": 100, "held": 50, "test": 100, "epochs": 1, "steps": 4,
           "gan_steps": {"local": 4, "shifted": 4}},
)  # fmt: skip
