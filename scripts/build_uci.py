"""Builds src/redistill/beds/data/uci.npz: regression tables that are free to pass on, from statsmodels and mlxtend.

Run where statsmodels 0.14 and mlxtend 0.25 are installed: ``python scripts/build_uci.py``. It is deterministic.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
from mlxtend.data import autompg_data

DATA = Path(__file__).parents[1] / "src" / "redistill" / "beds" / "data"
AUTOMPG = ["cylinders", "displacement", "horsepower", "weight", "acceleration", "model_year", "origin"]
MACRO = ["realgdp", "realcons", "realinv", "realgovt", "realdpi", "cpi", "m1", "tbilrate", "pop"]
PROVENANCE = {
    "longley": ("J. W. Longley (1967), NIST StRD", "public domain", "statsmodels"),
    "stackloss": ("K. A. Brownlee (1965)", "public domain", "statsmodels"),
    "randhie": ("RAND Health Insurance Experiment; Cameron and Trivedi (2005)", "public domain", "statsmodels"),
    "macrodata": (
        "US quarters 1959-2009 (FRED, BLS), target: unemployment",
        "public domain",
        "statsmodels",
    ),
    "autompg": ("UCI Auto MPG, R. Quinlan (1993), target: miles per gallon", "CC BY 4.0", "mlxtend"),
}


def from_statsmodels(name: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features, target and column names of a statsmodels table."""
    table = importlib.import_module(f"statsmodels.datasets.{name}").load_pandas()
    x, y = (table.data[MACRO], table.data["unemp"]) if name == "macrodata" else (table.exog, table.endog)
    return x.to_numpy(float), y.to_numpy(float), list(x.columns)


def main() -> None:
    """Writes the arrays and their provenance."""
    arrays, notes = {}, {}
    for name, (source, licence, package) in PROVENANCE.items():
        if package == "mlxtend":
            x, y = autompg_data()
            x, columns = x[:, : len(AUTOMPG)], AUTOMPG  # the last column is the car's name
        else:
            x, y, columns = from_statsmodels(name)
        assert np.isfinite(x).all() and np.isfinite(y).all()
        arrays |= {f"{name}.x": x, f"{name}.y": y}
        notes[name] = {"source": source, "licence": licence, "package": package, "columns": columns, "rows": len(y)}
    np.savez_compressed(DATA / "uci.npz", **arrays)
    (DATA / "uci.json").write_text(json.dumps(notes, indent=2) + "\n")


if __name__ == "__main__":
    main()
