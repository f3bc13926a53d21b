import json

import pytest

from ptenv.benchmark.season import (
    SEALED_SEEDS,
    commitment_of,
    read_season,
    seal,
    season_toml,
    write_season,
)
from ptenv.benchmark.suite import load_suite
from ptenv.benchmark.validation import claims

BASE = {
    "n_runs": 5, "seed": 8, "train": {"head-and-neck-": (0, 9999)},
    "tasks": [{"name": "voxel-mask", "env_id": "ptenv/VoxelMask-mini-v0", "budgets": [0.1],
               "settings": {"recipe": {"dose_grid_mm": 6, "spot_pattern": "square"}}}],
}  # fmt: skip


def test_what_is_published_does_not_tell_the_patients():
    season, secret = seal("2027", "mini", "head-and-neck", 3)
    with pytest.raises(ValueError, match="sealed"):
        season.cases()
    assert secret not in json.dumps(season.__dict__, default=str)


def test_the_patients_follow_from_the_secret_and_lie_beyond_every_public_split():
    season, secret = seal("2027", "mini", "nasopharynx", 20)
    cases = season.revealed(secret).cases()
    assert cases == season.revealed(secret).cases()
    assert len(set(cases)) == 20
    numbers = [int(c.removeprefix("nasopharynx-")) for c in cases]
    assert all(SEALED_SEEDS[0] <= n < SEALED_SEEDS[1] for n in numbers)
    other, other_secret = seal("2027", "mini", "nasopharynx", 20)
    assert set(other.revealed(other_secret).cases()).isdisjoint(cases)


def test_another_secret_is_refused():
    season, secret = seal("2027", "mini", "head-and-neck", 3)
    wrong = ("0" if secret[0] != "0" else "1") + secret[1:]
    with pytest.raises(ValueError, match="not the one"):
        season.revealed(wrong)
    with pytest.raises(ValueError, match="hexadecimal"):
        season.revealed("guess")


def test_the_same_secret_seals_no_other_season():
    season, secret = seal("2027", "mini", "head-and-neck", 3)
    assert season.commitment == commitment_of("2027", secret, "mini", "head-and-neck", 3)
    for other in (
        ("2028", secret, "mini", "head-and-neck", 3), ("2027", secret, "mini", "nasopharynx", 3),
        ("2027", secret, "mini", "head-and-neck", 4), ("2027", secret, "x", "head-and-neck", 3),
    ):
        assert commitment_of(*other) != season.commitment


def test_agents_are_pledged_once_and_before_the_reveal():
    season, secret = seal("2027", "mini", "head-and-neck", 3)
    pledged = season.pledged("mine", "a" * 64)
    with pytest.raises(ValueError, match="very agent"):
        pledged.pledged("mine again", "a" * 64)
    with pytest.raises(ValueError, match="another name"):
        pledged.pledged("mine", "b" * 64)
    with pytest.raises(ValueError, match="revealed"):
        pledged.revealed(secret).pledged("late", "b" * 64)


def test_a_season_comes_back_from_its_file(tmp_path):
    season, _ = seal("2027", "mini", "head-and-neck", 3)
    season = season.pledged("mine", "a" * 64)
    write_season(season, tmp_path / "s.json")
    assert read_season(tmp_path / "s.json") == season
    (tmp_path / "s.json").write_text("{}")
    with pytest.raises(ValueError, match="no season"):
        read_season(tmp_path / "s.json")


def revealed_suite(tmp_path):
    season, secret = seal("2027", "mini", "head-and-neck", 3)
    season = season.pledged("mine", "a" * 64).revealed(secret)
    path = tmp_path / "season.toml"
    path.write_text(season_toml(season, BASE))
    return path, season


def test_a_revealed_season_is_a_suite_of_its_patients(tmp_path):
    path, season = revealed_suite(tmp_path)
    suite = load_suite(path, frozen=False)
    assert list(suite.tasks[0].cases["test"]) == season.cases()
    assert suite.tasks[0].settings == {"recipe": {"dose_grid_mm": 6, "spot_pattern": "square"}}
    assert suite.pledged == (("mine", "a" * 64),)


def test_patients_that_do_not_follow_from_the_secret_are_refused(tmp_path):
    path, season = revealed_suite(tmp_path)
    text = path.read_text()
    path.write_text(text.replace(season.cases()[0], "head-and-neck-20000"))
    with pytest.raises(ValueError, match="do not follow"):
        load_suite(path, frozen=False)
    path.write_text(text.replace(f'"{season.cases()[0]}", ', ""))
    with pytest.raises(ValueError, match="do not follow"):
        load_suite(path, frozen=False)


def test_an_agent_that_was_not_pledged_is_refused(tmp_path):
    from ptenv.benchmark.entry import Entry

    path, _ = revealed_suite(tmp_path)
    suite = load_suite(path, frozen=False)
    entry = Entry("late", suite.name, 0, suite.digest, "test", (), 5, "rule", "x", "b" * 64, None)
    assert any("hash was pledged" in reason for reason in claims(entry, [], suite))
    mine = Entry("mine", suite.name, 0, suite.digest, "test", (), 5, "rule", "x", "a" * 64, None)
    assert claims(mine, [], suite) == []


@pytest.mark.parametrize("wrong", [{"site": "prostate"}, {"n_patients": 0}])
def test_a_season_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        seal("2027", "mini", **{"site": "head-and-neck", "n_patients": 3, **wrong})
