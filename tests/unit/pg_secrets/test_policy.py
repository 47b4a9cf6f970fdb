from __future__ import annotations

import pytest

from pg_secrets import policy


@pytest.mark.parametrize(
    ("granted", "margin"), [(30, 10), (90, 30), (200, 60), (300, 60), (3600, 720), (86400, 17280)]
)
def test_rotation_margin(granted: float, margin: float) -> None:
    """The margin is the smaller of a third and the larger of 60 s and a fifth."""
    assert policy.rotation_margin(granted) == pytest.approx(margin)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("granted", [1.0, 30.0, 180.0, 3600.0])
def test_points_lie_within_the_life(granted: float, jitter: float) -> None:
    """Nothing is born in its rotation window, and everything is replaced before its end."""
    assert granted * 0.6 < policy.rotation_point(granted, jitter) < granted
    assert 0.67 * granted <= policy.renewal_point(granted, jitter) <= 0.77 * granted
    assert 0.9 * granted <= policy.static_lifetime(granted, jitter) <= granted


def test_backoff_doubles_to_a_cap() -> None:
    """The longest pause doubles from 1 s and stays at 60 s for ever."""
    longest = [policy.backoff(n, 1.0) for n in (1, 2, 3, 6, 7, 8, 5000)]
    assert longest == [1, 2, 4, 32, 60, 60, 60]
    assert policy.backoff(8, 0.0) == 0.0


def test_rejection_interval() -> None:
    """0.5 s doubles to 5 s within the first 30 s, then it is a minute."""
    assert [policy.rejection_interval(n, 1.0) for n in (1, 2, 3, 4, 5, 50)] == [0.5, 1, 2, 4, 5, 5]
    assert policy.rejection_interval(1, 30.0) == 60.0
