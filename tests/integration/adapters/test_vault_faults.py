"""A real Vault that is sealed, frozen, overrun, away, or that nobody should trust."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import certifi
import pytest

from pg_secrets.errors import CredentialsError, CredentialsUnavailable
from pg_secrets.testing.openbao import OpenBaoServer
from pg_secrets.testing.process import frozen
from pg_secrets.vault import VaultAdapter


def adapter(address: str, **config: Any) -> VaultAdapter:
    auth = {"METHOD": "token", "TOKEN": "root"}
    return VaultAdapter.from_config({"ADDRESS": address, "AUTH": auth, "KV": "app"} | config)


def write(server: OpenBaoServer) -> None:
    client = server.client()
    client.secrets.kv.v2.create_or_update_secret("app", secret={"password": "pw"})
    client.adapter.close()


def fetched(reader: VaultAdapter) -> str | None:
    """Return the password, or nothing while Vault does not answer in time."""
    try:
        return reader.fetch().password
    except CredentialsUnavailable:
        return None


def test_sealed(own_openbao: OpenBaoServer) -> None:
    """A sealed Vault is unavailable, and the error says that it is sealed."""
    write(own_openbao)
    reader = adapter(own_openbao.address)
    reader.fetch()
    client = own_openbao.client()
    client.sys.seal()
    client.adapter.close()
    with pytest.raises(CredentialsUnavailable, match="sealed"):
        reader.fetch()


def test_frozen(own_openbao: OpenBaoServer) -> None:
    """A Vault that stops in mid-conversation is given up after TIMEOUT, and used again later."""
    write(own_openbao)
    reader = adapter(own_openbao.address, TIMEOUT=0.3)
    reader.fetch()
    with frozen(own_openbao.pid):
        before = time.monotonic()
        with pytest.raises(CredentialsUnavailable, match="did not answer in time"):
            reader.fetch()
        assert 0.3 <= time.monotonic() - before < 3
    deadline = time.monotonic() + 20
    while fetched(reader) != "pw":
        assert time.monotonic() < deadline, "Vault is not used again"


def test_stopped_and_started(own_openbao: OpenBaoServer) -> None:
    """A Vault that went away is unavailable, and found again at the same address."""
    write(own_openbao)
    reader = adapter(own_openbao.address)
    reader.fetch()
    own_openbao.stop()
    with pytest.raises(CredentialsUnavailable, match="the connection failed"):
        reader.fetch()
    own_openbao.start()
    write(own_openbao)
    assert reader.fetch().password == "pw"


def test_rate_limit(own_openbao: OpenBaoServer) -> None:
    """A Vault that limits the rate is unavailable for now, not denied."""
    write(own_openbao)
    client = own_openbao.client()
    client.write_data("sys/quotas/rate-limit/all", data={"path": "secret/", "rate": 1})
    client.adapter.close()
    reader = adapter(own_openbao.address)

    def fetch_until_refused() -> CredentialsError | None:
        for _ in range(20):
            try:
                reader.fetch()
            except CredentialsError as error:
                return error
        return None

    error = fetch_until_refused()
    assert isinstance(error, CredentialsUnavailable)
    assert "(429" in str(error)


def test_tls(tls_openbao: tuple[str, Path]) -> None:
    """With its CA's certificate a Vault is trusted, without it or with another it is not."""
    address, ca = tls_openbao
    with pytest.raises(CredentialsError, match="404"):
        adapter(address, CA_BUNDLE=str(ca)).fetch()
    for untrusted in ({}, {"CA_BUNDLE": certifi.where()}):
        with pytest.raises(CredentialsUnavailable, match="TLS failed; CA_BUNDLE"):
            adapter(address, **untrusted).fetch()
