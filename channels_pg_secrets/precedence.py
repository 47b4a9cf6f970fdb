"""Which goes before which: settings, and what the credentials carry beside user and password."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from channels_pg_secrets.guarded import GuardedDict
from pg_secrets.credentials import Credentials

_SERVER = frozenset({"host", "hostaddr", "port"})
_GAPS: tuple[object, ...] = (None, "")
_PLACES = frozenset({"host", "hostaddr", "service"})


def with_credentials(params: Mapping[str, Any], credentials: Credentials) -> GuardedDict:
    """Return libpq keywords for logging in with ``credentials``.

    User and password are the credentials' own, where they have any. All else that they carry only
    fills gaps in ``params``: a database's name in the settings is the test database's in a test,
    and a host there may be a proxy. Host, address and port go together.
    """
    found = GuardedDict(credentials.connection_params())
    login = {key: found.pop(key) for key in ("user", "password") if key in found}
    if any(params.get(key) for key in _PLACES):
        for key in _SERVER:
            found.pop(key, None)
    if params.get("service"):
        found.pop("dbname", None)
    found.update(
        (key, value) for key, value in params.items() if key not in found or value not in _GAPS
    )
    found.update(login)
    return found
