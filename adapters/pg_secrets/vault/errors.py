"""What a Vault answered, and which error of the family that is.

The one boundary at which foreign exceptions (requests') and HTTP states become
:class:`CredentialsError`. Bodies are never shown: a body may hold the very secret asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pg_secrets.errors import (
    CredentialsDenied,
    CredentialsError,
    CredentialsInvalid,
    CredentialsNotFound,
    CredentialsUnavailable,
)
from pg_secrets.redaction import redact

if TYPE_CHECKING:
    import requests

#: States that another try may mend: not replicated yet, too early or many, standby, every outage.
_TRY_AGAIN = frozenset({408, 412, 425, 429, 472, 473})
#: Part of the 400 that a KV mount answers while it becomes one of version 2 (Vault's own words).
_UPGRADING = "unavailable for a brief period"


@dataclass(frozen=True)
class Answer:
    """One HTTP answer: its state, its body as far as it is a JSON object, Vault's own words.

    ``errors`` and ``warnings`` are redacted already. ``from_vault`` is false when something before
    Vault (a load balancer, a proxy) answered.
    """

    status: int
    body: dict[str, Any] = field(repr=False)
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    from_vault: bool = True

    @property
    def ok(self) -> bool:
        """Whether Vault did what was asked."""
        return 200 <= self.status < 300

    def refuses(self, *states: int) -> bool:
        """Whether Vault itself answered with one of ``states``."""
        return self.from_vault and self.status in states

    def says(self, *phrases: str) -> bool:
        """Whether one of Vault's errors contains one of ``phrases``."""
        return any(phrase in error for error in self.errors for phrase in phrases)

    def error(self, purpose: str) -> CredentialsError:
        """Return the error this answer stands for; ``purpose`` says what was asked for."""
        kind, meaning = _meaning(self)
        return kind(f"{purpose}: {meaning} ({self.words})")

    @property
    def words(self) -> str:
        """The state and Vault's own words."""
        return ": ".join(
            [str(self.status), *filter(None, ["; ".join(self.errors + self.warnings)])]
        )

    def section(self, name: str, purpose: str) -> dict[str, Any]:
        """Return the object ``name`` (``data``, ``auth``) of a good answer.

        Raises:
            CredentialsError: the answer is not a good one.
            CredentialsInvalid: there is no such object in it.
        """
        if not self.ok:
            raise self.error(purpose)
        section = self.body.get(name)
        if not isinstance(section, dict):
            raise CredentialsInvalid(
                f"{purpose}: the answer ({self.status}) holds no {name!r}; is this really a Vault?"
            )
        return section


def read_answer(response: requests.Response) -> Answer:
    """Return what ``response`` says, whatever odd shape it has."""
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        body = None
    from_vault = isinstance(body, dict) or not response.content
    body = body if isinstance(body, dict) else {}
    sent = list(_sent_secrets(response))
    return Answer(
        response.status_code,
        body,
        tuple(redact(text, sent) for text in _texts(body.get("errors"))),
        tuple(redact(text, sent) for text in _texts(body.get("warnings"))),
        from_vault,
    )


def unreachable(
    error: requests.RequestException, address: str, timeouts: tuple[float, float], token: str
) -> CredentialsUnavailable:
    """Return the error for a request that got no answer, its cause chained without the request.

    The exceptions of requests carry the request, and with it the token and what was posted: the
    cause is a new one with nothing but the text.
    """
    import requests

    text = f"{type(error).__name__}: {redact(str(error), [token])}"
    if isinstance(error, requests.exceptions.SSLError):
        meaning = f"TLS failed; CA_BUNDLE may name the wrong certificates ({text})"
    elif isinstance(error, requests.exceptions.ConnectTimeout):
        meaning = f"connecting timed out (CONNECT_TIMEOUT, {timeouts[0]:g} s)"
    elif isinstance(error, requests.exceptions.Timeout):
        meaning = f"it took the request and did not answer in time (TIMEOUT, {timeouts[1]:g} s)"
    elif isinstance(error, requests.exceptions.ConnectionError):
        meaning = f"the connection failed ({text})"
    else:
        text = type(error).__name__  # a refused header would be quoted in the rest
        meaning = f"the request failed ({text})"
    failure = CredentialsUnavailable(f"Vault at {address}: {meaning}")
    failure.__cause__ = requests.RequestException(text)
    return failure


def _meaning(answer: Answer) -> tuple[type[CredentialsError], str]:
    status = answer.status
    if status in _TRY_AGAIN or status >= 500 or answer.says(_UPGRADING):
        sealed = answer.says("sealed")
        return CredentialsUnavailable, "Vault is sealed" if sealed else "Vault cannot answer now"
    if answer.ok or status < 400:
        return CredentialsInvalid, "unexpected answer"
    if not answer.from_vault:
        # Not Vault's word: whatever it forbids or does not find may be there a second later.
        return CredentialsUnavailable, "something before Vault answered, such as a load balancer"
    if status in (404, 405) or answer.says("unknown role", "unsupported path"):
        return CredentialsNotFound, "Vault knows nothing there; check MOUNT, the name, NAMESPACE"
    if status in (401, 403):
        return CredentialsDenied, "Vault refused; the token is not valid or its policy lacks this"
    return CredentialsDenied, "Vault refused the request"


def _texts(errors: object) -> Iterator[str]:
    """Yield what is text in a list that may hold anything."""
    if isinstance(errors, list):
        yield from (text for text in errors if isinstance(text, str) and text.strip())


def _sent_secrets(response: requests.Response) -> Iterator[str]:
    """Yield what went out with the request, so that an error that quotes it does not."""
    request = response.request
    token = request.headers.get("X-Vault-Token")
    if token:
        yield token
    try:
        sent = json.loads(request.body or b"null")
    except ValueError:
        return
    if isinstance(sent, dict):
        yield from (value for value in sent.values() if isinstance(value, str) and len(value) > 3)
