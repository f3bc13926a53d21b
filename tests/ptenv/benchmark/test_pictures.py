"""Pictures of plans from replays; what claims to be another environment is never opened."""

import json
import shutil

import pytest

from agents.baselines.voxel_mask import RandomActions
from ptenv.benchmark.board_submissions import read_submissions
from ptenv.benchmark.entry import Entry
from ptenv.benchmark.pictures import draw_entry, median_record
from ptenv.benchmark.records import RECORDS, Episode
from ptenv.benchmark.run import run_suite
from ptenv.benchmark.suite import Data, load_suite

pytest.importorskip("matplotlib", reason="pictures need matplotlib")


class Source:
    kind, described = "rule", "random"

    def agent(self, task, run):
        return RandomActions()

    def plays(self, task):
        return task.name == "voxel-mask"

    def learned(self):
        return None

    def digest(self):
        return "0" * 64


@pytest.fixture(scope="module")
def suite(tiny_suite_file):
    return load_suite(tiny_suite_file)


@pytest.fixture(scope="module")
def played(suite, tmp_path_factory):
    """The folder of an entry of one task; its name would be a broken formula."""
    folder = tmp_path_factory.mktemp("played") / "random"
    entry = Entry.of("a $f_{$ b", suite, "test", [suite.task("voxel-mask")], 1, Source())
    run_suite(suite, entry, Source(), folder, Data())
    return folder


@pytest.fixture
def submission(played, suite, tmp_path):
    """The submission after its records were changed."""

    def changed(edit=lambda record: None):
        folder = tmp_path / "copy"
        shutil.copytree(played, folder)
        records = [json.loads(line) for line in (folder / RECORDS).read_text().splitlines()]
        for record in records:
            edit(record)
        (folder / RECORDS).write_text("".join(json.dumps(r) + "\n" for r in records))
        return read_submissions([folder], suite, unvalidated=True).accepted[0]

    return changed


def test_a_plan_is_drawn_once(submission, suite, tmp_path):
    of = submission()
    first = draw_entry(of, suite, Data(), tmp_path / "pages", "random")["voxel-mask"]
    path = tmp_path / "pages" / first.file
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 20_000
    before = path.stat().st_mtime_ns
    assert draw_entry(of, suite, Data(), tmp_path / "pages", "random")["voxel-mask"] == first
    assert path.stat().st_mtime_ns == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_median_episode_of_the_middle_budget_is_drawn(submission, suite):
    of = submission()
    found = median_record(of, suite.task("voxel-mask"))
    scores = sorted(r["result"]["score"] for r in of.records if r["episode"]["budget"] == 0.1)
    assert Episode.of(found).budget == 0.1
    assert found["result"]["score"] == scores[(len(scores) - 1) // 2]


def test_an_environment_of_other_code_is_not_opened(submission, suite, tmp_path):
    def edit(record):
        record["env"]["spec"]["entry_point"] = f"os:mkdir('{tmp_path}/opened')"

    found = draw_entry(submission(edit), suite, Data(), tmp_path, "random")["voxel-mask"]
    assert found.file is None
    assert "entry_point" in found.why_not
    assert not (tmp_path / "opened").exists()


def test_what_does_not_replay_is_not_drawn(submission, suite, tmp_path):
    def edit(record):
        record["rewards"][0] += 0.5

    found = draw_entry(submission(edit), suite, Data(), tmp_path, "random")["voxel-mask"]
    assert found.file is None
    assert "replay differs: reward of step 0" in found.why_not
