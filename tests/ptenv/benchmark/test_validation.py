"""A submission that holds, and one tampered record of every kind, refused."""

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.baselines.dose_shaping import heaviest_goal
from agents.baselines.voxel_mask import RandomActions
from ptenv.benchmark import agreement
from ptenv.benchmark.agreement import Tolerance
from ptenv.benchmark.board_submissions import read_submissions
from ptenv.benchmark.entry import Entry
from ptenv.benchmark.families import FAMILIES, beyond_energies, undeliverable
from ptenv.benchmark.packing import packed, unpacked
from ptenv.benchmark.platforms import is_like_here
from ptenv.benchmark.records import RECORDS, Episode, digest_of_records, mend, read_records
from ptenv.benchmark.replay import replay
from ptenv.benchmark.run import run_suite
from ptenv.benchmark.suite import Data, load_suite
from ptenv.benchmark.validation import FIGURES, VALIDATION, claims, validate, write_verdict
from ptenv.processes import worker_pool


class Rules:
    """Two rules of this process as an agent's source."""

    kind, described = "rule", "random"

    def __init__(self, learned=None):
        self._learned = learned

    def agent(self, task, run):
        return RandomActions() if task.name == "voxel-mask" else heaviest_goal(0.3, 2)

    def plays(self, task):
        return True

    def learned(self):
        return self._learned

    def digest(self):
        return "0" * 64


@pytest.fixture(scope="session")
def suite(tiny_suite_file):
    return load_suite(tiny_suite_file)


@pytest.fixture(scope="session")
def submission(suite, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("submissions") / "random"
    entry = Entry.of("random", suite, "test", suite.tasks, 2, Rules())
    run_suite(suite, entry, Rules(), folder, Data())
    return folder


@pytest.fixture
def tampered(submission, tmp_path):
    """A copy of the submission whose records a function changes."""

    def change(edit, entry=None) -> Path:
        folder = tmp_path / "copy"
        shutil.copytree(submission, folder)
        records = [json.loads(line) for line in (folder / RECORDS).read_text().splitlines()]
        changed = edit(records)
        records = records if changed is None else changed
        (folder / RECORDS).write_text("".join(json.dumps(r) + "\n" for r in records))
        if entry:
            plain = json.loads((folder / "entry.json").read_text())
            (folder / "entry.json").write_text(json.dumps({**plain, **entry}))
        return folder

    return change


def refused(folder, suite) -> str:
    verdict = validate(folder, suite, Data(), reference=False)
    assert not verdict.holds
    return "; ".join(verdict.refused)


def test_an_honest_submission_holds_exactly(submission, suite):
    verdict = validate(submission, suite, Data(), reference=False)
    assert verdict.refused == ()
    assert verdict.n_replayed == verdict.n_exact == 10
    assert verdict.largest_difference == 0.0


def test_two_processes_find_the_same(submission, suite):
    with worker_pool(2) as pool:
        verdict = validate(submission, suite, Data(), pool=pool, reference=False)
    assert verdict.holds
    assert [j.episode for j in verdict.episodes] == sorted(j.episode for j in verdict.episodes)


def test_edited_rewards_are_refused(tampered, suite):
    def edit(records):
        records[3]["rewards"][0] += 1e-9

    assert "reward of step 0" in refused(tampered(edit), suite)


def test_an_edited_score_is_refused(tampered, suite):
    def edit(records):
        records[0]["result"]["score"] = 0.9

    assert "between the suite's anchors" in refused(tampered(edit), suite)


def test_an_edited_objective_with_the_score_that_follows_is_refused(tampered, suite):
    def edit(records):
        _rescored(records[0], suite, 0.9)

    assert "objective is" in refused(tampered(edit), suite)


def test_edited_metrics_are_refused(tampered, suite):
    def edit(records):
        of = next(iter(records[0]["result"]["metrics"].values()))
        of[next(iter(of))] += 0.5

    assert "metrics differs" in refused(tampered(edit), suite)


def test_edited_actions_are_refused(tampered, suite):
    def edit(records):
        actions = unpacked(records[0]["actions"])
        records[0]["actions"] = packed(list(-actions))

    said = refused(tampered(edit), suite)
    assert "replay gives" in said or "the episode" in said


def test_actions_beyond_the_end_are_refused(tampered, suite):
    def edit(records):
        record = next(r for r in records if r["task"] == "voxel-mask")
        actions = unpacked(record["actions"])
        record["actions"] = packed([*actions, *actions, *actions, *actions, *actions, *actions,
                                    *actions, *actions, *actions])  # fmt: skip

    assert "ends after" in refused(tampered(edit), suite)


def test_missing_episodes_are_refused(tampered, suite):
    said = refused(tampered(lambda records: records[:-1]), suite)
    assert "1 episodes are missing" in said


def test_an_episode_that_is_there_twice_is_refused(tampered, suite):
    assert "twice" in refused(tampered(lambda records: [*records, records[0]]), suite)


def test_an_episode_of_another_suite_is_refused(tampered, suite):
    def edit(records):
        records[0]["episode"]["run"] = 7

    said = refused(tampered(edit), suite)
    assert "not of the suite" in said
    assert "seed" in said


def test_another_seed_is_refused(tampered, suite):
    def edit(records):
        records[0]["episode"]["seed"] += 1

    assert "is not the suite's" in refused(tampered(edit), suite)


@pytest.mark.parametrize("field, value", [("key", "0" * 24), ("sha256", "0" * 64)])
def test_a_wrong_case_hash_is_refused(tampered, suite, field, value):
    def edit(records):
        records[0]["case"][field] = value

    assert "case" in refused(tampered(edit), suite)


@pytest.mark.parametrize(
    "name, value",
    [("recipe", {"dose_grid_mm": 9.0}), ("budget", 0.2), ("case", "head-and-neck-00000"),
     ("oneshot", True), ("split", None)],
)  # fmt: skip
def test_an_easier_environment_is_refused(tampered, suite, name, value):
    def edit(records):
        first = next(r for r in records if r["episode"]["budget"] == 0.1)
        first["env"]["spec"]["kwargs"][name] = value

    assert f"argument {name}" in refused(tampered(edit), suite)


def test_an_environment_of_other_code_is_refused_unopened(tampered, suite):
    def edit(records):
        records[0]["env"]["spec"]["entry_point"] = "os:system"

    assert "entry_point" in refused(tampered(edit), suite)


def test_another_id_is_refused(tampered, suite):
    def edit(records):
        records[0]["env"]["id"] = "ptenv/VoxelMask-v0"

    assert "environment" in refused(tampered(edit), suite)


@pytest.mark.parametrize("case", ["head-and-neck-20000", "head-and-neck-10000", "openkbp:pt_241"])
def test_an_agent_that_was_trained_on_judged_cases_is_refused(tampered, suite, case):
    learned = [{"cases": ["head-and-neck-00000"]}, {"cases": ["head-and-neck-00001", case]}]
    folder = tampered(lambda records: None, {"learned": learned})
    assert f"such as {case}" in refused(folder, suite)


def test_an_agent_that_learned_from_it_does_not_say_what_is_refused(tampered, suite):
    folder = tampered(lambda records: None, {"learned": [{"seed": 0}]})
    assert "does not say on which cases" in refused(folder, suite)


def test_an_agent_that_learned_from_training_cases_holds(tampered, suite):
    learned = [{"cases": ["head-and-neck-00000"]}]
    folder = tampered(lambda records: None, {"learned": learned})
    assert validate(folder, suite, Data(), reference=False).holds


def test_records_of_another_agent_are_refused(tampered, suite):
    def edit(records):
        records[0]["agent"]["sha256"] = "1" * 64

    assert "another agent" in refused(tampered(edit), suite)


def test_a_submission_to_another_version_is_refused(submission, suite):
    newer = replace(suite, version=1)
    assert "version 0" in refused(submission, newer)


def test_a_line_that_is_no_record_is_refused(tampered, suite):
    def edit(records):
        del records[2]["rewards"]

    assert "line 3 is no record" in refused(tampered(edit), suite)


def test_plans_that_break_machine_limits_are_refused(submission, suite, monkeypatch):
    """As an environment would give them whose planner has lost its bounds."""
    family = FAMILIES["VoxelMask"]
    monkeypatch.setattr(type(family), "weights", staticmethod(lambda s: -np.asarray(s.weights)))
    said = refused(submission, suite)
    assert "spot weights are negative" in said


def test_limits_of_the_machine_name_what_is_broken():
    assert undeliverable(np.array([2e6, 0.0, 5e7]), "generic_proton") == []
    assert "negative" in undeliverable(np.array([2e6, -1.0]), "generic_proton")[0]
    assert "no numbers" in undeliverable(np.array([2e6, np.nan]), "generic_proton")[0]
    assert "below the 1e+06" in undeliverable(np.full(9, 4e5), "generic_proton")[0]
    assert beyond_energies(np.array([0, 3]), "generic_proton") == []
    assert "lacks" in beyond_energies(np.array([0, 4000]), "generic_proton")[0]
    assert "lacks" in beyond_energies(np.array([260.0]), "generic_proton", are_energies=True)[0]


def test_elsewhere_a_single_episode_may_differ_by_what_rounding_can_do(submission, suite):
    record = read_records(submission)[0]
    record["platform"]["cpu"] = "another"
    assert not is_like_here(record)
    near = json.loads(json.dumps(record))
    near["result"]["score"] += 0.1
    near["rewards"][0] += 0.2
    again = replay(near, suite, Data(), Tolerance())
    assert again.differences == ()
    assert again.apart.score == pytest.approx(0.1)
    assert again.apart.reward == pytest.approx(0.2)
    assert replay(near, suite, Data(), Tolerance(single=0.05)).differences
    far = json.loads(json.dumps(record))
    far["rewards"][0] += 2.0
    assert "reward of step 0" in replay(far, suite, Data(), Tolerance()).differences[0]


def test_elsewhere_most_episodes_of_a_task_must_agree(tampered, suite, monkeypatch):
    def edit(records):
        for record in records:
            record["platform"]["cpu"] = "another"
            record["rewards"][0] += 0.2

    folder = tampered(edit)
    assert validate(folder, suite, Data(), reference=False).holds  # few episodes tell nothing
    monkeypatch.setattr(agreement, "FEWEST", 2)
    monkeypatch.setattr(agreement, "ENOUGH", 2)
    assert "episodes differ by more than 0.1 in reward" in refused(folder, suite)


def test_elsewhere_episodes_that_part_are_compared_by_their_mean(tampered, suite):
    def edit(shift):
        def change(records):
            for record in records:
                record["platform"]["cpu"] = "another"
                if record["task"] == "dose-shaping":
                    record["result"]["plan_sha256"] = "0" * 64
            shaped = [r for r in records if r["task"] == "dose-shaping"]
            for record, sign in zip(shaped, (1, shift), strict=True):
                _rescored(record, suite, 1.0 + 0.02 * sign)
        return change

    assert validate(tampered(edit(-1)), suite, Data(), reference=False).holds


def test_elsewhere_a_mean_that_is_too_good_is_refused(tampered, suite, monkeypatch):
    def edit(records):
        for record in records:
            record["platform"]["cpu"] = "another"
            if record["task"] == "dose-shaping":
                _rescored(record, suite, 0.7)

    monkeypatch.setattr(agreement, "FEWEST", 2)
    monkeypatch.setattr(agreement, "ENOUGH", 2)
    assert "the mean score is" in refused(tampered(edit), suite)


def _rescored(record, suite, factor):
    """Another objective, with the score that follows from it."""
    case, budget = record["episode"]["case"], record["episode"]["budget"]
    record["result"]["objective"] *= factor
    record["result"]["score"] = suite.task(record["task"]).score(case, budget, record["result"])


def test_a_record_of_another_processor_is_not_refused_for_its_case_or_its_score(tampered, suite):
    """Its score is between the suite's anchors, and its case was rounded otherwise."""

    def edit(records):
        for record in records:
            record["platform"]["cpu"] = "another"
            record["case"]["sha256"] = "1" * 64

    assert validate(tampered(edit), suite, Data(), reference=False).holds


def test_scores_come_from_the_suites_anchors_not_from_the_case_that_was_built(suite, submission):
    record = read_records(submission)[0]
    task = suite.task(record["task"])
    case, budget = record["episode"]["case"], record["episode"]["budget"]
    assert record["result"]["score"] == task.score(case, budget, record["result"])


def test_elsewhere_the_board_shows_what_was_replayed_not_what_was_claimed(
    tampered, suite, submission
):
    def edit(records):
        for record in records:
            record["platform"]["cpu"] = "another"
            if record["task"] == "dose-shaping":
                record["result"]["Q"] = 99.0

    folder = tampered(edit)
    verdict = validate(folder, suite, Data(), reference=False)
    assert verdict.holds  # of episodes that part only the mean score is compared
    write_verdict(verdict, folder, suite, True)
    (found,) = read_submissions([folder], suite).accepted
    honest = {Episode.of(r): r["result"] for r in read_records(submission)}
    for record in found.records:
        for name in FIGURES:
            assert record["result"][name] == honest[Episode.of(record)][name]


def test_a_validation_without_the_reference_keeps_what_one_with_it_found(tampered, suite):
    folder = tampered(lambda records: None)
    verdict = validate(folder, suite, Data(), reference=False)
    first, *rest = verdict.episodes
    judged = replace(first, reference=0.7, reference_settings={"engine": "yoda"})
    write_verdict(replace(verdict, episodes=(judged, *rest)), folder, suite, True)
    write_verdict(verdict, folder, suite, True)
    plain = json.loads((folder / VALIDATION).read_text())
    assert plain["episodes"][0]["reference"] == 0.7
    assert plain["reference_settings"] == {first.episode.task: {"engine": "yoda"}}
    entry = json.loads((folder / "entry.json").read_text())
    (folder / "entry.json").write_text(json.dumps({**entry, "described": "another"}))
    changed = validate(folder, suite, Data(), reference=False)
    write_verdict(changed, folder, suite, True)
    plain = json.loads((folder / VALIDATION).read_text())
    assert plain["episodes"][0]["reference"] is None


def test_a_cut_gzip_is_refused(submission, suite, tmp_path):
    folder = tmp_path / "cut"
    shutil.copytree(submission, folder)
    packed_file = gzip.compress((folder / RECORDS).read_bytes())
    (folder / RECORDS).unlink()
    (folder / f"{RECORDS}.gz").write_bytes(packed_file[:-100])
    verdict = validate(folder, suite, Data(), reference=False)
    assert "cannot be read" in verdict.refused[0]
    assert write_verdict(verdict, folder, suite, True).exists()


def test_what_cannot_even_be_replayed_is_a_fault_not_a_crash(tampered, suite):
    def edit(records):
        records[0]["env"]["spec"]["kwargs"]["volume_size"] = [20_000, 20_000, 20_000]
        records[0]["env"]["spec"]["kwargs"]["observation"] = "volume"
        records[1]["episode"]["budget"] = 0.07
        records[2]["task"] = "chess"

    said = refused(tampered(edit), suite)
    assert "not of the suite" in said


def test_engine_calls_are_counted_again(tampered, suite):
    def edit(records):
        records[0]["spent"]["engine_calls"] = 0.0

    assert "engine calls" in refused(tampered(edit), suite)


def test_a_part_holds_episodes_of_every_task(submission, suite):
    verdict = validate(submission, suite, Data(), reference=False, part=0.01)
    assert {j.episode.task for j in verdict.episodes} == {"voxel-mask", "dose-shaping"}
    assert verdict.n_replayed == 2


def test_a_killed_run_loses_no_more_than_half_a_line(submission, suite, tmp_path):
    folder = tmp_path / "killed"
    shutil.copytree(submission, folder)
    whole = (folder / RECORDS).read_text()
    lines = whole.splitlines(keepends=True)
    (folder / RECORDS).write_text("".join(lines[:4]) + lines[4][:100])
    entry = Entry.of("random", suite, "test", suite.tasks, 2, Rules())
    outcome = run_suite(suite, entry, Rules(), folder, Data())
    assert outcome.cut_short
    assert (outcome.before, outcome.played) == (4, 6)
    again = {Episode.of(r): r["result"] for r in read_records(folder)}
    assert again == {Episode.of(r): r["result"] for r in read_records(submission)}
    assert not mend(folder / RECORDS)


def test_another_agent_cannot_go_on_in_a_folder(submission, suite, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(submission, folder)
    entry = replace(
        Entry.of("random", suite, "test", suite.tasks, 2, Rules()), agent_sha256="f" * 64
    )
    with pytest.raises(ValueError, match="agent_sha256 differ"):
        run_suite(suite, entry, Rules(), folder, Data())


def test_gzipped_records_are_read_alike(submission, tmp_path):
    (tmp_path / f"{RECORDS}.gz").write_bytes(gzip.compress((submission / RECORDS).read_bytes()))
    assert read_records(tmp_path) == read_records(submission)
    assert digest_of_records(tmp_path) == digest_of_records(submission)


def test_claims_alone_are_checked_without_playing(submission, suite):
    from ptenv.benchmark.entry import read_entry

    assert claims(read_entry(submission), read_records(submission), suite) == []
