"""``redistill list``, ``show``, ``cite``: what they print, what they refuse, and that they import no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from unittest.mock import patch

import pytest

from redistill import catalog
from redistill.catalog import Entry, entries, entry
from redistill.cli import main
from redistill.core.evidence import engine, write
from redistill.sources import digest

PROBE = """
import sys
from redistill.cli import main
try:
    main(sys.argv[1:])
finally:
    heavy = {"torch", "transformers", "diffusers", "accelerate", "scipy", "matplotlib"} & set(sys.modules)
    print("heavy:", sorted(heavy), file=sys.stderr)
"""
MODULES = ["redistill.core.errors"]
CLAIM = {"metric": "ece", "arm": "ps_kd", "against": "ce", "relative": False, "effect": 0.06, "effect_sd": 0.01}
CLAIM |= {"n": 3, "paper": "11.84 -> 1.77", "reason": ""}
MEASURED = {
    "slug": "ps_kd",
    "seeds": [1, 2, 3],
    "seconds": 61.0,
    "claims": [
        {**CLAIM, "name": "calibration", "verdict": "holds", "kind": "headline"},
        {**CLAIM, "name": "accuracy", "against": "", "relative": True, "verdict": "not shown", "kind": "threshold"},
        {**CLAIM, "name": "cost", "verdict": "holds", "kind": "margin"},
    ],
    "modules": MODULES,
    "digest": digest(MODULES),
    "engine": engine(),
}


def run(capsys, *arguments: str, width: int = 80) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``redistill ARGUMENTS`` in a terminal of ``width``."""
    with patch.dict(os.environ, COLUMNS=str(width)), pytest.raises(SystemExit) as stop:
        main(arguments)
    shown = capsys.readouterr()
    return int(stop.value.code or 0), shown.out, shown.err


@pytest.mark.parametrize(
    "line", ["", "--help", "list", "list --json", "list --help", "show dmd2", "cite sdft", "--version"]
)
def test_reading_the_catalogue_imports_nothing_heavy(line):
    done = subprocess.run([sys.executable, "-c", PROBE, *line.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "heavy: []"
    assert done.stdout.strip()


def test_list_names_every_system(capsys):
    code, out, err = run(capsys, "list")
    assert (code, err) == (0, "")
    assert all(f" {e.slug} " in out for e in entries())
    assert "119 systems" in out


@pytest.mark.parametrize("width", [80, 120])
def test_lines_fit_the_terminal(capsys, width):
    for arguments in (["list"], ["show", "sdft"], ["show", "diffusion_self_distillation"]):
        out = run(capsys, *arguments, width=width)[1]
        assert max(map(len, out.splitlines())) <= width


def test_a_wide_list_shows_three_answers(capsys):
    assert "context, ema · logits · rollouts" in run(capsys, "list", "--scheme", "self", width=120)[1]
    assert "context, ema · logits · rollouts" not in run(capsys, "list", "--scheme", "self", width=80)[1]


def test_list_json_is_an_array_of_entries(capsys):
    code, out, _ = run(capsys, "list", "--json")
    rows = json.loads(out)
    assert code == 0 and [row["slug"] for row in rows] == [e.slug for e in entries()]
    fields = set(Entry.__dataclass_fields__) - {"class_"} | {"class"}
    assert all(fields <= set(row) for row in rows)
    assert rows[0] == json.loads(json.dumps(entry(rows[0]["slug"]).as_dict()))


def test_list_filters_by_several_facets_and_alternatives(capsys):
    out = run(capsys, "list", "--json", "--knowledge", "logits", "--scheme", "self", "--samples", "rollouts")[1]
    assert "sdft" in {row["slug"] for row in json.loads(out)}
    split = run(capsys, "list", "--json", "--teacher", "ema,past")[1]
    twice = run(capsys, "list", "--json", "--teacher", "ema", "--teacher", "past")[1]
    assert split == twice


@pytest.mark.parametrize("facet", catalog.FACETS)
def test_every_word_of_every_facet_selects_the_entries_that_carry_it(capsys, facet):
    for word in catalog.vocabulary(facet):
        found = json.loads(run(capsys, "list", "--json", f"--{facet}", word)[1])
        assert [row["slug"] for row in found] == [e.slug for e in entries() if word in e.words(facet)]
        assert found


def test_the_answers_of_five_questions_select_one_system(capsys):
    e = entry("ps_kd")
    options = [part for q in catalog.QUESTIONS for part in (f"--{q}", e.words(q)[0])]
    found = {row["slug"] for row in json.loads(run(capsys, "list", "--json", *options)[1])}
    assert "ps_kd" in found and len(found) < 10


def test_an_empty_selection_says_so(capsys):
    assert run(capsys, "list", "--teacher", "random", "--knowledge", "tools") == (
        0,
        "no system answers all of that\n",
        "",
    )
    assert run(capsys, "list", "--teacher", "random", "--knowledge", "tools", "--json")[1].strip() == "[]"


@pytest.mark.parametrize("slug", [e.slug for e in entries()])
def test_show_prints_the_whole_entry(capsys, slug):
    code, out, _ = run(capsys, "show", slug, width=110)
    told, e = " ".join(out.split()), entry(slug)
    assert code == 0
    for part in (
        e.title,
        catalog.byline(e),
        *e.idea,
        e.use_when,
        e.avoid_when,
        e.cost,
        e.claim,
        *e.equation.split(",  "),
    ):
        assert " ".join(part.split()) in told
    assert all(question in told for question in catalog.QUESTIONS.values())


def test_show_and_list_report_the_evidence(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("REDISTILL_EVIDENCE", str(tmp_path))
    write(MEASURED, tmp_path)
    out = run(capsys, "show", "ps_kd")[1]
    assert "seeds 1, 2, 3, 61 s" in out and "stale" not in out
    assert "ece: ps_kd against ce" in out and "0.06 ± 0.01" in out
    assert "not shown" in out and "6 ± 1 %" in out
    assert "headline holds  calibration: 0.06 ± 0.01, n = 3" in out and "in the paper: 11.84 -> 1.77" in out
    assert "beside it 1 not shown, 1 within a margin" in out
    assert "holds: 0.06 ± 0.01 (n = 3)" in run(capsys, "list", "--status", "built")[1]
    write(MEASURED | {"claims": MEASURED["claims"][1:]}, tmp_path)
    assert "no headline yet" in run(capsys, "list", "--status", "built")[1]
    assert "no evidence yet: redistill reproduce sdft" in run(capsys, "show", "sdft")[1]


def test_show_says_when_evidence_is_older_than_its_code(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("REDISTILL_EVIDENCE", str(tmp_path))
    write(MEASURED | {"digest": "0"}, tmp_path)
    assert "stale: the code has changed since" in run(capsys, "show", "ps_kd")[1]
    write(MEASURED | {"engine": "0", "reused": [2], "diverged": {"ce, seed 1": "step 3"}}, tmp_path)
    out = run(capsys, "show", "ps_kd")[1]
    assert "measured with an older engine" in out and "seeds 2 had been looked at before" in out
    assert "ce, seed 1 diverged: step 3" in out


def test_cite_prints_one_record_per_system(capsys):
    out = run(capsys, "cite", "sdft", "ps_kd")[1]
    assert out.count("@misc{") == 2 and "{2601.19897}" in out


@pytest.mark.parametrize("word", ["list", "--help"])
def test_to_list_and_to_help_nothing_heavy_is_loaded(word):
    """What they cost is in ``benchmarks/startup.py``."""
    code = f"import sys; from redistill.cli import main\ntry: main(['{word}'])\nexcept SystemExit: pass\n"
    code += "print(*{m.split('.')[0] for m in sys.modules} - sys.stdlib_module_names, file=sys.stderr)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.split())
    assert "redistill" in loaded
    heavy = {"torch", "numpy", "scipy", "pandas", "PIL", "matplotlib", "pydantic", "yaml", "safetensors", "accelerate",
             "transformers", "diffusers", "datasets", "optuna", "sklearn", "pygments", "rich"}  # fmt: skip
    assert not loaded & heavy


def test_version(capsys):
    assert run(capsys, "--version")[1].startswith("redistill ")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("lsit", "No such command 'lsit'. Did you mean 'list'?"),
        ("list --techer ema", "No such option: --techer"),
        ("list --teacher emma", "--teacher: unknown teacher 'emma'; did you mean 'ema'?"),
        ("list --group lang", "--group: unknown group 'lang'; did you mean 'language'?"),
        ("list --status done", "--status: unknown status 'done'; valid: built, planned"),
        ("list --modality pictures", "--modality: unknown modality 'pictures'"),
        ("list --scheme online,offlin", "--scheme: unknown scheme 'offlin'; did you mean 'offline'"),
        (
            "list --knowledge feature --scheme self",
            "--knowledge: unknown knowledge 'feature'; did you mean 'features'?",
        ),
        ("list --samples rollout", "--samples: unknown samples 'rollout'; did you mean 'rollouts'?"),
        ("list --match regresion", "--match: unknown match 'regresion'; did you mean 'regression'?"),
        ("list --changes epochs", "--changes: unknown changes 'epochs'; did you mean 'epoch'?"),
        ("list --kind trainig --json", "--kind: unknown kind 'trainig'; did you mean 'training'"),
        ("list extra", "unexpected extra argument"),
        ("show", "Missing argument 'SLUG'"),
        ("show pskd", "unknown system 'pskd'; did you mean 'ps_kd'"),
        ("show ps_kd sdft", "unexpected extra argument"),
        ("cite", "Missing argument 'SLUG...'"),
        ("cite sdft dmd", "unknown system 'dmd'; did you mean 'dmdr'"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(capsys, line, told):
    code, out, err = run(capsys, *line.split())
    assert (code, out) == (2, "")
    assert err.startswith("redistill: ") and err.count("\n") == 1
    assert told in err
