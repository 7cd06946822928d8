"""Systems that do not train, as a recipe runs them: positional networks, keyword options, and by name what ``run``
fills in (``rows``, ``plan``, ``folder``, ``sources``). Each writes into ``folder`` and says what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from redistill.core.errors import UserError, unknown


def d_ode(
    teacher: Any,
    *,
    folder: Path,
    sources: dict[str, Any],
    steps: int = 5,
    scale: int = 10,
    solver: Literal["ddim", "dpm_solver_2m", "heun"] = "ddim",
    prediction: Literal["x0", "eps"] = "x0",
    batch: int = 32,
    seed: int = 0,
) -> str:
    """Fit a ``steps``-step solver around a frozen diffusers network, on one batch of noise; write its numbers and,
    where a scheduler can carry them, a pipeline."""
    import torch

    from redistill.diffusion.schedulers import save_pipeline
    from redistill.methods.generation.d_ode import fit_lambdas

    source = sources["teacher"]
    noise = torch.randn(batch, *source.shape, generator=torch.Generator().manual_seed(seed))
    fitted = fit_lambdas(teacher, noise, steps, scale=scale, solver=solver, prediction=prediction)
    folder.mkdir(parents=True, exist_ok=True)
    fitted.save(folder / "lambdas.json")
    gain = 1 - fitted.after[-1] / max(fitted.before[-1], 1e-12)
    said = f"{folder / 'lambdas.json'}: {100 * gain:.0f} % less error at the last mark of the fit"
    if source.pipeline is None or solver == "heun" or (solver, prediction) == ("dpm_solver_2m", "eps"):
        return said
    source.pipeline.scheduler = fitted.scheduler(teacher)
    save_pipeline(source.pipeline, folder / "pipeline")
    return f"{said}; DiffusionPipeline.from_pretrained({str(folder / 'pipeline')!r}, trust_remote_code=True)"


def repeated_sd(
    *, rows: dict[str, np.ndarray], folder: Path, target: str, rounds: int = 2, validation: float = 0.25, seed: int = 0
) -> str:
    """Ridge regression with ``rounds`` of self-distillation on the number columns of a table; ``validation`` of the
    rows choose the penalty and the weights. Writes the linear model as JSON."""
    from redistill.methods.analysis.repeated_sd import fit_repeated

    if target not in rows:
        raise unknown("column", target, rows, place="options.target")
    names = [name for name, values in rows.items() if name != target and values.dtype.kind == "f" and values.ndim == 1]
    if not names:
        raise UserError("no column of numbers beside the target", place="data")
    X, y = np.stack([rows[name] for name in names], 1), rows[target]
    order = np.random.default_rng(seed).permutation(len(y))
    held, used = np.split(order, [max(1, round(validation * len(y)))])
    models = {k: fit_repeated(X[used], y[used], X[held], y[held], rounds=k) for k in {0, rounds}}
    best = models[rounds]
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {
        "coefficients": dict(zip(names, best.coef_.tolist())), "intercept": float(best.intercept_), "penalty": best.lam,
        "xi": best.xi.tolist(), "validation_mse": {k: m.validation_mse_ for k, m in models.items()},
    }  # fmt: skip
    (folder / "model.json").write_text(json.dumps(numbers, indent=1) + "\n")
    return (
        f"{folder / 'model.json'}: validation error {best.validation_mse_:.4g} after {rounds} rounds, "
        f"{models[0].validation_mse_:.4g} for the best plain ridge"
    )


def survey(
    student: Any,
    teacher: Any,
    *,
    rows: Any,
    plan: Any,
    folder: Path,
    classes: int,
    input_shape: list[int],
    stages: list[str],
    embedding: str,
    teacher_stages: list[str] | None = None,
    teacher_embedding: str | None = None,
    baselines: dict[str, float] | list[str] | None = None,
    validation: float = 0.25,
    seed: int = 0,
) -> str:
    """The classic baselines on two networks, judged on a share ``validation`` of the rows; ``baselines``: some of them,
    perhaps with factors of their weights. Writes the table as CSV and Markdown."""
    from redistill.methods.analysis.survey import as_csv, as_markdown, compare
    from redistill.supervised.baselines import Pair, carried

    used, held = _halves(rows, validation, seed)
    accuracy = _accuracy_on(held, plan.batch_size)
    if accuracy(teacher)["accuracy"] <= 1.5 / classes:
        said = f"{100 * accuracy(teacher)['accuracy']:.0f} % of {classes} classes on held-out rows"
        raise UserError(f"the teacher is hardly better than chance ({said}); train it first", place="models.teacher")
    pair = Pair(teacher, lambda k: _fresh(student, seed + k), input_shape, classes, stages, teacher_stages or stages,
                embedding, teacher_embedding or embedding)  # fmt: skip
    found = compare(pair, used, plan, accuracy, carried(pair) if baselines is None else baselines)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "survey.csv").write_text(as_csv(found))
    (folder / "survey.md").write_text(as_markdown(found))
    return f"{folder / 'survey.md'}: {found[0].name} is the most accurate, {100 * found[0].scores['accuracy']:.1f} %"


def _halves(rows: Any, share: float, seed: int) -> tuple[Any, Any]:
    """Rows to train on and rows to judge on."""
    from redistill.core.source import table
    from redistill.data.picked import Picked

    if not 0 < share < 1:
        raise UserError(f"validation={share}; give a share between 0 and 1", place="options.validation")
    count = len(table(rows))
    parts = np.split(np.random.default_rng(seed).permutation(count), [count - max(1, round(share * count))])
    return tuple({n: c[p] for n, c in rows.items()} if isinstance(rows, dict) else Picked(rows, p) for p in parts)


def _accuracy_on(rows: Any, batch_size: int) -> Any:
    """A function from a network to its accuracy on ``rows``."""
    import torch

    from redistill.core.source import table
    from redistill.supervised.classifier import logits

    held = table(rows)
    batches = [list(range(len(held)))[at : at + batch_size] for at in range(0, len(held), batch_size)]

    @torch.no_grad()
    def accuracy(network: Any) -> dict[str, float]:
        device, hits = next(network.parameters()).device, 0
        for batch in map(held.__getitems__, batches):
            moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            hits += int((logits(network.eval(), moved).argmax(1) == moved["label"]).sum())
        return {"accuracy": hits / len(held)}

    return accuracy


def _fresh(network: Any, seed: int) -> Any:
    """A copy with new weights wherever a layer knows how to draw them."""
    import copy

    import torch

    torch.manual_seed(seed)
    fresh = copy.deepcopy(network)
    for part in fresh.modules():
        getattr(part, "reset_parameters", lambda: None)()
    return fresh
