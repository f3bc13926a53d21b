"""What a board takes, what it refuses, and why."""

import gzip
import json
from dataclasses import replace

import pytest

from ptenv.benchmark.board_submissions import Submission, read_submissions
from ptenv.benchmark.entry import read_entry
from ptenv.benchmark.records import RECORDS, Episode


def reasons(folder, suite, **settings) -> str:
    read = read_submissions([folder], suite, **settings)
    assert read.accepted == ()
    return "; ".join(read.refused[0].reasons)


def only(folder, suite, **settings) -> Submission:
    read = read_submissions([folder], suite, **settings)
    assert read.refused == ()
    return read.accepted[0]


def test_a_validated_submission_is_taken_with_its_reference_scores(submit, made):
    found = only(submit("a", 0.3, tasks=["voxel-mask"]), made)
    assert (found.validated, found.note) == ("yes", "")
    assert len(found.records) == len(found.reference) == 11 * 5
    first = found.records[0]
    assert found.reference[Episode.of(first)] == first["result"]["score"] - 0.02


def test_folders_of_folders_are_read_and_nothing_twice(submit, made):
    first, second = submit("a", tasks=["voxel-mask"]), submit("b", tasks=["voxel-mask"])
    read = read_submissions([first.parent, first, second], made)
    assert [s.entry.name for s in read.accepted] == ["a", "b"]


def test_records_may_be_packed_after_validation(submit, made):
    folder = submit("a", tasks=["voxel-mask"])
    plain = (folder / RECORDS).read_bytes()
    (folder / f"{RECORDS}.gz").write_bytes(gzip.compress(plain))
    (folder / RECORDS).unlink()
    assert only(folder, made).validated == "yes"
    (folder / f"{RECORDS}.gz").write_bytes(gzip.compress(plain.replace(b"0.25", b"0.24")))
    assert "changed after validation" in reasons(folder, made)


def test_records_that_changed_after_validation_are_refused(submit, made):
    folder = submit("a", tasks=["voxel-mask"])
    lines = (folder / RECORDS).read_text().splitlines(keepends=True)
    record = json.loads(lines[0])
    record["result"]["score"] = 1.0
    (folder / RECORDS).write_text("".join([json.dumps(record) + "\n", *lines[1:]]))
    assert "changed after validation" in reasons(folder, made)


def test_what_validation_refused_is_refused_with_its_reasons(submit, made):
    refused = {"holds": False, "refused": ["score is 0.9, replay gives 0.1"]}
    folder = submit("a", tasks=["voxel-mask"], validation=refused)
    assert reasons(folder, made) == "score is 0.9, replay gives 0.1"


@pytest.mark.parametrize("holds", [1, "true", None])
def test_only_true_is_true(submit, made, holds):
    folder = submit("a", tasks=["voxel-mask"], validation={"holds": holds})
    assert reasons(folder, made)


def test_what_nobody_replayed_is_refused_unless_it_is_asked_for(submit, made):
    folder = submit("a", tasks=["voxel-mask"], validated=False)
    assert "not validated" in reasons(folder, made)
    assert only(folder, made, unvalidated=True).validated == "no"


def test_a_tampered_submission_stays_refused_when_unvalidated_ones_are_asked_for(submit, made):
    folder = submit("a", tasks=["voxel-mask"], validation={"records_sha256": "0" * 64})
    assert "changed after" in reasons(folder, made, unvalidated=True)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "[" * 100_000, '{"holds": true}',
     '{"holds": true, "complete": true, "n_replayed": "x"}'],
)
def test_a_validation_that_cannot_be_read_is_none(submit, made, content):
    folder = submit("a", tasks=["voxel-mask"])
    (folder / "validation.json").write_text(content)
    assert "validate it again" in reasons(folder, made)


@pytest.mark.parametrize("score", ["high", True, 1e999, [1]])
def test_reference_scores_that_are_no_numbers_are_refused(submit, made, score):
    row = {"episode": ["voxel-mask", "head-and-neck-20000", 0.2, 0], "reference": score,
           "reference_why_not": None, "figures": None}  # fmt: skip
    folder = submit("a", tasks=["voxel-mask"], validation={"episodes": [row]})
    assert "validate it again" in reasons(folder, made)


@pytest.mark.parametrize("wrong", [{"score": "high"}, {"Q": float("inf")}, {"cost": None}])
def test_replayed_figures_that_are_no_numbers_are_refused(submit, made, wrong):
    figures = dict.fromkeys(("score", "raw_score", "Q", "objective", "cost"), 0.1) | wrong
    row = {"episode": ["voxel-mask", "head-and-neck-20000", 0.2, 0], "reference": None,
           "reference_why_not": None, "figures": figures}  # fmt: skip
    folder = submit("a", tasks=["voxel-mask"], validation={"episodes": [row]})
    assert "validate it again" in reasons(folder, made)


def test_a_part_that_was_replayed_is_told(submit, made):
    part = {"complete": False, "n_replayed": 11}
    found = only(submit("a", tasks=["voxel-mask"], validation=part), made)
    assert (found.validated, found.note) == ("partly", "11 of 55 episodes were replayed")
    lied = only(submit("b", tasks=["voxel-mask"], validation={"n_replayed": 11}), made)
    assert lied.validated == "partly"


def test_another_freezing_is_refused(submit, made):
    other = replace(made, digest="e" * 64)
    assert "digest differs" in reasons(submit("a", tasks=["voxel-mask"]), other)
    folder = submit("b", tasks=["voxel-mask"], validation={"suite_digest": "e" * 64})
    assert "another freezing" in reasons(folder, made)


def test_missing_episodes_and_judged_training_patients_are_seen_without_replay(submit, made):
    learned = [{"cases": ["head-and-neck-20000"]}] * 5
    folder = submit("a", tasks=["voxel-mask"], kind="trained", learned=learned)
    assert "may not be trained on" in reasons(folder, made)
    assert "missing" in reasons(submit("b", tasks=["voxel-mask"], entry={"n_runs": 6}), made)


@pytest.mark.parametrize(
    "entry, said",
    [
        ({"name": "../../x"}, "must not hold"),
        ({"name": "a\u001b[2J"}, "printable"),
        ({"name": 3}, "printable"),
        ({"kind": "human"}, "kind"),
        ({"n_runs": 10**9}, "n_runs"),
        ({"n_runs": True}, "n_runs"),
        ({"n_runs": 0}, "n_runs"),
        ({"learned": ["all"]}, "learned"),
        ({"learned": 5}, "cannot be read"),
        ({"learned": [{"cases": 5}]}, "list cases"),
        ({"learned": [{"cases": [["a"]]}]}, "list cases"),
        ({"tasks": 3}, "cannot be read"),
        ({"tasks": [["a"]]}, "text"),
        ({"described": None}, "text"),
        ({"kind": "trained"}, "learned from"),
        ({"kind": "trained", "learned": [{"cases": ["head-and-neck-00000"]}]}, "learned from"),
        ({"tasks": ["chess"]}, "chess"),
        ({"split": "validation"}, "split validation"),
    ],
)
def test_an_entry_that_says_nonsense_is_refused(submit, made, entry, said):
    assert said in reasons(submit("a", tasks=["voxel-mask"], entry=entry), made)


def test_a_line_that_is_no_record_is_refused(submit, made):
    folder = submit("a", tasks=["voxel-mask"])
    with (folder / RECORDS).open("a") as file:
        file.write("{}\n")
    assert "is no record" in reasons(folder, made)
    (folder / RECORDS).unlink()
    assert "no records.jsonl" in reasons(folder, made)


def test_an_entry_that_cannot_be_read_is_refused_by_its_folder(submit, made):
    folder = submit("a", tasks=["voxel-mask"])
    (folder / "entry.json").write_text("no JSON")
    read = read_submissions([folder.parent], made)
    assert (read.refused[0].name, read.accepted) == ("a", ())


def test_reasons_of_strangers_can_be_printed_and_written(submit, made):
    said = {"holds": False, "refused": ["red \x1b[31m \ud800"]}
    folder = submit("a", tasks=["voxel-mask"], validation=said)
    assert reasons(folder, made) == "red �[31m �"


def test_two_entries_of_one_name_are_an_error(submit, made):
    submit("a", tasks=["voxel-mask"])
    other = submit("b", tasks=["voxel-mask"], name="a")
    with pytest.raises(ValueError, match="both named 'a'"):
        read_submissions([other.parent], made)


def test_a_submission_to_another_suite_is_an_error(submit, made):
    folder = submit("a", tasks=["voxel-mask"], entry={"suite": "mini"})
    with pytest.raises(ValueError, match="of suite 'mini', the board is of 'made'"):
        read_submissions([folder], made)


def test_no_submissions_are_an_error(tmp_path, made):
    with pytest.raises(ValueError, match="names none"):
        read_submissions([], made)
    with pytest.raises(ValueError, match="holds no submission"):
        read_submissions([tmp_path], made)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        read_submissions([tmp_path / "nowhere"], made)


def test_seeds_are_counted_where_runs_are_seeds(submit, made):
    cases = [{"cases": ["head-and-neck-00000"]}]
    entry = read_entry(submit("a", tasks=["voxel-mask"]))

    def seeds(kind, n_runs, learned):
        of = replace(entry, kind=kind, n_runs=n_runs, learned=learned)
        found = Submission(None, of, [], "yes", "", "", {})
        return found.n_seeds, found.runs_are_seeds

    assert seeds("rule", 5, None) == (None, False)
    assert seeds("trained", 3, cases * 3) == (3, True)
    assert seeds("file", 5, cases * 5) == (5, True)
    assert seeds("file", 5, cases) == (1, False)  # one network, sampled five times
    assert seeds("rule", 5, cases * 5) == (1, False)  # a network that ships
