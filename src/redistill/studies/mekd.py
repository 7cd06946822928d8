"""Does a generator that stands for the inverse of a teacher help a student that may only ask that teacher?

MNIST at 14x14: the teacher saw 2,000 labelled digits, the device holds 1,000 other ones without labels (or 1,000
digits of another data set), which only the GAN sees. Every student takes the same steps and questions; the arms differ
in what it matches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from redistill.beds import digits as small_digits
from redistill.beds import metrics
from redistill.beds.bench import probabilities
from redistill.beds.images import Images
from redistill.beds.mnist import digits
from redistill.core import Plan, fit
from redistill.core.cache import kept, remember
from redistill.core.study import Claim, Outcome, Results, Study
from redistill.methods.supervised.mekd import Mekd, OnceSoftened
from redistill.methods.supervised.mekd.black_box import Labels
from redistill.models.gan import mlp_discriminator, mlp_generator
from redistill.models.nets import mlp
from redistill.studies.classifiers import train, train_on_labels
from redistill.supervised.classifier import Distillation
from redistill.supervised.matches import TeacherLabel
from redistill.supervised.temperature import Constant

SIDE = 14
HARD = {"reply": Labels()}  # the released form: a one-hot row serves as logits
OPTIONS: dict[str, dict[str, Any]] = {
    "kl": {"image_weight": 0.0}, "kl_2": {"image_weight": 0.0, "match_weight": 2.0}, "image": {"match_weight": 0.0},
    "mekd": {}, "mekd_5": {"image_weight": 5.0}, "no_im": {"image_weight": 5.0},
    "shifted_kl": {"image_weight": 0.0}, "shifted_kl_2": {"image_weight": 0.0, "match_weight": 2.0},
    "shifted_mekd_5": {"image_weight": 5.0},
    "hard_kl": {**HARD, "image_weight": 0.0}, "hard_image": {**HARD, "match_weight": 0.0},
    "hard_mekd_5": {**HARD, "image_weight": 5.0}, "hard_scaled": {"reply": Labels(10.0), "image_weight": 5.0},
    "hard_ce": {"reply": Labels(), "match": TeacherLabel(), "image_weight": 0.0},
}  # fmt: skip


@dataclass
class World:
    """The teacher, what the device holds, and test digits; pixels in [-1, 1]."""

    teacher: nn.Module
    local: Images
    shifted: Images
    test: Images


def world(seed: int, budget: Mapping[str, Any]) -> World:
    """Disjoint digits of one seed, and a teacher that saw the first of them."""
    seen, local, test = map(_signed, digits(seed, budget["seen"], budget["local"], budget["test"], side=SIDE))
    torch.manual_seed(seed)
    blank = mlp(SIDE**2, 10, (128, 128))
    inputs = {"seed": seed, "seen": budget["seen"], "epochs": budget["epochs"], "version": 1}
    teacher = kept("mekd", blank, inputs, lambda net: train_on_labels(net, seen, seed, epochs=budget["epochs"]))
    return World(teacher, local, _signed(enlarged(seed, budget["local"])), test)


def _signed(images: Images) -> Images:
    return Images(2 * images.image - 1, images.label, images.classes)


def enlarged(seed: int, rows: int) -> Images:
    """Digits of 8x8 pixels by other writers, at 14x14."""
    found, _ = small_digits.load().split(rows, seed=seed)
    image = nn.functional.interpolate(torch.from_numpy(found.image), size=SIDE, mode="bilinear")
    return Images(image.numpy(), found.label, found.classes)


def generator(here: World, arm: str, seed: int, budget: Mapping[str, Any]) -> tuple[nn.Module, Tensor]:
    """The generator of an arm (of all arms with the same local images and weight), and the questions [10] that it
    cost."""
    kind = "shifted" if arm.startswith("shifted") else "local"
    local, steps, weight = getattr(here, kind), budget["gan_steps"][kind], 0.0 if arm == "no_im" else 0.5
    torch.manual_seed(seed)
    made = mlp_generator(10, (1, SIDE, SIDE))
    gan = made, mlp_discriminator(SIDE**2)

    def learn() -> dict[str, Tensor]:
        method = Mekd(mlp(SIDE**2, 10, (8,)), here.teacher, *gan, classes=10, gan_steps=steps, confidence_weight=weight,
                      image_weight=0.0, match_weight=0.0)  # fmt: skip
        plan = Plan(steps=steps, batch_size=64, optimizer="adam", lr=5e-4, betas=(0.5, 0.999), seed=seed,
                    device="cpu", log_every=1000)  # fmt: skip
        fit(method, {"image": torch.from_numpy(local.image)}, plan)
        return {"asked": method.asked[0], **{f"net.{k}": v for k, v in made.state_dict().items()}}

    inputs = {"seed": seed, "kind": kind, "weight": weight, "steps": steps, "version": 2,
              **{k: budget[k] for k in ("seen", "local", "epochs")}}  # fmt: skip
    found = remember("mekd_gan", inputs, learn)
    made.load_state_dict({k.removeprefix("net."): v for k, v in found.items() if k.startswith("net.")})
    return made.eval().requires_grad_(False), found["asked"]


def cell(arm: str, seed: int, budget: Mapping[str, Any]) -> Outcome:
    """Accuracy and agreement on test digits, questions asked; for arms with a generator what its images are like."""
    here, steps = world(seed, budget), budget["steps"]
    plan = {"steps": steps, "optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4, "seed": seed}
    torch.manual_seed(seed)
    student = mlp(SIDE**2, 10, budget["hidden"])
    if arm.startswith("private"):
        match = TeacherLabel() if arm == "private_hard" else OnceSoftened()
        method = Distillation(student, here.teacher, match=match, temperature=Constant(5.0), hard_weight=0.0,
                              soft_weight=1.0)  # fmt: skip
        train(method, here.local, **plan)
        return Outcome({**judged(student, here), "queries": float(64 * steps)})
    made, asked = generator(here, arm, seed, budget)
    ours = Mekd(student, here.teacher, made, classes=10, **OPTIONS[arm])
    fit(ours, None, Plan(batch_size=64, schedule="cosine", device="cpu", log_every=1000, **plan))
    images, found = pictures(here, made, seed)
    found["queries"] = float(ours.asked.sum() + asked.sum())
    return Outcome({**judged(student.eval(), here), **found}, {"images": images, "asked": ours.asked[1].numpy()})


def judged(student: nn.Module, here: World) -> dict[str, float]:
    """Accuracy, and how often the student says what the teacher says."""
    p, q = probabilities(student, here.test), probabilities(here.teacher, here.test)
    agreement = float((p.argmax(1) == q.argmax(1)).mean())
    return {"accuracy": metrics.accuracy(p, here.test.label), "agreement": agreement}


@torch.no_grad()
def pictures(here: World, made: nn.Module, seed: int) -> tuple[np.ndarray, dict[str, float]]:
    """40 generated images. How sure the teacher is of 1,000 of them, the spread of its logits, the share of the class
    that it names least, their median distance from the nearest private image as a share of that of fresh real digits,
    and ``copies``: how many are nearer than the nearest hundredth of those."""
    image = made(torch.randn(1000, 10, generator=torch.Generator().manual_seed(seed)))
    t = here.teacher(image)
    share = torch.bincount(t.argmax(1), minlength=10).double() / len(t)
    held, fresh = (x.image.reshape(len(x), -1) for x in (here.local, here.test))
    near, usual = (cdist(x, held).min(1) for x in (image.flatten(1).numpy(), fresh))
    found = {"sure": float(t.softmax(1).amax(1).mean()), "spread": float(t.std()),
             "rarest": float(share.min()), "distance": float(np.median(near) / np.median(usual)),
             "copies": float((near < np.quantile(usual, 0.01)).mean())}  # fmt: skip
    return image[:40, 0].numpy(), found


def draw(results: Results, folder: Path) -> None:
    """Accuracy and agreement of every arm; what the generators make and how the teacher sorts it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8), layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=(1.2, 1))
    axis, arms = figure.add_subplot(grid[0, :]), list(STUDY.arms)
    values = 100 * np.array([results.values(arm, "accuracy") for arm in arms])
    agreed = 100 * np.array([results.values(arm, "agreement").mean() for arm in arms])
    ours = {arm for arm in arms if "mekd" in arm} | {"no_im", "hard_scaled"}
    colours = ["tab:green" if a.startswith("private") else "tab:orange" if a in ours else "tab:gray" for a in arms]
    axis.bar(arms, values.mean(1), yerr=values.std(1), color=colours)
    axis.plot(arms, agreed, "k_", markersize=16, label="agreement with the teacher")
    axis.set_ylim(max(0.0, values.min() - 8), 100)
    axis.tick_params(axis="x", labelsize=8, rotation=20)
    axis.set_title("test accuracy, % (green: on the private images, orange: KL and image distance)", fontsize=10)
    axis.legend(fontsize=8, loc="lower left")
    shown = (("mekd_5", "generated digits"), ("shifted_mekd_5", "from digits of another data set"))
    for column, (arm, title) in enumerate(shown):
        picture = np.pad(results.array(arm, results.seeds[0], "images"), ((0, 0), (1, 1), (1, 1)))
        below = figure.add_subplot(grid[1, column])
        below.imshow(picture.reshape(4, 10, SIDE + 2, SIDE + 2).swapaxes(1, 2).reshape(4 * SIDE + 8, -1), cmap="gray")
        below.set_axis_off()
        below.set_title(title, fontsize=10)
    counts = figure.add_subplot(grid[1, 2])
    for seed in results.seeds:
        asked = results.array("mekd_5", seed, "asked")
        counts.plot(np.arange(10), 100 * asked / asked.sum(), "o-", label=f"seed {seed}")
    counts.set_xticks(np.arange(10))
    counts.set_ylim(0)
    counts.set_title("the teacher's classes on generated digits, %", fontsize=10)
    counts.legend(fontsize=8)
    figure.savefig(folder / "arms.png", dpi=100)


STUDY = Study(
    slug="mekd",
    question="Does comparing logits through a generator help a student that may only ask a teacher?",
    arms={
        "private_soft": "KL on the private images themselves (breaks the rule)",
        "private_hard": "the teacher's labels on the private images (breaks the rule)",
        "kl": "KL on generated images", "kl_2": "the same, counted twice",
        "image": "image distance alone (L_F)", "mekd": "MEKD, w_F = 1",
        "mekd_5": "MEKD, w_F = 5", "no_im": "the same, generator trained without L_IM",
        "hard_kl": "one-hot answers: KL", "hard_image": "one-hot answers: image distance alone",
        "hard_mekd_5": "one-hot answers: MEKD, w_F = 5",
        "hard_scaled": "one-hot answers times 10: MEKD, w_F = 5",
        "hard_ce": "one-hot answers: cross-entropy",
        "shifted_kl": "generator from 8x8 digits: KL", "shifted_kl_2": "the same, counted twice",
        "shifted_mekd_5": "generator from 8x8 digits: MEKD, w_F = 5",
    },
    claims=(
        Claim("the image distance alone teaches (accuracy)", "accuracy", "image", "", "higher", 0.5),
        Claim("soft answers: MEKD above KL alone", "accuracy", "mekd_5", "kl", "higher", 0.005,
              paper="above KD on the same synthetic images"),
        Claim("soft answers: it is not the larger gradient; MEKD above KL counted twice", "accuracy", "mekd_5", "kl_2",
              "higher", 0.0),
        Claim("one-hot answers: the image distance alone teaches", "accuracy", "hard_image", "", "higher", 0.5),
        Claim("one-hot answers: MEKD above KL alone", "accuracy", "hard_mekd_5", "hard_kl", "higher", 0.02,
              paper="works for hard answers as well"),
        Claim("one-hot answers: MEKD no worse than cross-entropy", "accuracy", "hard_mekd_5", "hard_ce", "higher",
              -0.01),
        Claim("one-hot answers: a scale of 10 is better than none", "accuracy", "hard_scaled", "hard_mekd_5",
              "higher", 0.01),
        Claim("digits of another data set: MEKD above KL alone", "accuracy", "shifted_mekd_5", "shifted_kl",
              "higher", 0.005),
        Claim("digits of another data set: MEKD above KL counted twice", "accuracy", "shifted_mekd_5", "shifted_kl_2",
              "higher", 0.0),
        Claim("privacy costs at most 5 points of the accuracy on private images", "accuracy", "mekd_5",
              "private_soft", "higher", -0.05),
        Claim("L_IM makes the teacher surer of generated images", "sure", "mekd_5", "no_im", "higher", 0.01),
        Claim("L_IM: the student is no worse for it", "accuracy", "mekd_5", "no_im", "higher", -0.01),
        Claim("no class is missed: share of the teacher's rarest class, a tenth of an even one", "rarest", "mekd_5", "",
              "higher", 0.01),
        Claim("no copies: as near to a private digit as one fresh digit in a hundred, and no more often", "copies",
              "mekd_5", "", "lower", 0.01),
    ),
    cell=cell,
    budget={"seen": 2000, "local": 1000, "test": 2000, "epochs": 20, "gan_steps": {"local": 3500, "shifted": 2000},
            "steps": 1200, "hidden": (32,)},
    smoke={"seen": 200, "local": 100, "test": 100, "epochs": 1, "gan_steps": {"local": 4, "shifted": 4}, "steps": 4},
    draw=draw,
    notes=(
        "Smaller than the paper: MNIST at 14x14, a student of 32 hidden units, a perceptron GAN with "
        "batch norm in the generator (3,500 steps; 2,000 on the shifted digits), 1,200 steps of 64 questions for every "
        "student, a cosine schedule. Questions of the GAN's stage (L_IM) come on top: 3.8 times as many for the arms "
        "with it.",
        "Chosen on seed 101, about ten minutes: the GAN decides most. After 2,000 steps KL alone reached 68 to 80 %, "
        "after 4,000 86 %; without batch norm it was no better. With Adam (0.002) L_F did nothing for soft answers "
        "(85.6 -> 85.4 %; nor did kappa 1, 2.5, 10 or w_F = 20) and harm to one-hot ones (81 -> 73 %). The paper's SGD "
        "at 0.1 gave 88.8 -> 90.4 % for soft answers and was kept for every arm; it is worse for L_F alone (80 -> 69 "
        "%) and for KL with one-hot answers (81 -> 69 %). So the gain depends on the optimiser.",
        "With soft answers the gain over KL is there (0.7 points), but counting KL twice gives as much: it may be a "
        "larger gradient within few steps. With local images of another data set, where the generator is poor, the "
        "gain is 8 points, 6 of them beyond the doubled KL. That last control and its claim (least effect 0) were "
        "added after a first look at seeds 1 to 3; all other claims and thresholds stood before.",
        "One-hot answers in the released form (unscaled, tau = kappa = 5): the softened target is nearly flat, so that "
        "both terms hardly separate classes, and the gain (3 points) varies from seed to seed. Cross-entropy with the "
        "same answers is 12 points better. Scaled by 10 the same losses lose 2 points to it.",
        "L_IM raises the teacher's confidence by half a point on average and costs the student nothing, but 3,500 "
        "steps of questions; neither is beyond the scatter of three seeds. The thresholds follow the pilot at 28x28.",
        "Two claims were re-worded after they had been measured, for they did not show what they said: an evenness of "
        "0.9 holds with an empty class, and a median distance holds with four copies in ten images. The shares that "
        "stand there now have thresholds from real digits (one in a hundred of them is as near to a private digit) and "
        "from an even split, not from the results.",
    ),
)  # fmt: skip
