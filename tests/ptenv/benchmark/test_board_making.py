"""The figures of a board, from made-up submissions."""

import json
from dataclasses import replace

import numpy as np
import pytest

from ptenv.benchmark.board import Ranking, as_json
from ptenv.benchmark.board_making import (
    THRESHOLDS,
    base_name,
    learned_size,
    make_board,
    scores_of,
)
from ptenv.benchmark.board_submissions import read_submissions
from ptenv.benchmark.records import Episode
from ptenv.benchmark.statistics import interquartile_mean

FEW = Ranking(n_bootstrap=200)


@pytest.fixture(scope="module")
def read(shown, made):
    return read_submissions([shown], made)


@pytest.fixture(scope="module")
def board(read, made):
    return make_board(read, made, FEW)


def rows(board, task="voxel-mask"):
    return {row.name: row for t in board.tasks if t.name == task for row in t.rows}


def test_entries_are_ranked_by_their_interquartile_mean(board, read):
    assert [r.name for r in rows(board).values() if r.rank is None] == ["partly"]
    found = [r for r in rows(board).values() if r.rank is not None]
    assert [r.rank for r in found] == list(range(1, 1 + len(found)))
    scores = [r.score.value for r in found]
    assert scores == sorted(scores, reverse=True)
    assert found[0].name == "ppo-512"
    records = {s.entry.name: s.records for s in read.accepted}
    for row in found:
        of = [r["result"]["score"] for r in records[row.name] if r["task"] == "voxel-mask"]
        assert row.score.value == interquartile_mean(of)
        assert row.n_episodes == len(of)


def test_refused_submissions_are_named_and_never_ranked(board):
    assert {r.name for r in board.refused} == {"tampered", "refused", "nobody replayed"}
    assert not set(board.entries()) & {r.name for r in board.refused}


def test_the_best_rule_is_what_others_are_compared_with(board):
    task, found = board.tasks[0], rows(board)
    assert task.best_rule == "importance"
    best = found["importance"]
    assert best.is_best_rule
    assert (best.difference, best.improvement) == (None, None)
    ahead, behind = found["ppo-512"], found["random"]
    assert ahead.difference.mean > 0 > behind.difference.mean
    assert ahead.improvement.value > 0.9
    assert behind.improvement.value == 0.0
    assert ahead.difference.n == 6
    per_case = {(c.case, c.budget): c for c in ahead.cases}
    rule = {(c.case, c.budget): c.score for c in best.cases}
    assert len(per_case) == 11
    for at, c in per_case.items():
        assert c.difference == pytest.approx(c.score - rule[at])


def test_a_network_among_the_baselines_is_no_rule(submit, made):
    learned = [{"cases": ["head-and-neck-00000"]}]
    submit("unet", 0.9, tasks=["voxel-mask"], learned=learned)
    folder = submit("simple", 0.1, tasks=["voxel-mask"]).parent
    found = make_board(read_submissions([folder], made), made, FEW)
    assert found.tasks[0].best_rule == "simple"
    assert "1 training seed" in rows(found)["unet"].warnings[0]


def test_without_a_rule_nothing_is_compared(submit, made):
    learned = [{"cases": ["head-and-neck-00000"]}] * 5
    folder = submit("ppo", kind="trained", tasks=["voxel-mask"], learned=learned)
    found = make_board(read_submissions([folder], made), made, FEW)
    assert found.tasks[0].best_rule is None
    row = rows(found)["ppo"]
    assert (row.difference, row.improvement, row.is_best_rule) == (None, None, False)


def test_a_learner_of_few_seeds_is_marked_and_its_interval_goes_over_seeds(board):
    found = rows(board)
    assert "3 training seeds instead of 5" in found["three seeds"].warnings[0]
    assert found["ppo-64"].warnings == ()
    assert found["ppo-64"].score.interval.over == "patients and training seeds"
    assert found["importance"].score.interval.over == "patients"
    assert found["importance"].n_seeds is None


def test_excluded_cases_are_named_and_not_counted(board):
    task = board.tasks[0]
    assert task.excluded == (("head-and-neck-20000", 0.05),)
    assert task.n_cases == 6
    cases = {(c.case, c.budget) for c in rows(board)["importance"].cases}
    assert ("head-and-neck-20000", 0.05) not in cases
    assert ("head-and-neck-20000", 0.2) in cases


def test_scores_at_each_budget_are_those_of_its_episodes(board, read):
    of = next(s for s in read.accepted if s.entry.name == "importance")
    for budget, estimate in zip((0.05, 0.2), rows(board)["importance"].by_budget):
        scores = [r["result"]["score"] for r in of.records
                  if r["task"] == "voxel-mask" and r["episode"]["budget"] == budget]  # fmt: skip
        assert estimate.value == interquartile_mean(scores)


def test_a_budget_without_a_judged_case_has_no_score(submit, made):
    task = made.tasks[0]
    frozen = {n: replace(c, unsound=(0.05,)) for n, c in task.frozen.items()}
    suite = replace(made, tasks=(replace(task, frozen=frozen), *made.tasks[1:]))

    def only_sound(episode):
        return 0.2 + 0.01 * int(episode.case[-1])

    folder = submit("a", only_sound, tasks=["energy-layer"])
    plain = json.loads((folder / "entry.json").read_text())
    assert plain["tasks"] == ["energy-layer"]
    from_all = read_submissions([folder], suite).accepted[0]
    assert scores_of(from_all, suite, suite.tasks[0]) is None
    board = make_board(read_submissions([folder], suite), suite, FEW)
    assert [t.name for t in board.tasks] == ["energy-layer"]


def test_the_reference_score_stands_beside_the_fast_one(board):
    found = rows(board)
    row = found["importance"]
    assert row.reference.estimate.value == pytest.approx(row.score.value - 0.02)
    assert row.reference.is_complete
    assert row.reference.fast == row.score.value
    none = found["partly"].reference
    assert (none.estimate, none.n, none.why_not) == (None, 0, "no engine for it")


def test_the_reference_engine_may_rank(submit, made):
    """A lead that the fast engine alone sees is gone; what was not judged has no rank."""
    submit("exploits", 0.6, tasks=["voxel-mask"], reference=lambda e, s: s - 0.5)
    submit("honest", 0.4, tasks=["voxel-mask"])
    submit("half", 0.5, tasks=["voxel-mask"],
           reference=lambda e, s: s if e.case.endswith(("0", "1")) else None)  # fmt: skip
    folder = submit("unjudged", 0.7, tasks=["voxel-mask"], reference=lambda e, s: None).parent
    read = read_submissions([folder], made)
    by_fast = make_board(read, made, FEW)
    assert [r.name for r in by_fast.tasks[0].rows] == ["unjudged", "exploits", "half", "honest"]
    task = make_board(read, made, replace(FEW, by="reference")).tasks[0]
    assert [(r.name, r.rank) for r in task.rows] == [
        ("honest", 1), ("exploits", 2), ("unjudged", None), ("half", None),
    ]  # fmt: skip
    assert task.best_rule == "honest"
    found = {r.name: r for r in task.rows}
    assert found["exploits"].difference.mean < -0.2
    assert found["half"].difference.n == 2
    assert found["half"].reference.n == 15
    half = found["half"].reference
    assert half.fast == half.estimate.value != found["half"].score.value
    assert found["unjudged"].difference is None


def test_what_nobody_replayed_has_no_rank(submit, made):
    submit("seen", 0.2, tasks=["voxel-mask"])
    folder = submit("unseen", 0.9, tasks=["voxel-mask"], validated=False).parent
    found = make_board(read_submissions([folder], made, unvalidated=True), made, FEW)
    assert [(r.name, r.rank) for r in found.tasks[0].rows] == [("seen", 1), ("unseen", None)]
    assert found.tasks[0].best_rule == "seen"


def test_equal_scores_share_a_rank(submit, made):
    for name in ("a", "b", "c"):
        folder = submit(name, lambda e: 0.1 * int(e.case[-1]), tasks=["voxel-mask"])
    found = make_board(read_submissions([folder.parent], made), made, FEW)
    assert [r.rank for r in found.tasks[0].rows] == [1, 1, 1]


def test_cost_and_time_are_means_over_episodes(board):
    row = rows(board)["importance"]
    assert row.cost == 120.0
    assert row.spent == {
        "wall_s": 1.5, "inference_s": 0.25, "optimization_s": 1.0, "engine_calls": 40.0
    }  # fmt: skip


def test_shifts_are_told_against_home(board, read, made):
    (shift,) = board.shifts
    assert shift.task == "voxel-mask"
    assert shift.axes == (("size", "voxel-mask-size"), ("site", "voxel-mask-site"))
    cells = {name: cells for name, _, cells in shift.rows}
    of = next(s for s in read.accepted if s.entry.name == "importance")
    away = scores_of(of, made, made.task("voxel-mask-size"))
    home = scores_of(of, made, made.task("voxel-mask"))
    assert cells["importance"][0].difference.value == pytest.approx(
        interquartile_mean(away.values) - interquartile_mean(home.values)
    )
    assert cells["three seeds"][1] is None  # does not play that one


def test_a_shifted_task_shown_alone_keeps_its_shift(board, read, made):
    alone = make_board(read, made, FEW, ["voxel-mask-size"])
    assert [t.name for t in alone.tasks] == ["voxel-mask-size"]
    assert alone.shifts == board.shifts
    assert rows(alone, "voxel-mask-size").keys() == rows(board, "voxel-mask-size").keys()


def test_a_data_curve_joins_the_sizes_of_one_learner(board):
    curve = next(c for c in board.curves if c.task == "voxel-mask")
    assert curve.sizes == (8, 64, 512)
    (ppo,) = curve.curves
    assert ppo.name == "ppo"
    assert ppo.entries == ("ppo-8", "ppo-64", "ppo-512")
    values = [p.value for p in ppo.points]
    assert values == sorted(values)
    assert ppo.points[1] == rows(board)["ppo-64"].score


def test_only_the_suites_own_pools_are_points_of_a_curve(submit, made):
    def size(name, learned, **settings):
        settings = {"kind": "trained", "n_runs": len(learned), **settings}
        folder = submit(name, learned=learned, tasks=["voxel-mask"], **settings)
        return learned_size(read_submissions([folder], made).accepted[0], made)

    def names(first, n):
        return {"cases": [f"head-and-neck-{i:05d}" for i in range(first, first + n)]}

    assert size("a", [names(0, 8)] * 2) == 8
    assert size("b", [names(1, 8)] * 2) is None
    assert size("c", [names(0, 9)] * 2) is None
    assert size("d", [names(0, 8), names(0, 64)]) is None
    assert size("e", [names(0, 8)] * 2, kind="file") is None


def test_the_number_of_training_patients_is_no_part_of_a_base_name():
    assert base_name("ppo-64", 64) == "ppo"
    assert base_name("ppo 8", 8) == "ppo"
    assert base_name("ppo-108", 8) == "ppo-108"
    assert base_name("ppo", 8) == "ppo"
    assert base_name("64", 64) == "64"


def test_figures_of_an_entry_do_not_depend_on_who_else_is_there(submit, made):
    submit("a", 0.3, tasks=["voxel-mask"])
    folder = submit("b", 0.4, tasks=["voxel-mask"])
    alone = rows(make_board(read_submissions([folder], made), made, FEW))["b"]
    both = rows(make_board(read_submissions([folder.parent], made), made, FEW))["b"]
    assert (alone.score, alone.by_budget, alone.reference) == (
        both.score, both.by_budget, both.reference,
    )  # fmt: skip


def test_the_same_submissions_give_the_same_json(board, read, made):
    text = as_json(board)
    assert as_json(make_board(read, made, FEW)) == text
    other = rows(make_board(read, made, replace(FEW, seed=1)))["random"].score
    assert other.value == rows(board)["random"].score.value
    assert other.interval != rows(board)["random"].score.interval
    plain = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert plain["format"] == 1
    row = plain["tasks"][0]["rows"][0]
    assert row["name"] == "ppo-512"
    assert set(row["score"]["interval"]) == {"low", "high", "over"}
    assert len(row["profile"]["share"]) == len(THRESHOLDS)


def test_profiles_run_from_one_to_zero_over_all_that_scores_can_be(board):
    share = rows(board)["random"].profile.share
    assert share[0] == 1.0
    assert share[-1] == 0.0
    assert np.all(np.diff(share) <= 0)


def test_headroom_is_told_at_home_alone(read, made):
    known = {"random": -0.1, "best_heuristic": 0.5, "heuristic": "a", "privileged": 0.6, "bound": 1}
    headroom = {"ptenv/VoxelMask-mini-v0": known, "ptenv/EnergyLayer-mini-v0": {"random": 0.1}}
    suite = replace(made, notes={**made.notes, "headroom": headroom})
    found = {t.name: t.headroom for t in make_board(read, suite, FEW).tasks}
    assert found["voxel-mask"] == known
    assert found["voxel-mask-size"] is None
    assert found["energy-layer"] is None


def test_a_ranking_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="by='wall_s'"):
        Ranking(by="wall_s")
    with pytest.raises(ValueError, match="n_bootstrap=10"):
        Ranking(n_bootstrap=10)


def test_episodes_of_a_record_are_told_apart(read):
    episodes = [Episode.of(r) for r in read.accepted[0].records]
    assert len(set(episodes)) == len(episodes)
