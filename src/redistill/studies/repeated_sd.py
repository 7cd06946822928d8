"""How much do k rounds of self-distillation gain over one? Exactly, where theory says they must not, and on real
tables.

An arm is a number of rounds; a metric is the least excess risk of an exact problem over that of the best filter there
is, or the mean test error over several splits of a real table. The exact part does not depend on the seed; the splits
do.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from redistill.beds import uci
from redistill.core.claims import headline, lower, reaches, stays_below, within
from redistill.core.study import Outcome, Results, Study
from redistill.methods.analysis.repeated_sd import best_risk, fit_repeated
from redistill.theory.ridge import Truth, spectrum

RANKS = (2, 4, 8, 16, 32)
TABLES = ("diabetes", "autompg", "macrodata", "randhie", "star98")
ROUNDS = {"ridge": 0, "one": 1, "two": 2, "full": -1}
LAMBDAS = np.logspace(-6, 3, 91)


def problems(r: int) -> dict[str, Truth]:
    """The paper's family of rank ``r`` and the two in which one of its conditions fails."""
    s = 1 - np.arange(r) / (2 * r)
    last, first, spread = np.eye(r)[-1], np.eye(r)[0], np.full(r, r**-0.5)
    return {
        "last": Truth(s, last, 0.1 * s[-1]),
        "first": Truth(s, first, 0.1 * s[-1]),
        "equal": Truth(np.ones(r), last, 0.1),  # no distinct singular values
        "spread": Truth(s, spread, 0.1 * s[-1]),  # aligned with no eigenvector
    }


def cell(arm: str, seed: int, budget: Mapping[str, Any]) -> Outcome:
    """All exact ratios and all test errors of one number of rounds."""
    metrics = {}
    for r in RANKS:
        for name, truth in problems(r).items():
            rounds = r if arm == "full" else ROUNDS[arm]
            metrics[f"ratio_{name}_{r}"] = best_risk(truth, rounds, LAMBDAS) / truth.excess_risk(truth.oracle)
    if arm == "full":
        metrics["growth"] = growth()
    else:  # on data, as many rounds as directions would fit the noise of the validation rows
        for table in TABLES:
            splits = [on_table(table, ROUNDS[arm], [seed, i], budget["label_noise"]) for i in range(budget["splits"])]
            metrics |= {name: float(np.mean([split[name] for split in splits])) for name in splits[0]}
    return Outcome(metrics)


def growth() -> float:
    """By what the factor between one round and r rounds is multiplied when r doubles, at least."""
    truths = [(r, problems(r)["last"]) for r in RANKS]
    factors = [best_risk(truth, 1, LAMBDAS) / best_risk(truth, r, LAMBDAS) for r, truth in truths]
    return min(later / before for before, later in pairwise(factors))


def on_table(name: str, rounds: int, seed: list[int], label_noise: float) -> dict[str, float]:
    """Test error on a table as it is, and with noise of ``label_noise`` standard deviations on the training labels."""
    parts = uci.split(uci.load(name), seed)
    noise = label_noise * np.random.default_rng([*seed, 1]).standard_normal(len(parts.y_train))
    found = {}
    for metric, y in ((f"mse_{name}", parts.y_train), (f"mse_noisy_{name}", parts.y_train + noise)):
        model = fit_repeated(parts.x_train, y, parts.x_val, parts.y_val, rounds=rounds)
        found[metric] = float(np.mean((model.predict(parts.x_test) - parts.y_test) ** 2))
    found[f"alignment_{name}"] = float(spectrum(parts.x_train).alignment(parts.y_train).max())
    return found


def draw(results: Results, folder: Path) -> None:
    """Ratio to the best filter against the rank; test errors relative to ridge."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = {"ridge": "o-", "one": "s--", "two": "^-", "full": "d-"}
    for arm, style in styles.items():
        left.plot(RANKS, [results.values(arm, f"ratio_last_{r}").mean() for r in RANKS], style, label=STUDY.arms[arm])
    left.set(xscale="log", yscale="log", xlabel="rank r", ylabel="least excess risk / best filter's")
    left.set_xticks(RANKS, [str(r) for r in RANKS])
    left.minorticks_off()
    left.set_title("exact: truth along the smallest direction")
    left.legend()
    x = np.arange(2 * len(TABLES))
    names = [f"{kind}{t}" for t in TABLES for kind in ("", "noisy_")]
    for k, arm in enumerate(("one", "two")):
        gain = [results.values(arm, f"mse_{n}") / results.values("ridge", f"mse_{n}") - 1 for n in names]
        right.bar(
            x + 0.4 * k - 0.2,
            [100 * g.mean() for g in gain],
            0.4,
            yerr=[100 * g.std() for g in gain],
            label=STUDY.arms[arm],
        )
    right.axhline(0, color="black", lw=0.8)
    right.set_xticks(x, [n.replace("noisy_", "noisy\n") for n in names], fontsize=8)
    right.set(ylabel="test error against ridge, %", title="tables: weights and lambda chosen on validation rows")
    right.legend()
    figure.savefig(folder / "rounds.png", dpi=110)


UCI = "Air Quality: ridge 2.01, one round 1.99, two 1.06; AEP: no gain"
STUDY = Study(
    slug="repeated_sd",
    question="How much can k rounds of self-distillation gain over the best ridge and over the best single round?",
    arms={"ridge": "ridge", "one": "1 round", "two": "2 rounds", "full": "r rounds"},
    claims=(
        headline(lower("ratio_last_32", "full", "one", 0.9, "excess risk lower by a factor up to the rank",
                       relative=True, said="r rounds have a tenth of the least excess risk of one (rank 32)")),
        stays_below("ratio_last_16", "full", 1.001, "1 is the best filter that there is",
                    said="r rounds reach the best filter (rank 16)"),
        reaches("growth", "full", 1.5, "2 would be linear in the rank, 1 no growth", "grows linearly with the rank",
                said="the factor by which r rounds beat one grows as the rank doubles"),
        lower("ratio_last_8", "two", "one", 0.5, relative=True),
        within(0.01, "ratio_last_16", "ridge", "one", better="lower",
               said="where the truth lies along the smallest direction one round gains next to nothing"),
        within(0.001, "ratio_equal_16", "ridge", "full", "distinct singular values are necessary", better="lower"),
        within(0.01, "ratio_spread_16", "ridge", "full", "alignment is necessary", better="lower"),
        *(lower(f"mse_noisy_{table}", "two", rival, 0.02, UCI, relative=True)
          for table in ("macrodata", "autompg", "diabetes") for rival in ("ridge", "one")),
        *(lower(f"mse_{table}", "two", "ridge", 0.02, UCI, relative=True) for table in TABLES),
    ),
    cell=cell,
    budget={"label_noise": 1.0, "splits": 10},
    smoke={"splits": 1},
    seeds=tuple(range(11, 31)),
    draw=draw,
)  # fmt: skip
