"""Does it help to name the rotation together with the class, and how much of that survives in one forward pass?

The subgroup of an emoji from 50 pictures a class by a small convolutional network, with crops and mirror images in all
arms. The baseline takes the number of epochs that held rows choose; whoever passes four copies of a picture through the
network has a quarter of the most epochs.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from redistill.beds import emoji_subgroups
from redistill.beds.bench import Arm, Bench, Parts, Regime, cell, chosen, variants
from redistill.beds.figures import Figure, bars
from redistill.beds.images import balanced
from redistill.core import Method
from redistill.core.claims import headline, higher
from redistill.core.study import Budget, Study
from redistill.methods.supervised.sla import Invariant, Sla, TwoTasks
from redistill.models.nets import staged_convnet
from redistill.supervised.classifier import Classification
from redistill.vision.augmentations import CropFlipJitter

COPIES = 4


def emoji(seed: int, budget: Budget) -> Parts:
    """Ten subgroups at 16x16: few pictures a class to train on and to choose on, all others of new emoji to judge."""
    train, held, test = emoji_subgroups.split(seed, 10, 0.48, 0.12)
    return Parts(balanced(train, budget["each"], seed), test, balanced(held, budget["each"] // 4, seed))


class Together(nn.Module):
    """A trained method as a network that answers from all copies of an image."""

    def __init__(self, method: Sla | Invariant) -> None:
        super().__init__()
        self.method = method

    def forward(self, image: Tensor) -> Tensor:
        return self.method.aggregate(image)


def together(method: type[Sla] | type[Invariant], bench: Bench, **weights: float) -> nn.Module:
    """``method`` after its run, asked about all four copies."""
    made = method(bench.student(), **weights)
    bench.fit(made)
    return Together(made).eval()


def baseline(bench: Bench) -> Method:
    """Cross-entropy on the images as they are."""
    return Classification(bench.student())


EPOCHS = 40  # of all copies
LENGTHS = [{"epochs": EPOCHS * times} for times in (1, 2, COPIES)]
REGIMES = {"": Regime(emoji, partial(staged_convnet, 3, 10), plan={"epochs": EPOCHS, "batch_size": 32, "lr": 0.1},
                      augment=CropFlipJitter(border=2).rows)}  # fmt: skip
ARMS = {
    "baseline": Arm("cross-entropy, one to four times as many epochs, chosen", chosen(*variants(baseline, *LENGTHS))),
    "da": Arm("all four rotations with the image's label", lambda bench: Invariant(bench.student())),
    "da_together": Arm("the same, an ensemble of the four views", partial(together, Invariant)),
    "mt": Arm("two heads: class and rotation of every copy", lambda bench: TwoTasks(bench.student())),
    "sla_single": Arm("joint labels alone, one pass (SLA+SI)",
                      lambda bench: Sla(bench.student(), single_weight=0.0, distill_weight=0.0)),
    "sla_together": Arm("joint labels alone, all four copies (SLA+AG)",
                        partial(together, Sla, single_weight=0.0, distill_weight=0.0)),
    "sla_sd": Arm("joint labels, own classifier and self-distillation, one pass (SLA+SD)",
                  lambda bench: Sla(bench.student())),
}  # fmt: skip
PAPER = "large gains over augmentation and multi-task learning on CIFAR-10/100 and others"

STUDY = Study(
    slug="sla",
    question="Does naming the rotation together with the class help, and does one forward pass keep the gain?",
    arms=ARMS,
    cell=cell(REGIMES, ARMS),
    claims=(
        headline(higher("accuracy", "sla_sd", "baseline", 0.015, PAPER,
                        said="one forward pass of SLA+SD beats cross-entropy of chosen length")),
        higher("accuracy", "sla_together", "baseline", 0.015, PAPER),
        higher("accuracy", "sla_sd", "sla_single", 0.01, PAPER),
        higher("accuracy", "sla_sd", "mt", 0.015, PAPER),
        higher("accuracy", "sla_sd", "da", 0.015, PAPER),
        higher("accuracy", "sla_together", "da_together", 0.015, PAPER),
        higher("accuracy", "baseline", "da", 0.01, "invariance to rotations hurts"),
    ),
    figures=(Figure("arms", (bars("accuracy", ours={"sla_sd", "sla_together"}), bars("ece", ours={"sla_sd"}))),),
    seeds=tuple(range(4, 14)),
    budget={"each": 40},
    smoke={"each": 8, "plan": {"epochs": 1}},
)  # fmt: skip
