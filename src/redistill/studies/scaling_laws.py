"""Does one law predict students of a teacher that it has not seen, from size, tokens and the teacher's loss alone?

Measured: one-layer decoders on a random Markov chain, from the labels and from six teachers, every size at every
number of tokens. Two of the teachers are equally good and of unlike size. One is kept from the fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from redistill.beds.figures import Figure
from redistill.core.claims import headline, higher, lower, reaches, stays_below, within
from redistill.core.study import Outcome, Results, Study
from redistill.methods.analysis.scaling_laws import fit_laws, fit_supervised, plan
from redistill.studies.scaling_laws_runs import AGAIN, LABELS, TEACHERS, Budget, Table
from redistill.theory.scaling import CASES, Laws

Guess = Callable[[Laws, Table, Table], np.ndarray]  # fitted laws, runs that were seen, runs to predict -> losses


@dataclass(frozen=True)
class Predictor:
    """A way to predict students that were not seen."""

    title: str
    guess: Guess

    def outcome(self, seed: int, budget: Budget) -> Outcome:
        """Errors on all students of the teacher kept back, and on those with the most tokens of any teacher."""
        runs = together(seed, budget)
        unseen = {"teacher": runs["of"] == "middle", "tokens": (runs["D"] == budget["tokens"][-1])}
        metrics, arrays = {}, {}
        for name, hidden in unseen.items():
            known = {k: v[~hidden] for k, v in runs.items()}
            held = {k: v[hidden & ~np.isnan(runs["teacher_loss"])] for k, v in runs.items()}
            laws = fit_laws(known, floor=floor(seed, budget))
            found = self.guess(laws, taught(known), held)
            metrics |= {f"{name}_error": float(np.abs(found / held["loss"] - 1).mean())}
            arrays |= {f"{name}_predicted": found, f"{name}_seen": held["loss"]}
            if np.ptp(found) > 0:
                metrics[f"{name}_rank"] = float(spearmanr(found, held["loss"])[0])
        return Outcome(metrics, arrays)


def together(seed: int, budget: Budget) -> Table:
    """The runs that laws are fitted to or tried on, with the arm of each."""
    tables = {name: arm.table(seed, budget) for name, arm in {"labels": LABELS, **TEACHERS}.items()}
    columns = {k: np.concatenate([t[k] for t in tables.values()]) for k in ("N", "D", "loss", "teacher_loss")}
    return columns | {"of": np.concatenate([np.full(len(t["N"]), name) for name, t in tables.items()])}


def taught(runs: Table) -> Table:
    """The runs with a teacher."""
    return {k: v[~np.isnan(runs["teacher_loss"])] for k, v in runs.items()}


def floor(seed: int, budget: Budget) -> float:
    """The entropy of the text on the validation rows."""
    return float(TEACHERS["exact"].table(seed, budget)["teacher_loss"][0])


def constant(laws: Laws, known: Table, held: Table) -> np.ndarray:
    """The mean student."""
    return np.full(len(held["N"]), np.exp(np.log(known["loss"]).mean()))


def same(laws: Laws, known: Table, held: Table) -> np.ndarray:
    """What the labels would give."""
    return laws.supervised(held["N"], held["D"])


def blind(laws: Laws, known: Table, held: Table) -> np.ndarray:
    """A power law of the students that does not know their teachers."""
    return fit_supervised({**known, "teacher_loss": np.full(len(known["N"]), np.nan)})(held["N"], held["D"])


def line(laws: Laws, known: Table, held: Table) -> np.ndarray:
    """No law: straight lines in L_T through the students of the same size and tokens (or the most tokens seen)."""
    found = []
    for N, D, L_T in zip(held["N"], held["D"], held["teacher_loss"]):
        at = (known["N"] == N) & (known["D"] == min(D, known["D"].max()))
        order = np.argsort(known["teacher_loss"][at])
        found.append(np.interp(L_T, known["teacher_loss"][at][order], known["loss"][at][order]))
    return np.array(found)


def law(laws: Laws, known: Table, held: Table) -> np.ndarray:
    """The distillation law."""
    return laws.predict(held["N"], held["D"], held["teacher_loss"])


@dataclass(frozen=True)
class Planner:
    """What the laws of all runs say: from how many tokens on the labels are better, and who should pay."""

    title: str

    def outcome(self, seed: int, budget: Budget) -> Outcome:
        """D* of every size under the strong teacher (a search without success ends at 100 times the most tokens), and
        the four cases of the planner for the middle size."""
        runs = together(seed, budget)
        laws, L_T = fit_laws(runs, floor=floor(seed, budget)), runs["teacher_loss"][runs["of"] == "strong"][0]
        D, sizes = np.geomspace(budget["tokens"][0], 100 * budget["tokens"][-1], 2000), np.unique(runs["N"])
        stars = []
        for N in sizes:
            worse = laws.predict(N, D, L_T) > laws.supervised(N, D)
            stars.append(float(D[worse.argmax() if worse.any() else -1]))
        found = {"crossover_least": stars[0], "crossover_largest": stars[-1]}

        budgets = 6 * sizes[1] * np.geomspace(budget["tokens"][0], 10 * budget["tokens"][-1], 12)
        plans = {c: [plan(C, sizes[1], case=c, laws=laws) for C in budgets] for c in CASES}
        gains = {f"plan_{c}": np.array([p.L_S - p.supervised_loss for p in listed]) for c, listed in plans.items()}
        planned = {f"{name}_least": float(gain.min()) for name, gain in gains.items()}
        return Outcome(
            {**found, "growth": float(np.log(stars[-1] / stars[0])), **planned}, {"budgets": budgets, **gains}
        )


ARMS: dict[str, Any] = {
    "labels": LABELS,
    **TEACHERS,
    "again": AGAIN,
    "constant": Predictor("predict the mean", constant),
    "same": Predictor("predict L_S = L~_S", same),
    "blind": Predictor("power law without L_T", blind),
    "line": Predictor("no law: straight lines in L_T", line),
    "law": Predictor("distillation law", law),
    "planner": Planner("what the fitted laws advise"),
}


def cell(name: str, seed: int, budget: Budget) -> Outcome:
    """A table of runs, a way to predict the held-out ones, or advice."""
    return ARMS[name].outcome(seed, budget)


def curves_of_runs(axis: Any, results: Results, arms: Any) -> None:
    """A panel: the smallest and the largest student of every teacher, first seed."""
    for number, arm in enumerate(("labels", *TEACHERS)):
        N, D, loss = (results.array(arm, results.seeds[0], k) for k in ("N", "D", "loss"))
        for size, style in ((N.min(), "o--"), (N.max(), "o-")):
            axis.plot(
                D[size == N], loss[size == N], style, color=f"C{number}", ms=3, label=arm if style == "o-" else None
            )
    axis.set(
        xscale="log", xlabel="tokens D", ylabel="cross-entropy, nats", title="smallest (dashed) and largest student"
    )
    axis.legend(fontsize=7, ncols=2)


def predicted_by_seen(axis: Any, results: Results, arms: Any) -> None:
    """A panel: students of the teacher that was kept back, all seeds."""
    for arm in ("constant", "same", "blind", "line", "law"):
        seen, found = (np.concatenate([results.array(arm, s, f"teacher_{k}") for s in results.seeds])
                       for k in ("seen", "predicted"))  # fmt: skip
        axis.plot(seen, found, "o", ms=4, label=ARMS[arm].title)
    axis.axline((seen.min(), seen.min()), slope=1, color="black", lw=0.8)
    axis.set(xlabel="measured", ylabel="predicted", title="students of a teacher not seen")
    axis.legend(fontsize=7)


def advice(axis: Any, results: Results, arms: Any) -> None:
    """A panel: loss minus supervised of the four cases, first seed."""
    for case in CASES:
        axis.plot(*(results.array("planner", results.seeds[0], k) for k in ("budgets", f"plan_{case}")), label=case)
    axis.axhline(0, color="black", lw=0.8)
    axis.set(
        xscale="log", xlabel="budget, FLOPs", ylabel="loss minus supervised, nats", title="who pays for the teacher"
    )
    axis.legend(fontsize=8)


STUDY = Study(
    slug="scaling_laws",
    question="Do size, tokens and the teacher's loss predict a distilled student, and when does distillation pay?",
    arms=ARMS,
    claims=(
        headline(lower("teacher_error", "law", "blind", 0.5, "errors of about 1 %", relative=True,
                       said="the law predicts students of an unseen teacher, with half the error of one without L_T")),
        stays_below("teacher_error", "law", 0.03, "three times the paper's error", "about 1 %",
                    said="students of an unseen teacher within 3 %"),
        stays_below("tokens_error", "law", 0.03, "three times the paper's error", "about 1 %",
                    said="students with more tokens than seen within 3 %"),
        lower("teacher_error", "law", "line", 0.0, relative=True,
              said="on an unseen teacher it beats straight lines in L_T"),
        lower("tokens_error", "law", "same", 0.3, relative=True, said="with more tokens it beats L_S = L~_S"),
        within(0.005, "off", "wide", "again", better="lower",
               said="a teacher as good and four times as wide changes students no more than another start does"),
        lower("loss_few", "strong", "labels", 0.03, relative=True,
              said="with few tokens students of a strong teacher beat the labels"),
        higher("loss_many", "narrow", "labels", 0.03, relative=True,
               said="with many tokens the labels beat a weak teacher"),
        reaches("growth", "planner", 0.0, "0: D* is the same for all sizes",
                "the threshold grows with the student", said="D*, where the labels catch up, grows with the student"),
        stays_below("paid_free", "strong", -0.03, "0: as good as the labels",
                    said="measured: a teacher that costs nothing pays (nats)"),
        reaches("paid_both", "strong", 0.0, "0: as good as the labels at equal FLOPs",
                "supervised is better if the teacher is trained for one student",
                said="measured: a teacher trained for one student does not"),
    ),
    cell=cell,
    budget={"widths": [12, 20, 32], "tokens": [57344, 81920, 131072, 196608], "validation": 2048,
            "bisections": 10},
    smoke={"widths": [8, 12, 16], "tokens": [3072, 4096, 6144, 8192], "validation": 256, "bisections": 2},
    seeds=(4, 5, 6, 7, 8),
    figures=(Figure("laws", (curves_of_runs, predicted_by_seen, advice)),),
)  # fmt: skip
