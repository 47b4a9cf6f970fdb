"""Names of channels and groups, and the node that a name belongs to."""

from __future__ import annotations

import string
from typing import Any

import pytest

from channels_pg_secrets.layer import names


@pytest.mark.parametrize("name", ["a", "a" * 99, "a!", "a!b", string.ascii_letters, "0-_.9"])
def test_valid_channels_pass(name: str) -> None:
    """A valid name comes back as it is."""
    assert names.check_channel(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "!", "!a", "a" * 100, "a\n", "\na", "a!\n", "a!b!", "a b", "é", "٣", 1, b"a", None, ["a"]],
)
def test_invalid_channels_are_refused_with_what_was_found(name: Any) -> None:
    """An invalid name raises TypeError that shows the name and the rule."""
    for check in (names.check_channel, names.owner):
        with pytest.raises(TypeError, match="fewer than 100 characters") as caught:
            check(name)
        assert repr(name)[:50] in str(caught.value)


def test_a_very_long_name_is_shown_in_part() -> None:
    """An error does not repeat a megabyte."""
    with pytest.raises(TypeError) as caught:
        names.check_group("x" * 1_000_000)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["a!", "a.b!"])
def test_a_name_cut_at_the_mark_is_not_received_from(name: str) -> None:
    """receive() takes whole names, send() takes both."""
    assert names.check_channel(name)
    with pytest.raises(TypeError, match="full channel name"):
        names.check_receivable(name)


@pytest.mark.parametrize("name", ["", "a!b", "a" * 100, "a\n", "é", None])
def test_invalid_groups_are_refused(name: Any) -> None:
    """A group has no "!" in its name."""
    with pytest.raises(TypeError, match="Group name"):
        names.check_group(name)


@pytest.mark.parametrize("prefix", ["", "a" * 61, "a!", "a\n", 3])
def test_invalid_prefixes_are_refused(prefix: Any) -> None:
    """A prefix leaves room for the node and the rest, and has no "!"."""
    with pytest.raises(TypeError, match="prefix"):
        names.new_channel_name(prefix, 1)


@pytest.mark.parametrize("node", [1, 2**62, 2**63 - 1, 0xABC])
def test_a_new_channel_knows_its_node(node: int) -> None:
    """The node can be read from the name, which is valid at every length of the prefix."""
    for prefix in ("a", "specific", "x" * 60, "a.0123456789abcdef"):
        name = names.new_channel_name(prefix, node)
        assert names.check_receivable(name) == name
        assert names.node_of(name) == names.owner(name) == node


@pytest.mark.parametrize(
    "name",
    [
        "normal",
        "a!b",
        "a.123!b",
        "a.0123456789abcdeg!b",
        "a.0123456789ABCDEF!b",
        "a.0123456789abcdef",
    ],
)
def test_other_names_belong_to_no_node(name: str) -> None:
    """A name that this layer did not make is a normal channel's."""
    assert names.node_of(name) is None


def test_node_ids_fit_a_bigint_and_are_never_zero() -> None:
    """Zero stands for senders that are no node."""
    ids = {names.new_node_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(0 < number < 2**63 for number in ids)
