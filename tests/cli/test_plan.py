"""``redistill plan``: what it prints, what it reads, and every mistake as one line with exit code 2."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from redistill.cli import main
from redistill.theory.scaling import PUBLISHED

ASKED = ("--budget", "1e21", "--student", "300M")
LAW = dict.fromkeys(["A", "alpha", "B", "beta", "gamma"], 1.0)
LAWS = {
    "supervised": {"E": 1.2, **LAW}, "distillation": {**LAW, "c0": 1.0, "c1": 2.0, "f1": 0.1, "d1": 1.3},
    "ranges": {name: [1.0, 1e12] for name in ("N_S", "D_S", "N_T", "D_T", "L_T")},
}  # fmt: skip


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["plan", *arguments])
    shown = capsys.readouterr()
    return int(stop.value.code or 0), shown.out, shown.err


def answer(capsys, *arguments: str) -> dict:
    code, out, err = run(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def rows(seed: int = 0) -> list[dict]:
    """40 runs of the published laws at small sizes, half of them with one of three teachers."""
    rng, found = np.random.default_rng(seed), []
    for i in range(40):
        N, D = 10 ** rng.uniform(6, 8), 10 ** rng.uniform(8, 10)
        L_T = (3.2, 3.5, 3.9)[i % 3] if i % 2 else None
        loss = PUBLISHED.predict(N, D, L_T or np.nan) * np.exp(0.003 * rng.standard_normal())
        found.append({"N": N, "D": D, "loss": loss, "teacher_loss": L_T})
    return found


def write_csv(file: Path, listed: list[dict]) -> str:
    with file.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(stream, list(listed[0]))
        writer.writeheader()
        writer.writerows(listed)
    return str(file)


def test_the_page_says_what_to_do_and_that_the_coefficients_are_not_universal(capsys):
    code, out, err = run(capsys, *ASKED)
    assert (code, err) == (0, "")
    for part in ("case both", "advice: train on the text", "student, ", "teacher inference, ", "teacher training",
                 "not universal", "caution: these coefficients",
                 "extrapolates: trained alone the student would see 5.556e+11 tokens"):  # fmt: skip
        assert part in out
    assert "any teacher of that loss" not in out


def test_the_four_cases_are_in_order_and_spend_the_budget(capsys):
    found = {c: answer(capsys, *ASKED, "--case", c) for c in ("free", "inference", "training", "both")}
    loss = {c: f["L_S"] for c, f in found.items()}
    assert loss["free"] < loss["inference"] < loss["both"] and loss["free"] < loss["training"] < loss["both"]
    assert all(sum(f["flops"].values()) == pytest.approx(1e21) for f in found.values())
    assert found["free"]["advice"] == "distil" and found["both"]["advice"] == "train on the text"
    assert found["free"]["gain"] == pytest.approx(found["free"]["supervised_loss"] - loss["free"])


def test_an_existing_teacher_is_taken_as_it_is(capsys):
    given = ("--case", "inference", "--teacher-size", "7B", "--teacher-loss", "2.0")
    found = answer(capsys, *ASKED, *given)
    assert (found["N_T"], found["L_T"], found["D_T"], found["flops"]["teacher_training"]) == (7e9, 2.0, None, 0.0)
    assert "7e+09 parameters, exists already" in run(capsys, *ASKED, *given)[1]
    assert "any teacher of that loss will do" in run(capsys, *ASKED, "--case", "free")[1]


def test_only_what_lies_outside_is_said_to_be_extrapolated(capsys):
    assert answer(capsys, "--budget", "1e20", "--student", "300M", "--case", "free")["extrapolates"] == []
    told = answer(capsys, "--budget", "1e17", "--student", "1M")["extrapolates"]
    assert any("N_S = 1e+06 is outside 1.43e+08 to 1.26e+10" in line for line in told)


def test_own_runs_are_fitted_with_an_interval_and_the_laws_can_be_kept(capsys, tmp_path):
    asked = ("--budget", "1e17", "--student", "30M", "--case", "inference")
    listed = rows()
    file = write_csv(tmp_path / "runs.csv", listed)
    found = answer(capsys, *asked, "--runs", file)
    low, high = found["interval"]["L_S"]
    assert low <= high and found["misfit"] < 0.005 and found["source"] == f"fitted to {file}"
    truth = PUBLISHED.predict(3e7, found["D_S"], found["L_T"])
    assert found["L_S"] == pytest.approx(truth, rel=0.03)
    columns = {name: [row[name] for row in listed] for name in listed[0]}
    (tmp_path / "columns.json").write_text(json.dumps(columns))
    (tmp_path / "one.json").write_text(json.dumps(listed[:15]))
    two = ("--runs", str(tmp_path / "one.json"), "--runs", write_csv(tmp_path / "two.csv", listed[15:]))
    for given in (("--runs", str(tmp_path / "columns.json")), two):
        assert answer(capsys, *asked, *given)["L_S"] == pytest.approx(found["L_S"], rel=1e-6)
    assert "the laws miss their own runs by 0." in run(capsys, *asked, "--runs", file)[1]
    (tmp_path / "kept.json").write_text(json.dumps(found))
    kept = answer(capsys, *asked, "--coefficients", str(tmp_path / "kept.json"))
    assert kept["L_S"] == pytest.approx(found["L_S"], rel=1e-12) and kept["source"] == found["source"]
    assert kept["extrapolates"] == found["extrapolates"]


def test_coefficients_alone_are_read(capsys, tmp_path):
    (tmp_path / "laws.json").write_text(json.dumps(LAWS))
    found = answer(capsys, *ASKED, "--coefficients", str(tmp_path / "laws.json"))
    assert found["coefficients"]["supervised"]["E"] == 1.2 and found["source"].endswith("laws.json")


def changed(part: str, **values) -> dict:
    return LAWS | {part: {k: v for k, v in (LAWS[part] | values).items() if v != "gone"}}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--student", "300M"), "Missing option '--budget'"),
        (("--budget", "1e21"), "Missing option '--student'"),
        (("--budget", "lots", "--student", "300M"), "--budget: 'lots' is no number above 0; write 3e8 or 300M"),
        (("--budget", "", "--student", "300M"), "--budget: '' is no number above 0"),
        (("--budget", "-1e21", "--student", "300M"), "--budget: '-1e21' is no number above 0"),
        (("--budget", "inf", "--student", "300M"), "--budget: 'inf' is no number above 0"),
        (("--budget", "1e21", "--student", "300X"), "--student: '300X' is no number above 0"),
        (("--budget", "1e308", "--student", "300M"), "--budget: '1e308' is beyond any language model; give 1e+06 to"),
        (("--budget", "5e-324", "--student", "300M"), "--budget: '5e-324' is beyond any language model"),
        (("--budget", "1e21", "--student", "1e300"), "--student: '1e300' is beyond any language model; give 1 to"),
        (("--budget", "1e21", "--student", "0"), "--student: '0' is no number above 0"),
        ((*ASKED, "--case", "fre"), "case: unknown case 'fre'; did you mean 'free'?"),
        ((*ASKED, "--teacher-size", "1B"), "an existing teacher needs --teacher-size and --teacher-loss"),
        ((*ASKED, "--teacher-loss", "2.0"), "an existing teacher needs --teacher-size and --teacher-loss"),
        ((*ASKED, "--teacher-size", "1B", "--teacher-loss", "low"), "--teacher-loss: 'low' is no number above 0"),
        ((*ASKED, "--teacher-size", "", "--teacher-loss", "2"), "--teacher-size: '' is no number above 0"),
        ((*ASKED, "--teacher-size", "1B", "--teacher-loss", "2"), "choose free or inference"),
        ((*ASKED, "--runs", "a.csv", "--coefficients", "b.json"), "give either --coefficients or --runs"),
        ((*ASKED, "--runs", "absent.csv"), "--runs: absent.csv: no such file: absent.csv"),
        ((*ASKED, "--coefficients", "absent.json"), "--coefficients: no such file: absent.json"),
        ((*ASKED, "--buget", "1"), "No such option"),
    ],
)
def test_mistakes_on_the_line(capsys, arguments, said):
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("runs.csv", "", "no runs; give columns N, D, loss, teacher_loss"),
        ("runs.csv", "N,D,loss\n1,2,3\n", "no column 'teacher_loss'; it has N, D, loss"),
        ("runs.csv", "N,D,loss,teacher_loss\n1,2,3,\n1,many,3,\n", "run 2: D: 'many' is no number"),
        ("runs.csv", "N,D,loss,teacher_loss\n1,2\n", "run 1: loss: 'None' is no number"),
        ("runs.csv", "N,D,loss,teacher_loss\n1e6,1e8,3,\n", "1 runs without a teacher; a fit needs 7 or more"),
        ("runs.csv", "N,D,loss,teacher_loss\n" + "1e6,1e8,nan,\n" * 9, "run 1: loss: 'nan' is no number above 0"),
        ("runs.csv", "N,D,loss,teacher_loss\n" + "1e6,1e8,3,\n2e6,3e8,2,\n" * 9, "0 runs with a teacher; a fit needs"),
        ("runs.csv", "N,D,loss,teacher_loss\n" + "1e6,1e8,3,\n" * 9, "1 different N in the runs without a teacher"),
        ("runs.json", "{", "not JSON"),
        ("runs.json", "3", "no runs"),
        ("runs.json", "[1, 2]", "no runs"),
        ("runs.json", '{"N": [1, 2], "D": [1]}', "columns of unequal length: {'N': 2, 'D': 1}"),
        ("runs.json", '{"N": 1, "D": 1}', "no runs"),
        ("laws.json", "[]", "--coefficients: supervised: missing; give a table of E, A, alpha, B, beta, gamma"),
        ("laws.json", '{"coefficients": 3}', "--coefficients: supervised: missing"),
        ("laws.json", json.dumps(changed("supervised", E="gone")), "supervised: E is None; give a number above 0"),
        ("laws.json", json.dumps(changed("supervised", A=-1)), "supervised: A is -1; give a number above 0"),
        ("laws.json", json.dumps(changed("distillation", c0=True)), "distillation: c0 is True"),
        ("laws.json", json.dumps(changed("distillation", alfa=1)), "unknown coefficient 'alfa'; did you mean 'alpha'"),
        ("laws.json", json.dumps(changed("ranges", N_T="gone")), "ranges: N_T is None; give [low, high]"),
        ("laws.json", json.dumps(changed("ranges", L_T=[3.0, 2.0])), "ranges: L_T is [3.0, 2.0]; give [low, high]"),
        ("laws.json", json.dumps(LAWS | {"ranges": [1]}), "ranges: N_S is None"),
        ("laws.csv", "\xff\x00", "not JSON"),
    ],
)
def test_mistakes_in_files(capsys, tmp_path, name, text, said):
    file = tmp_path / name
    file.write_text(text)
    code, out, err = run(capsys, *ASKED, "--runs" if name.startswith("runs") else "--coefficients", str(file))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert err.startswith("redistill: ")


def test_a_binary_file_is_no_text(capsys, tmp_path):
    (tmp_path / "runs.csv").write_bytes(b"\xff\xfe\x00\x80")
    code, _, err = run(capsys, *ASKED, "--runs", str(tmp_path / "runs.csv"))
    assert code == 2 and "not UTF-8" in err
