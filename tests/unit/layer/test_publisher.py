"""What a sender hears when the database will not do what the layer asks."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from channels_pg_secrets.errors import ChannelLayerUnavailable
from channels_pg_secrets.layer.publisher import not_granted, not_installed, refusal


@pytest.mark.parametrize("wrap", [not_installed, not_granted, refusal])
def test_the_server_s_error_is_the_cause(
    wrap: Callable[[Exception], ChannelLayerUnavailable],
) -> None:
    """Whoever catches ChannelLayerUnavailable finds the server's own error behind it."""
    error = psycopg.errors.InsufficientPrivilege("permission denied for function x\nCONTEXT: y")
    assert wrap(error).__cause__ is error
