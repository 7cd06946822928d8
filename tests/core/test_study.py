"""Running a study: cells kept and read, what is derived, what is refused, which seeds were seen, notes with numbers."""

from __future__ import annotations

import itertools
import json
import sys

import numpy as np
import pytest

from redistill.core import Diverged, UserError, cache, cells, evidence, record
from redistill.core.claims import headline, higher, reaches, within
from redistill.core.study import Outcome, Results, Study, difference, mean_of, run

CALLS: list[tuple[str, int]] = []
CLAIMS = (
    headline(higher("m", "ours", "rival", 0.5)), within(0.1, "m", "rival", "ours", better="lower"),
    reaches("m", "ours", 1.0, "chance"),
)  # fmt: skip


def cell(arm, seed, budget):
    """Numbers without any training."""
    CALLS.append((arm, seed))
    if budget.get("diverges") == [arm, seed]:
        raise Diverged("step 3, turn 'student': 'loss' is nan")
    value = {"ours": 2.0, "rival": 1.0, "best": 3.0}[arm] + 0.1 * seed
    return Outcome({"m": value, f"only_{arm}": 1.0}, {"path": np.arange(seed)}, {"said": f"{arm} {seed}"})


def study(**more) -> Study:
    given = {"arms": {"ours": "our way", "rival": "theirs", "best": "the roof"}, "claims": CLAIMS, "ceiling": "best"}
    return Study(slug="compositions", question="Does it?", cell=cell, **{**given, **more})


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("REDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Study, "module", __name__)
    monkeypatch.setattr(Study, "code", lambda self: [__name__, "redistill.beds.digits"])
    monkeypatch.setattr(cells, "load", lambda slug: study())
    CALLS.clear()


def test_two_arms_and_five_seeds_are_judged():
    found, results = run(study())
    assert [c["verdict"] for c in found["claims"]] == ["holds", "holds", "holds"]
    assert found["claims"][0]["effect"] == pytest.approx(1) and found["claims"][0]["n"] == 5
    assert found["seeds"] == [1, 2, 3, 4, 5] and len(CALLS) == 15
    assert found["table"]["ours"]["m"] == pytest.approx([2.1, 2.2, 2.3, 2.4, 2.5])
    assert results.array("ours", 3, "path").tolist() == [0, 1, 2] and results.text("rival", 2, "said") == "rival 2"
    assert found["texts"] == {f"{arm}: said": f"{arm} 1" for arm in ("ours", "rival", "best")}
    assert np.isnan(results.values("ours", "only_rival")).all()


def test_cells_are_read_again_until_something_changes():
    run(study(), seeds=[1, 2])
    run(study(), seeds=[2, 3])
    assert CALLS.count(("ours", 2)) == 1 and CALLS.count(("ours", 3)) == 1
    run(study(), seeds=[2], fresh=True)
    run(study(budget={"rows": 5}), seeds=[2])
    assert CALLS.count(("ours", 2)) == 3


def test_other_code_measures_again(monkeypatch):
    run(study(), seeds=[1])
    monkeypatch.setattr(Study, "code", lambda self: [__name__, "redistill.beds.mnist"])
    run(study(), seeds=[1])
    assert CALLS.count(("ours", 1)) == 2


@pytest.mark.parametrize("name", ["outcome.json", "arrays.npz"])
@pytest.mark.parametrize("left", [0, 40])
def test_a_torn_cell_is_measured_again(tmp_path, name, left):
    run(study(arms={"ours": "", "rival": ""}, ceiling="", claims=()), seeds=[1])
    for file in (tmp_path / "cache").rglob(name):
        file.write_bytes(file.read_bytes()[:left])
    with pytest.warns(UserWarning, match="is damaged .* measured again"):
        found, _ = run(study(arms={"ours": "", "rival": ""}, ceiling="", claims=()), seeds=[1])
    assert CALLS.count(("ours", 1)) == 2 and found["table"]["ours"]["m"] == [2.1]


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.warns(UserWarning, match="cannot keep what was measured"):
        assert run(study(), seeds=[1])[0]["table"]["ours"]["m"] == [2.1]


def test_a_metric_that_no_arm_measured_is_refused_and_nothing_is_written(tmp_path):
    wrong = study(claims=(higher("mm", "ours", "rival"),))
    with pytest.raises(UserError, match=r"compositions: mm of ours above rival: no seed of 'ours' measured 'mm'; did"):
        run(wrong, target=tmp_path / "evidence")
    with pytest.raises(UserError, match=r"no seed of 'rival' measured 'only_ours'"):
        run(study(claims=(higher("only_ours", "ours", "rival"),)))
    assert not (tmp_path / "evidence").exists()


def test_what_is_derived_is_computed_from_cells_of_the_seed():
    more = {"both": mean_of("ours", "rival"), "gain": difference("ours", "rival", "the gain")}
    found, _ = run(study(derived=more, claims=(higher("m", "both", "rival", 0.3), reaches("m", "gain", 0.9, "pilot"))))
    assert found["table"]["both"] == {"m": pytest.approx([1.6, 1.7, 1.8, 1.9, 2.0])}
    assert found["table"]["gain"]["m"] == pytest.approx([1] * 5) and found["arms"]["gain"] == "the gain"
    assert [c["verdict"] for c in found["claims"]] == ["holds", "holds"] and len(CALLS) == 15


def test_a_run_that_diverged_is_named_and_shows_nothing():
    found, _ = run(study(budget={"diverges": ["ours", 3]}))
    assert found["diverged"] == {"ours, seed 3": "step 3, turn 'student': 'loss' is nan"}
    assert [c["verdict"] for c in found["claims"]] == ["not shown"] * 3
    assert evidence.warnings(found)[-1] == "ours, seed 3 diverged: step 3, turn 'student': 'loss' is nan"
    assert len(found["table"]["ours"]["m"]) == 5


def test_what_is_derived_from_a_run_that_diverged_has_diverged(monkeypatch):
    more = {"gain": difference("ours", "rival"), "own": mean_of("rival")}
    found, _ = run(study(budget={"diverges": ["ours", 3]}, derived=more, claims=(reaches("m", "gain", 0.9, "pilot"),)))
    assert found["diverged"]["gain, seed 3"] == "ours diverged" and "own, seed 3" not in found["diverged"]
    assert found["claims"][0]["verdict"] == "not shown"


def measures(monkeypatch, ours):
    """Cells whose arm ``ours`` has the metrics that ``ours(seed)`` gives."""
    fake = lambda arm, seed, budget: Outcome(ours(seed) if arm == "ours" else {"m": 1.0})  # noqa: E731
    monkeypatch.setattr(cells, "load", lambda slug: Study(slug, "", {}, (), fake))


def test_a_number_that_is_none_is_named_where_a_claim_asks_for_it(monkeypatch):
    measures(monkeypatch, lambda seed: {"m": np.inf if seed == 2 else 2.0, "other": np.nan})
    found, _ = run(study())
    assert found["diverged"] == {"ours, seed 2": "m is inf"}
    assert found["claims"][0]["verdict"] == "not shown"


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        (lambda seed: {"m": 2.0} if seed != 3 else {"n": 1.0}, r"'ours' did not measure 'm' at seeds \[3\]"),
        (lambda seed: {}, "no seed of 'ours' measured 'm'"),
    ],
    ids=["some seeds", "nothing"],
)
def test_a_metric_that_is_missing_is_refused(monkeypatch, ours, said):
    measures(monkeypatch, ours)
    with pytest.raises(UserError, match=said):
        run(study())


def test_what_is_no_number_is_null_in_json_and_comes_back(tmp_path):
    found, _ = run(study(budget={"diverges": ["ours", 3]}), target=tmp_path)
    text = (tmp_path / "compositions.json").read_text()
    assert "NaN" not in text and json.loads(text)["table"]["ours"]["m"][2] is None
    back = evidence.read("compositions", tmp_path)
    assert back["table"]["ours"]["m"] == pytest.approx(found["table"]["ours"]["m"], nan_ok=True)
    assert np.isnan(back["claims"][0]["effect"]) and evidence.effect(back["claims"][0]) == "nan ± nan"


def test_room_is_counted_in_deviations_of_the_rival():
    found, _ = run(study())
    assert found["room"] == {"ceiling": "best", "gap": pytest.approx(2), "deviations": pytest.approx(2 / 0.158114)}
    assert run(study(claims=CLAIMS[1:]))[0]["room"] is None and run(study(ceiling=""))[0]["room"] is None


def test_seeds_that_were_seen_before_a_change_are_named(tmp_path):
    first = run(study(), seeds=[1, 2], target=tmp_path)[0]
    assert first["reused"] == [] and set(first["seen"]) == {"1", "2"}
    more = run(study(), seeds=[1, 2, 3], target=tmp_path)[0]
    assert more["reused"] == [] and more["frozen"] == first["frozen"]
    moved = study(claims=(headline(higher("m", "ours", "rival", 0.4)), *CLAIMS[1:]))
    again = run(moved, seeds=[3, 4], target=tmp_path)[0]
    assert again["reused"] == [3] and again["frozen"] != first["frozen"] and set(again["seen"]) == {"1", "2", "3", "4"}
    assert "seeds 3 had been looked at before" in evidence.warnings(again)[-1]
    last = run(moved, seeds=[4, 5], target=tmp_path)[0]
    assert last["reused"] == [] == again["left_out"] == more["left_out"]  # what was judged for other claims is no loss


def test_seeds_that_were_judged_and_left_out_are_named(tmp_path):
    run(study(), seeds=[1, 2, 3, 4, 5], target=tmp_path)
    chosen = run(study(), seeds=[2, 4, 6], target=tmp_path)[0]
    assert chosen["left_out"] == [1, 3, 5] and chosen["reused"] == []
    assert evidence.warnings(chosen) == ["seeds 1, 3, 5 were judged for the same claims and left out"]
    assert run(study(), seeds=[1, 2, 3, 4, 5, 6], target=tmp_path)[0]["left_out"] == []


def test_evidence_knows_its_code_and_its_engine(tmp_path, monkeypatch):
    run(study(), target=tmp_path)
    found = evidence.read("compositions", tmp_path)
    assert evidence.age(found) == "" and "redistill.core.engine" not in found["modules"]
    assert evidence.age({**found, "engine": "other"}) == "older engine"
    assert evidence.age({**found, "digest": "other"}) == "stale" == evidence.age({**found, "modules": ["gone"]})
    assert json.loads((tmp_path / "compositions.json").read_text()) == found


def test_one_seed_confirms_evidence_of_older_code(tmp_path, monkeypatch):
    from redistill.core.confirm import confirm

    run(study(), seeds=[1, 2], target=tmp_path)
    old = {**evidence.read("compositions", tmp_path), "digest": "older", "engine": "older"}
    assert evidence.age(old) == "stale"
    new = confirm(study(), old, 2)
    assert evidence.age(new) == "" and new["table"] == old["table"] and new["confirmed"] == 2
    assert "seed 2, measured anew, gave the same numbers" in evidence.warnings(new)[0]
    later = study(claims=CLAIMS[:1])
    for one, given, seed, said in (
        (study(), old, 3, r"seed 3 is none of the measured ones \[1, 2\]"), (later, old, 1, "the claims changed since"),
        (study(arms={**study().arms, "ours": "x"}), old, 1, "the arms changed"),
        (study(budget={"rows": 1}), old, 1, "the budget changed"),
        (study(), {**old, "table": {**old["table"], "ours": {"m": [2.1, 9.0]}}}, 2, "m of 'ours' was 9.0, is 2.2"),
        (study(), {**old, "table": {**old["table"], "ours": {}}}, 2, "was nan"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"compositions: confirm: .*{said}"):
            confirm(one, given, seed)


def test_the_headline_comes_first():
    found, _ = run(study())
    assert evidence.standing(found) == "holds: 1 ± 0 (n = 5)"
    assert evidence.counted(found) == "1 hold, 1 within a margin" and evidence.tally(found) == {"holds": 1}
    assert evidence.standing({"claims": found["claims"][1:]}) == "no headline yet"


def test_pictures_that_the_study_no_longer_draws_are_gone(tmp_path):
    run(study(draw=lambda results, folder: (folder / "old.png").write_bytes(b"")), seeds=[1], target=tmp_path)
    run(study(draw=lambda results, folder: (folder / "new.png").write_bytes(b"")), seeds=[1], target=tmp_path)
    assert evidence.read("compositions", tmp_path)["pictures"] == ["new.png"]


def test_a_share_is_every_nth_cell():
    work = [(arm, seed) for seed in (1, 2) for arm in ("a", "b", "c")]
    parts = [cells.share(work, i, 4) for i in (1, 2, 3, 4)]
    assert sorted(itertools.chain(*parts)) == sorted(work) and max(map(len, parts)) - min(map(len, parts)) == 1


def test_jobs_of_a_cluster_keep_their_cells_on_the_shared_disk(monkeypatch):
    pytest.importorskip("submitit")
    found, _ = run(study(), seeds=[1, 2], executor="debug")  # the library's own way to run jobs in this process
    assert found["table"]["ours"]["m"] == pytest.approx([2.1, 2.2]) and len(CALLS) == 6
    run(study(), seeds=[1, 2, 3], executor="debug", fresh=False)
    assert len(CALLS) == 9
    monkeypatch.setattr(cells, "load", {}.__getitem__)  # a machine on which the study cannot be loaded
    with pytest.raises(UserError, match=r"--executor: job \S+ failed; see "):
        run(study(), seeds=[4], executor="debug")


def test_arms_are_named_where_they_are_used():
    for wrong, said in (
        ({"claims": (higher("m", "other", "rival"),)}, "unknown arms"), ({"ceiling": "sky"}, "ceiling"),
        ({"derived": {"x": mean_of("y")}}, "derived from unknown"), ({"claims": CLAIMS[:1] * 2}, "one headline"),
    ):  # fmt: skip
        with pytest.raises(AssertionError, match=said):
            study(**wrong)


def test_notes_are_filled_with_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("redistill.sources.path", lambda module: tmp_path / "here.py")
    results = Results((1, 2), {("ours", 1): Outcome({"m": 0.25}), ("ours", 2): Outcome({"m": 0.75})})
    one = study(arms={"ours": ""}, claims=(), ceiling="", notes=("By hand.",))
    (tmp_path / "here.md").write_text("Reached {m:ours}, or\n{m:ours:.0%}.\n\nA set {a, b} stays.\n")
    assert record.notes(one, results) == ["By hand.", "Reached 0.5, or 50%.", "A set {a, b} stays."]
    for wrong, said in (("{m:our}", "no arm 'our'; did you mean 'ours'"), ("{mm:ours}", "has no metric 'mm'")):
        (tmp_path / "here.md").write_text(wrong)
        with pytest.raises(UserError, match=said):
            record.notes(one, results)


def test_what_is_remembered_belongs_to_its_code(tmp_path):
    torch = pytest.importorskip("torch")
    made = []

    def make():
        made.append(1)
        return {"x": torch.full((2,), float(len(made)))}

    def ask(code: str) -> float:
        with cache.of_code(code):
            return float(cache.remember("toy", {"seed": 1}, make)["x"][0])

    assert [ask("a"), ask("a"), ask("b"), ask("a")] == [1, 1, 2, 1]
    for file in (tmp_path / "cache" / "toy").glob("*"):
        file.write_bytes(file.read_bytes()[:9])
    with pytest.warns(UserWarning, match="is damaged"):
        assert ask("a") == 3


def test_what_is_remembered_outside_a_study_belongs_to_the_whole_package(monkeypatch):
    torch = pytest.importorskip("torch")
    cache.remember("toy", {}, lambda: {"x": torch.ones(1)})
    monkeypatch.setattr(cache, "_package", lambda: "another tree")
    assert float(cache.remember("toy", {}, lambda: {"x": torch.zeros(1)})["x"]) == 0


def test_every_number_of_what_is_kept_counts():
    one, other = np.zeros(5000), np.zeros(5000)
    other[2500] = 1
    assert cache.key({"x": one}) == cache.key({"x": one.copy()}) != cache.key({"x": other})
    with pytest.raises(AssertionError, match="cannot depend on a object"):
        cache.key({"x": object()})


def test_a_net_is_kept_frozen(tmp_path):
    from torch import nn

    def make(net):
        nn.init.ones_(net.weight)
        return net

    first = cache.kept("toy_net", nn.Linear(2, 1), {"seed": 1}, make)
    second = cache.kept("toy_net", nn.Linear(2, 1), {"seed": 1}, lambda net: pytest.fail("trained again"))
    assert float(second.weight.sum()) == 2 == float(first.weight.sum())
    assert not second.training and not any(p.requires_grad for p in second.parameters())


def test_studies_without_training_load_no_torch():
    code = "import sys, redistill.core.study, redistill.core.claims; assert 'torch' not in sys.modules"
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
