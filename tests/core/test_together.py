"""Two processes agree: on what they refuse, when they end, what no gradient reached, and their running statistics."""

from __future__ import annotations

import pytest
import torch

from redistill.core import Plan, fit
from tests.core.processes import in_two_processes
from tests.core.test_exactness import PLAN, Followed, Listed, Masked, Nothing
from tests.core.together import DECAY, spare
from tests.core.toys import data, net


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(folder):
    return in_two_processes("tests.core.together", folder)


def part(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}


def test_a_rollout_lasts_as_long_as_the_longest_of_all_ranks(ranks):
    assert [rank["rollout"].tolist() for rank in ranks] == [[[0, 0, 0]], [[3, 4, 0]]]


def test_a_signal_to_one_rank_stops_all_after_the_same_step_with_a_checkpoint(ranks):
    assert [rank["stopped"].tolist() for rank in ranks] == [[4, 1], [4, 1]]


def test_the_clock_of_rank_0_says_when_all_ranks_save(ranks):
    assert [rank["saved"].tolist() for rank in ranks] == [[8, 1], [8, 1]]


def test_ranks_that_would_go_on_from_other_steps_are_refused(ranks):
    assert all("apart" in rank for rank in ranks)


def test_what_no_rank_has_a_gradient_for_stays_as_it_was(ranks):
    one = fit(spare(), data(), DECAY).student
    for rank in ranks:
        got = part(rank, "spare.student")
        assert (got["spare.weight"] == 1).all() and (one.spare.weight == 1).all()
        torch.testing.assert_close(got["net.0.weight"], one.net[0].weight.detach(), rtol=0, atol=1e-9)


def test_running_statistics_are_the_same_on_all_ranks_and_constants_keep_their_bits(ranks):
    left, right = (part(rank, "spare.student") for rank in ranks)
    assert torch.equal(left["norm.running_mean"], right["norm.running_mean"])
    assert torch.equal(left["table"], spare().student.table)
    assert not torch.equal(left["norm.running_mean"], torch.zeros(4))


def test_a_batch_in_which_no_row_counts_is_skipped_by_all_ranks(ranks):
    with pytest.warns(UserWarning, match="no row or token"):
        one = fit(Masked(net(0), rows=2), data(), DECAY).method.state_dict()
    for rank in ranks:
        assert max(float((v - one[k]).abs().max()) for k, v in part(rank, "masked").items()) < 1e-9


def test_the_twins_of_a_sharded_average_are_sharded_and_saved(ranks, folder):
    resumed = Followed(net(0).bfloat16())
    fit(resumed, {"image": data()["image"].bfloat16()}, Plan(**PLAN), folder=folder / "low", resume=True)
    assert torch.equal(resumed.average.get_buffer("twin_0/weight"), ranks[0]["twin"])


def test_averages_in_a_list_are_sharded_saved_and_the_same_as_in_one_process(ranks, folder):
    one = fit(Listed(net(0)), data(), Plan(**PLAN)).method.state_dict()
    resumed = fit(Listed(net(0)), data(), Plan(**PLAN), folder=folder / "listed", resume=True).method.state_dict()
    for got in (*(part(rank, "listed") for rank in ranks), resumed):
        assert all(torch.allclose(got[k], v, rtol=0, atol=1e-9) for k, v in one.items())


@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_micro_batches_in_which_no_row_counts_add_nothing_on_any_rank(parallel, ranks):
    one = fit(Nothing(net(0), rows=20), data(), Plan(**PLAN)).method.state_dict()
    for rank in ranks:
        got = part(rank, f"nothing.{parallel}")
        assert all(torch.allclose(got[k], v, rtol=0, atol=1e-9) for k, v in one.items())
