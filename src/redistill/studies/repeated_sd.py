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
from redistill.core.study import Claim, Outcome, Results, Study
from redistill.methods.analysis.repeated_sd import best_risk, fit_repeated
from redistill.theory.ridge import Truth, spectrum

RANKS = (2, 4, 8, 16, 32)
TABLES = ("diabetes", "autompg", "macrodata", "randhie")
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


STUDY = Study(
    slug="repeated_sd",
    question="How much can k rounds of self-distillation gain over the best ridge and over the best single round?",
    arms={"ridge": "ridge", "one": "1 round", "two": "2 rounds", "full": "r rounds"},
    claims=(
        Claim("r rounds reach the best filter (rank 16)", "ratio_last_16", "full", "", "lower", 1.001),
        Claim("r rounds have a tenth of the excess risk of the best single round (rank 32)", "ratio_last_32", "full",
              "one", "lower", 0.9, relative=True, paper="excess risk lower by a factor up to the rank"),
        Claim("the factor by which r rounds beat one grows with the rank (least growth as the rank doubles)", "growth",
              "full", "", "higher", 1.5, paper="grows linearly with the rank"),
        Claim("one round gains at most 1 % over ridge where the truth lies along the smallest direction (rank 16)",
              "ratio_last_16", "ridge", "one", "lower", -0.01, relative=True),
        Claim("two rounds beat one (rank 8)", "ratio_last_8", "two", "one", "lower", 0.5, relative=True),
        Claim("control: with equal singular values r rounds gain nothing over ridge (rank 16)", "ratio_equal_16",
              "ridge", "full", "lower", -0.001, relative=True, paper="distinct singular values are necessary"),
        Claim("control: with a spread-out truth r rounds gain at most a quarter over ridge (rank 16)",
              "ratio_spread_16", "ridge", "full", "lower", -0.25, relative=True, paper="alignment is necessary"),
        Claim("two rounds beat ridge on diabetes with noisy training labels", "mse_noisy_diabetes", "two", "ridge",
              "lower", 0.01, relative=True, paper="up to 47 % (Air Quality: 2.01 -> 1.06)"),
        Claim("two rounds beat one on diabetes with noisy training labels", "mse_noisy_diabetes", "two", "one",
              "lower", 0.01, relative=True, paper="Air Quality: 1.99 -> 1.06"),
        Claim("two rounds beat ridge on macrodata with noisy training labels", "mse_noisy_macrodata", "two", "ridge",
              "lower", 0.1, relative=True, paper="up to 47 % (Air Quality: 2.01 -> 1.06)"),
        Claim("two rounds beat one on macrodata with noisy training labels", "mse_noisy_macrodata", "two", "one",
              "lower", 0.05, relative=True, paper="Air Quality: 1.99 -> 1.06"),
        Claim("two rounds beat ridge on autompg with noisy training labels", "mse_noisy_autompg", "two", "ridge",
              "lower", 0.02, relative=True),
        Claim("two rounds are no worse than ridge on a table that gives no reason to gain", "mse_randhie", "two",
              "ridge", "lower", -0.01, relative=True, paper="AEP: no gain"),
        Claim("two rounds cost at most 3 % on diabetes with the labels as they are", "mse_diabetes", "two", "ridge",
              "lower", -0.03, relative=True, paper="AEP: no gain"),
    ),
    cell=cell,
    budget={"label_noise": 1.0, "splits": 10},
    smoke={"splits": 1},
    seeds=(1, 2, 3, 4, 5),
    draw=draw,
    notes=(
        "Air Quality, Airfoil and AEP do not come with any package; the tables here are smaller.",
        "Exact ratios do not depend on the seed; each seed splits every table ten times.",
        "Which tables gain was looked up on twenty splits with seeds from 100: with the labels as they are none does "
        "(macrodata, autompg and diabetes within 1 %, star98 loses 9 %); with noise of one standard deviation on the "
        "training labels macrodata gains 23 %, autompg 5 %, diabetes 2 %, star98 and randhie nothing. Longley (16 rows)"
        " and stackloss (21) are too small to choose two weights on: their errors vary by more than the effect.",
    ),
)  # fmt: skip
