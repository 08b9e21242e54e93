"""CatchUp: whether a learner keeps up, found out in rounds (dissertation 4.2.1), of a second at most here."""

from __future__ import annotations

from oarlock.raft.progress import CatchUp

LIMIT = 1.0


def test_a_round_ends_with_what_the_leader_had_when_it_began() -> None:
    rounds = CatchUp(10, 0.0)
    rounds.acknowledged(9, 30, 0.5, LIMIT)
    assert not rounds.done
    rounds.acknowledged(10, 30, 0.9, LIMIT)
    assert rounds.done
    assert (rounds.target, rounds.began) == (30, 0.9)


def test_a_slow_round_does_not_count_and_the_next_one_may() -> None:
    rounds = CatchUp(10, 0.0)
    rounds.acknowledged(10, 30, 5.0, LIMIT)
    assert not rounds.keeps_up(10, 5.0, LIMIT)
    rounds.acknowledged(30, 31, 5.9, LIMIT)
    assert rounds.keeps_up(30, 5.9, LIMIT)


def test_when_nothing_more_is_to_be_sent_the_next_round_would_take_no_time() -> None:
    rounds = CatchUp(10, 0.0)
    rounds.acknowledged(10, 10, 5.0, LIMIT)
    assert rounds.keeps_up(10, 5.0, LIMIT)


def test_who_falls_behind_again_does_not_keep_up_any_more() -> None:
    rounds = CatchUp(10, 0.0)
    rounds.acknowledged(10, 30, 0.5, LIMIT)
    assert rounds.keeps_up(10, 1.4, LIMIT)
    assert not rounds.keeps_up(10, 1.5, LIMIT), "the round under way takes too long"
    assert rounds.keeps_up(30, 9.0, LIMIT), "all that was asked of it is there"
