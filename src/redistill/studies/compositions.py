"""What comes out when parts of several systems are put together in ways that no paper tried?

Three combinations of plug-ins, each beside its parts alone, on digits with 30 % wrong training labels and on few digits
with right ones. One two-layer network; equal epochs, batches and optimiser in all arms.
"""

from __future__ import annotations

from functools import partial

from redistill.beds import mnist
from redistill.beds.bench import Arm, Bench, Parts, Regime, cell
from redistill.beds.figures import Figure, bars
from redistill.core import Method
from redistill.core.claims import Claim, headline, higher
from redistill.core.study import Budget, Study
from redistill.methods.supervised.ps_kd import PsKd
from redistill.models.nets import mlp
from redistill.supervised.classifier import Classification, Distillation
from redistill.supervised.matches import Dkd
from redistill.supervised.targets import Annealed, LabelSmoothing, OneHot, Progressive, TargetRectifier
from redistill.supervised.temperature import Constant, GlobalCurriculum, Temperature
from redistill.supervised.weights import Boosting


def digits(wrong: float, seed: int, budget: Budget) -> Parts:
    """Training digits of 14x14 with a share of wrong labels; 2,500 to test, with right ones."""
    return Parts(*mnist.digits(seed, budget["rows"], 2500, wrong=wrong, side=14))


def labels(rectifier: TargetRectifier, bench: Bench) -> Method:
    """Labels, perhaps smoothed."""
    return Classification(bench.student(), rectifier=rectifier)


def annealed(divided: float = 1.0) -> Annealed:
    """ADR's rectifier, from temperature 1.5 to 1, of a teacher whose logits were ``divided`` already."""
    return Annealed(1.5 / divided, 1.0 / divided, 0.5, 0.8)


def curriculum(bench: Bench, **bounds: float) -> Temperature:
    """CTKD's, over the first third of the epochs."""
    return GlobalCurriculum(epochs=max(1, bench.plan["epochs"] // 3), **bounds)


def past(rectifier: TargetRectifier, learned: bool, bench: Bench) -> Method:
    """Past predictions are sure of themselves already: temperatures from 0.5 to 3.5 instead of 1 to 21."""
    tau = curriculum(bench, low=0.5, span=3.0) if learned else None
    student = bench.student()
    return PsKd(student, rows=bench.size, classes=10, rectifier=rectifier, temperature=tau)


def taught(
    bench: Bench, *, boosted: bool = False, learned: bool = False, rectified: bool = False, decoupled: bool = False
) -> Method:
    """Half labels, half a twin that stopped early, whose logits the rows hold."""
    return Distillation(
        bench.student(),
        None,
        hard_weight=0.5,
        soft_weight=0.5,
        rows=bench.size,
        temperature=curriculum(bench) if learned else Constant(4.0),
        weight=Boosting(eta=0.3) if boosted else None,
        rectifier=annealed(4.0) if rectified else None,
        match=Dkd() if decoupled else None,
    )


TWIN = {"optimizer": "sgd", "lr": 0.05, "schedule": "cosine"}  # a sixth of the epochs: more, and it knows wrong labels
REGIMES = {
    "noisy": Regime(partial(digits, 0.3), partial(mlp, 196, 10), partial(mlp, 196, 10),
                    plan={"epochs": 30}, taught={**TWIN, "epochs": 5}),
    "few": Regime(partial(digits, 0.0), partial(mlp, 196, 10), partial(mlp, 196, 10),
                  plan={"epochs": 60}, taught={**TWIN, "epochs": 10}),
}  # fmt: skip
ARMS = {
    "ce": Arm("labels alone", partial(labels, OneHot())),
    "smoothing_05": Arm("labels smoothed by 0.5", partial(labels, LabelSmoothing(0.5))),
    "smoothing_08": Arm("labels smoothed by 0.8", partial(labels, LabelSmoothing(0.8))),
    "past": Arm("PS-KD: past predictions, weight up to 0.8", partial(past, Progressive(0.8), False)),
    "past_rectified": Arm("PS-KD with ADR's rectifier", partial(past, annealed(), False)),
    "past_curriculum": Arm("PS-KD with CTKD's learned temperature", partial(past, Progressive(0.8), True)),
    "past_both": Arm("PS-KD with ADR's rectifier and CTKD's temperature", partial(past, annealed(), True)),
    "taught": Arm("distillation from a twin that stopped early", taught),
    "taught_boosted": Arm("the same with DCS's weights", partial(taught, boosted=True)),
    "taught_curriculum": Arm("the same with CTKD's learned temperature", partial(taught, learned=True)),
    "boosted_curriculum": Arm("the same with both", partial(taught, boosted=True, learned=True)),
    "taught_rectified": Arm("the same with ADR's rectifier in the label term", partial(taught, rectified=True)),
    "taught_decoupled": Arm("the same with DKD's match", partial(taught, decoupled=True)),
    "rectified_decoupled": Arm("the same with both", partial(taught, rectified=True, decoupled=True)),
}
COMBINATIONS = {
    "boosted_curriculum": ("taught_boosted", "taught_curriculum"),
    "rectified_decoupled": ("taught_rectified", "taught_decoupled"),
}


def against(regime: str, both: str, *rivals: str) -> tuple[Claim, ...]:
    """A combination above each of ``rivals`` by a point: 25 of the 2,500 test digits."""
    return tuple(higher(f"{regime}_accuracy", both, rival, 0.01) for rival in rivals)


STUDY = Study(
    slug="compositions",
    question="Do plug-ins of different systems add up when they are put together?",
    arms=ARMS,
    cell=cell(REGIMES, ARMS, {"optimizer": "adam", "lr": 1e-3, "schedule": "constant"}),
    claims=(
        headline(higher("few_accuracy", "past_both", "past_curriculum", 0.01,
                        said="past predictions, rectifier and learned temperature beat the best part (few labels)")),
        *against("few", "past_both", "past_rectified", "past", "smoothing_05", "smoothing_08"),
        *against("noisy", "past_both", "past_curriculum", "past_rectified", "past", "smoothing_05", "smoothing_08"),
        *(c for both, parts in COMBINATIONS.items() for regime in REGIMES for c in against(regime, both, *parts)),
    ),
    figures=(
        Figure("arms", tuple(bars(f"{regime}_{metric}", ours=("past_both", *COMBINATIONS))
                             for metric in ("accuracy", "ece") for regime in REGIMES), columns=2),
    ),
    seeds=tuple(range(4, 14)),
    budget={"noisy": {"rows": 2000}, "few": {"rows": 600}},
    smoke={"noisy": {"rows": 300}, "few": {"rows": 300}, "plan": {"epochs": 3}},
)  # fmt: skip
