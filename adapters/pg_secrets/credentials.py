"""One immutable snapshot of everything a database login needs."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, NoReturn

# A fingerprint that leaks must not let anybody try passwords against it.
_KEY = secrets.token_bytes(16)


@dataclass(frozen=True)
class Lease:
    """A store's promise to keep a credential alive for a while.

    ``duration`` is what was granted, in seconds; ``renewable`` says whether asking for more is
    worth the request.
    """

    id: str = field(repr=False)
    duration: float
    renewable: bool = False


@dataclass(frozen=True, repr=False, eq=False)
class Credentials:
    """User, password and any other libpq keywords, fetched together in one read.

    ``expires_at`` is a wall-clock time (seconds since the epoch) or ``None`` for "until replaced".
    ``refresh_at`` is when the store expects to replace it, if it said so. ``version`` is the
    store's own name for this value. ``generation`` is stamped by the source: 0 before it has
    seen the value, then 1, 2, 3… whenever user, password or parameters really changed.

    Instances are immutable and safe to share between threads. The password stands in no
    ``repr`` and cannot be pickled.
    """

    user: str | None = None
    password: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    version: str | None = None
    expires_at: float | None = None
    refresh_at: float | None = None
    lease: Lease | None = None
    generation: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))

    @cached_property
    def fingerprint(self) -> str:
        """A digest that changes when, and only when, a login with these would differ.

        Means nothing outside this process and those forked from it.
        """
        digest = hashlib.blake2b(key=_KEY, digest_size=16)
        items = [("user", self.user), ("password", self.password), *sorted(self.parameters.items())]
        for key, value in items:
            part = f"{key}={value!r}".encode()
            digest.update(len(part).to_bytes(4, "big") + part)
        return digest.hexdigest()

    def connection_params(self) -> dict[str, Any]:
        """Return libpq keywords, the password among them, for psycopg's ``connect(**params)``."""
        params: dict[str, Any] = dict(self.parameters)
        if self.user is not None:
            params["user"] = self.user
        if self.password is not None:
            params["password"] = self.password
        return params

    def replace(self, **changes: Any) -> Credentials:
        """Return a copy with the named fields changed."""
        return replace(self, **changes)

    def __repr__(self) -> str:
        return (
            f"<Credentials user={self.user!r} generation={self.generation}"
            f" version={self.version!r} expires_at={self.expires_at!r}>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("Credentials hold a password and cannot be pickled or copied")
