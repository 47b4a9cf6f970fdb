"""One connection to one Vault: an address, a namespace, time-outs, and no token of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pg_secrets.errors import AdapterMisconfigured, AdapterNotInstalled
from pg_secrets.options import Options
from pg_secrets.vault.errors import Answer, read_answer, unreachable

if TYPE_CHECKING:
    import hvac

    Call = Callable[[hvac.Client], Any]

CONNECT_TIMEOUT = 3.0
READ_TIMEOUT = 5.0


@dataclass(frozen=True)
class VaultAddress:
    """Where the Vault is and how to speak to it."""

    url: str
    namespace: str | None = None
    verify: bool | str = True
    timeout: tuple[float, float] = (CONNECT_TIMEOUT, READ_TIMEOUT)

    @classmethod
    def from_options(cls, options: Options) -> VaultAddress:
        """Read ``ADDRESS``, ``NAMESPACE``, ``CA_BUNDLE``, ``VERIFY`` and the time-outs.

        Raises:
            AdapterMisconfigured: one is missing or of the wrong kind.
        """
        return cls(
            _url(options),
            # hvac reads most of Vault's variables, but not this one.
            options.text("NAMESPACE", None) or os.environ.get("VAULT_NAMESPACE") or None,
            _verify(options),
            (
                options.seconds("CONNECT_TIMEOUT", CONNECT_TIMEOUT, minimum=0.05, maximum=60),
                options.seconds("TIMEOUT", READ_TIMEOUT, minimum=0.05, maximum=60),
            ),
        )


class VaultClient:
    """Sends requests and turns whatever happens into an :class:`Answer` or a CredentialsError.

    Not thread-safe: its user serialises the calls.
    """

    def __init__(self, address: VaultAddress) -> None:
        hvac = import_hvac()
        self.address = address
        self._client = hvac.Client(
            url=address.url,
            token="",  # else hvac picks one up from the environment
            namespace=address.namespace,
            verify=address.verify,
            timeout=address.timeout,
            # hvac's exceptions carry bodies and lose states: plain responses are kept instead.
            adapter=hvac.adapters.RawAdapter,
            ignore_exceptions=True,
        )

    def __repr__(self) -> str:
        return f"<VaultClient {self.address.url}>"

    def send(self, call: Call, *, token: str = "") -> Answer:
        """Make one request as ``token`` and return what came back.

        Raises:
            CredentialsUnavailable: nothing came back.
        """
        import requests

        self._client.token = token
        try:
            return read_answer(call(self._client))
        except requests.RequestException as error:
            failure = unreachable(error, self.address.url, self.address.timeout, token)
        finally:
            self._client.token = ""
        raise failure

    def close(self) -> None:
        """Close the sockets."""
        self._client.adapter.close()


def import_hvac() -> Any:
    """Return the ``hvac`` module.

    Raises:
        AdapterNotInstalled: it is not installed.
    """
    try:
        import hvac
    except ImportError as error:
        raise AdapterNotInstalled(
            "adapter 'vault' needs hvac: run pip install 'channels-pg-secrets[vault]'"
        ) from error
    return hvac


def _url(options: Options) -> str:
    url = options.text("ADDRESS", os.environ.get("VAULT_ADDR") or None)
    if url is None:
        try:
            url = options.text("ADDRESS")
        except AdapterMisconfigured as error:
            raise AdapterMisconfigured(f"{error}, and VAULT_ADDR is not set") from None
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        valid = False
    if not valid:
        raise options.error("ADDRESS", "expected a URL such as https://vault.example:8200")
    if parts.username or parts.password:
        raise options.error("ADDRESS", "holds a user or a password, which Vault does not take")
    return url.rstrip("/")


def _verify(options: Options) -> bool | str:
    verify = options.flag("VERIFY", True)
    bundle = options.path("CA_BUNDLE", None)
    if not verify:
        if bundle is not None:
            raise options.error("VERIFY", "False and a CA_BUNDLE contradict each other")
        return False
    found = bundle or os.environ.get("VAULT_CACERT") or os.environ.get("VAULT_CAPATH")
    if not found:
        return True
    if not Path(found).exists():
        where = "CA_BUNDLE" if bundle else "VAULT_CACERT or VAULT_CAPATH"
        raise options.error("CA_BUNDLE", f"there is no file or directory {found} (from {where})")
    return str(found)
