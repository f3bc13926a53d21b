from types import SimpleNamespace

import pytest

from ptenv.rewards import ScoreReward

BEFORE = SimpleNamespace(score=-1.0, raw_score=-3.0)
AFTER = SimpleNamespace(score=0.5, raw_score=0.5)


def test_the_score_reward_is_the_increment_of_the_clipped_score():
    terms = ScoreReward("score").terms(BEFORE, AFTER)
    assert terms == {"score": 1.5}
    assert ScoreReward.weigh(terms) == 1.5


def test_the_potential_reward_tells_bad_plans_apart():
    assert ScoreReward("potential").terms(BEFORE, AFTER) == {"potential": 3.5}


def test_nothing_done_earns_nothing():
    for kind in ("score", "potential"):
        assert ScoreReward.weigh(ScoreReward(kind).terms(AFTER, AFTER)) == 0.0


def test_unknown_rewards_are_refused():
    with pytest.raises(ValueError, match="reward='dose' is unknown; choose 'score'"):
        ScoreReward("dose")
