"""When to fetch, renew, rotate and try again: numbers and pure functions.

``jitter`` is a number in [0, 1) drawn once per decision, so that processes started together drift
apart and one process does not change its mind each time it looks.
"""

from __future__ import annotations

#: Seconds a static value is used before the store is asked again.
DEFAULT_TTL = 300.0
#: The same where the store has said when the value ends: until then it is good.
DEFAULT_TTL_WITH_END = 3600.0
#: Seconds between two fetches of one source, at least.
FETCH_SPACING = 1.0
#: Seconds between two looks at ``adapter.changed()``.
CHANGE_POLL = 1.0
#: Seconds between two looks at a store that is late with the rotation it announced.
OVERDUE_POLL = 2.0
OVERDUE_PATIENCE = 60.0
#: A renewal that grants less than this share of what was granted before was truncated.
FULL_GRANT = 0.95

_BACKOFF_FIRST = 1.0
_BACKOFF_CAP = 60.0

_REJECTION_FIRST = 0.5
_REJECTION_CAP = 5.0
_REJECTION_EPISODE = 30.0
_REJECTION_LATER = 60.0


def static_lifetime(ttl: float, jitter: float) -> float:
    """Return the age in seconds at which a static value is stale: the TTL less up to 10 %."""
    return ttl * (1.0 - 0.1 * jitter)


def renewal_point(granted: float, jitter: float) -> float:
    """Return the age in seconds at which a lease of ``granted`` seconds is renewed."""
    return granted * (0.67 + 0.1 * jitter)


def rotation_margin(granted: float) -> float:
    """Return how many seconds before its end a value is replaced.

    Never more than a third of what was granted: a 30-second lease must not be born in its own
    rotation window.
    """
    return min(granted / 3.0, max(60.0, granted * 0.2))


def rotation_point(granted: float, jitter: float) -> float:
    """Return the age in seconds at which a value that lives ``granted`` seconds is replaced."""
    return granted - rotation_margin(granted) * (1.0 - 0.1 * jitter)


def backoff(failures: int, jitter: float, left: float = float("inf")) -> float:
    """Return seconds until the next try: 1 s doubled per failure, at most 60, fully jittered.

    ``left`` is for how many seconds what is held may still be used. Half of that is waited at
    most, and so the last try falls into the last second: a store that is back before the end is
    found in time. What has ended already hurries nobody.
    """
    pause = jitter * min(_BACKOFF_CAP, _BACKOFF_FIRST * 2.0 ** min(failures - 1, 10))
    return min(pause, max(FETCH_SPACING, left / 2.0)) if left > 0.0 else pause


def rejection_interval(rejections: int, episode_age: float) -> float:
    """Return seconds until the same value may be looked at, or tried, again.

    0.5 s doubled up to 5 s while the episode is younger than 30 s (the store may lag the
    database), then once a minute (a login that is refused for ever must lock nobody out).
    """
    if episode_age >= _REJECTION_EPISODE:
        return _REJECTION_LATER
    return min(_REJECTION_CAP, _REJECTION_FIRST * 2.0 ** min(rejections - 1, 10))
