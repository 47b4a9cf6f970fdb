from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pg_secrets import AdapterMisconfigured
from pg_secrets.options import Options, nearest


def options(**config: Any) -> Options:
    return Options(config, adapter="vault")


def test_values_are_read_by_kind() -> None:
    """Each reader returns its kind, and finish() is content when all keys were asked for."""
    given = options(
        A="x", B="kv", C="5m", D="7", E="off", F={"k": 1}, G="/a/b", H=None, I=2.5, ADAPTER="vault"
    )
    assert given.text("A") == "x"
    assert given.choice("B", ["kv", "database"]) == "kv"
    assert given.seconds("C") == 300.0
    assert given.integer("D") == 7
    assert given.flag("E") is False
    assert given.mapping("F") == {"k": 1}
    assert given.path("G") == Path("/a/b")
    assert given.text("H", None) is None
    assert given.seconds("I") == 2.5
    assert "A" in given
    assert "H" not in given
    given.finish()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("15m", 900), ("1h", 3600), ("250ms", 0.25), (" 2 d ", 172800)],
)
def test_durations_have_units(text: str, seconds: float) -> None:
    """A duration is a number of seconds or has a unit."""
    assert options(TTL=text).seconds("TTL") == seconds


def test_unknown_key_names_the_nearest() -> None:
    """A misspelt key is refused with the one that was meant."""
    given = options(ADRESS="x")
    given.text("ADDRESS", None)
    with pytest.raises(AdapterMisconfigured, match=r"'vault'.*ADRESS \(did you mean ADDRESS\?\)"):
        given.finish()


def test_missing_key_names_what_was_found_instead() -> None:
    """A required key that was misspelt is missing, and the message shows the misspelling."""
    with pytest.raises(AdapterMisconfigured, match=r"ADDRESS.*required.*found ADRESS"):
        options(ADRESS="x").text("ADDRESS")


WRONG: list[tuple[Callable[[Options], object], object]] = [
    (lambda o: o.text("KEY"), 7),
    (lambda o: o.text("KEY"), ""),
    (lambda o: o.seconds("KEY"), "canary-value"),
    (lambda o: o.seconds("KEY"), float("nan")),
    (lambda o: o.seconds("KEY"), True),
    (lambda o: o.seconds("KEY", minimum=1.0), 0.5),
    (lambda o: o.integer("KEY"), "canary-value"),
    (lambda o: o.integer("KEY"), True),
    (lambda o: o.integer("KEY", maximum=3), 4),
    (lambda o: o.flag("KEY"), "canary-value"),
    (lambda o: o.flag("KEY"), 2),
    (lambda o: o.choice("KEY", ["kv", "database"]), "canary-value"),
    (lambda o: o.choice("KEY", ["kv", "database"]), ["canary-value"]),
    (lambda o: o.mapping("KEY"), "canary-value"),
    (lambda o: o.mapping("KEY"), {1: "canary-value"}),
    (lambda o: o.path("KEY"), b"canary-value"),
    (lambda o: o.path("KEY"), "canary-value\0"),
]


@pytest.mark.parametrize(("read", "value"), WRONG)
def test_wrong_value_is_not_shown(read: Callable[[Options], object], value: object) -> None:
    """A value of the wrong kind is refused by adapter and key, and never printed."""
    with pytest.raises(
        AdapterMisconfigured, match=r"'vault', option KEY: found .*expected"
    ) as caught:
        read(options(KEY=value))
    assert "canary" not in str(caught.value)


def test_near_miss_of_a_public_word_is_shown() -> None:
    """A choice that is nearly right says which one was meant."""
    with pytest.raises(AdapterMisconfigured, match=r"'databse'.*did you mean database\?"):
        options(ENGINE="databse").choice("ENGINE", ["kv", "database"])


def test_secret_in_place_of_a_key_is_not_shown() -> None:
    """A key that is no name may be a secret that slipped, and is not printed."""
    with pytest.raises(AdapterMisconfigured) as caught:
        Options({"hvs.canary/secret": 1}, adapter="vault").finish()
    assert "canary" not in str(caught.value)


def test_settings_must_be_a_mapping() -> None:
    """Anything but a mapping is refused without being shown."""
    with pytest.raises(AdapterMisconfigured, match="found a list"):
        Options(["canary"], adapter="env")  # type: ignore[arg-type]


def test_repr_shows_no_value() -> None:
    """The reader's repr names keys alone."""
    assert "canary" not in repr(options(TOKEN="canary"))


def test_nearest_ignores_case() -> None:
    """The nearest name is found whatever its case, and none when none is close."""
    assert nearest("address", ["ADDRESS", "TOKEN"]) == "ADDRESS"
    assert nearest("zzz", ["ADDRESS"]) is None
