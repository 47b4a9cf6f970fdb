"""Secrets that somebody wrote into a real Vault, in its namespaces and both KV versions."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hvac
import pytest

from pg_secrets.errors import (
    AdapterMisconfigured,
    CredentialsDenied,
    CredentialsInvalid,
    CredentialsNotFound,
)
from pg_secrets.testing.openbao import OpenBaoServer
from pg_secrets.vault import VaultAdapter

LOGIN = {"username": "app", "password": "one", "host": "db", "port": "5433", "dbname": "chat"}


@pytest.fixture
def client(openbao: OpenBaoServer) -> Iterator[hvac.Client]:
    client = openbao.client()
    yield client
    client.adapter.close()


@pytest.fixture
def path() -> str:
    return f"app/{secrets.token_hex(4)}"


def adapter(openbao: OpenBaoServer, path: str, **config: Any) -> VaultAdapter:
    auth = {"METHOD": "token", "TOKEN": openbao.root_token}
    return VaultAdapter.from_config({"ADDRESS": openbao.address, "AUTH": auth, "KV": path} | config)


def write(client: hvac.Client, path: str, **data: Any) -> None:
    client.secrets.kv.v2.create_or_update_secret(path, secret=data)


def test_kv2(openbao: OpenBaoServer, client: hvac.Client, path: str) -> None:
    """A KV 2 secret gives login, host, port and database, and its version."""
    write(client, path, **LOGIN, note="ignored")
    found = adapter(openbao, path).fetch()
    assert found.connection_params() == {
        "user": "app",
        "password": "one",
        "host": "db",
        "port": 5433,
        "dbname": "chat",
    }
    assert (found.version, found.expires_at, found.lease) == ("1", None, None)


def test_latest_and_pinned_version(openbao: OpenBaoServer, client: hvac.Client, path: str) -> None:
    """Without VERSION the latest is read, with it the one that is pinned."""
    write(client, path, **LOGIN)
    write(client, path, **LOGIN | {"password": "two"})
    latest, pinned = adapter(openbao, path).fetch(), adapter(openbao, path, VERSION=1).fetch()
    assert (latest.version, latest.password) == ("2", "two")
    assert (pinned.version, pinned.password) == ("1", "one")


def test_field_mapping(openbao: OpenBaoServer, client: hvac.Client, path: str) -> None:
    """FIELDS takes just what it names; a key that is not there is named."""
    write(client, path, db_user="app", db_pass="x", host="other")
    fields = {"user": "db_user", "password": "db_pass"}
    found = adapter(openbao, path, FIELDS=fields).fetch()
    assert found.connection_params() == {"user": "app", "password": "x"}
    with pytest.raises(CredentialsInvalid, match="'nope'"):
        adapter(openbao, path, FIELDS=fields | {"host": "nope"}).fetch()


@pytest.mark.parametrize("end", ["deleted", "destroyed"])
def test_deleted_and_destroyed(
    openbao: OpenBaoServer, client: hvac.Client, path: str, end: str
) -> None:
    """A version that was deleted or destroyed is not found, and the error says which it was."""
    write(client, path, **LOGIN)
    if end == "deleted":
        client.secrets.kv.v2.delete_latest_version_of_secret(path)
    else:
        client.secrets.kv.v2.destroy_secret_versions(path, versions=[1])
    with pytest.raises(CredentialsNotFound, match=f"version 1 was {end}"):
        adapter(openbao, path).fetch()


@pytest.mark.parametrize("config", [{}, {"VERSION": 9}, {"KV_VERSION": 1}])
def test_nothing_there(openbao: OpenBaoServer, path: str, config: dict[str, Any]) -> None:
    """A path, or a version, that was never written is not found, whichever KV version is asked."""
    with pytest.raises(CredentialsNotFound, match=path):
        adapter(openbao, path, **config).fetch()


def test_kv1(openbao: OpenBaoServer, client: hvac.Client, path: str) -> None:
    """A KV 1 secret is read from its own mount and has no version."""
    mount = f"kv1-{secrets.token_hex(4)}"
    client.sys.enable_secrets_engine("kv", path=mount, options={"version": "1"})
    client.secrets.kv.v1.create_or_update_secret(path, secret=LOGIN, mount_point=mount)
    found = adapter(openbao, path, MOUNT=mount, KV_VERSION=1).fetch()
    assert (found.user, found.password, found.version) == ("app", "one", None)
    with pytest.raises(CredentialsNotFound):
        adapter(openbao, path, MOUNT=mount).fetch()
    client.sys.disable_secrets_engine(mount)


def write_to_new_mount(client: hvac.Client, path: str) -> None:
    """Write the login to a mount of version 2, which is not one at once (on a slow machine)."""
    deadline = time.monotonic() + 10.0
    while True:
        try:
            client.secrets.kv.v2.create_or_update_secret(path, secret=LOGIN)
        except hvac.exceptions.InvalidRequest as error:
            if "resume service shortly" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def test_namespace(openbao: OpenBaoServer, client: hvac.Client, path: str) -> None:
    """NAMESPACE reads the secret of that namespace, and no other."""
    name = f"team-{secrets.token_hex(4)}"
    client.write_data(f"sys/namespaces/{name}", data={})
    inside = hvac.Client(url=openbao.address, token=openbao.root_token, namespace=name)
    inside.sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
    write_to_new_mount(inside, path)
    assert adapter(openbao, path, NAMESPACE=name).fetch().password == "one"
    with pytest.raises(CredentialsNotFound):
        adapter(openbao, path).fetch()
    inside.adapter.close()


def wrapped(client: hvac.Client, **data: Any) -> str:
    """Return a wrapping token with these in it."""
    answer = client.adapter.post("/v1/sys/wrapping/wrap", json=data, wrap_ttl="1m")
    return str(answer["wrap_info"]["token"])


def test_wrapped_login(openbao: OpenBaoServer, client: hvac.Client, tmp_path: Path) -> None:
    """What somebody wrapped is unwrapped once, and again when another wrapping token is there."""
    file = tmp_path / "wrapped"
    file.write_text(wrapped(client, **LOGIN))
    config = {"ADDRESS": openbao.address, "WRAPPED_FILE": str(file)}
    reader = VaultAdapter.from_config(config)
    assert [reader.fetch().password for _ in range(2)] == ["one", "one"]
    assert reader.fetch().connection_params()["port"] == 5433
    with pytest.raises(CredentialsDenied, match=r"used already.*take the login for stolen"):
        VaultAdapter.from_config(config).fetch()
    file.write_text(wrapped(client, login="app", secret="two"))
    fields = {"FIELDS": {"user": "login", "password": "secret"}}
    other = VaultAdapter.from_config(config | fields).fetch()
    assert (other.user, other.password) == ("app", "two")


def test_wrapped_answers(openbao: OpenBaoServer, client: hvac.Client, path: str) -> None:
    """A KV secret that Vault wrapped is a login; a dynamic login's lease would be nobody's."""
    write(client, path, **LOGIN)
    answer = client.adapter.get(f"/v1/secret/data/{path}", wrap_ttl="1m")
    config = {"ADDRESS": openbao.address, "WRAPPED": answer["wrap_info"]["token"]}
    assert VaultAdapter.from_config(config).fetch().password == "one"
    assert config["WRAPPED"] not in repr(VaultAdapter.from_config(config))


@pytest.mark.parametrize("key", ["KV", "ROLE", "MOUNT", "VERSION", "KV_VERSION"])
def test_wrapped_and_something_else(key: str) -> None:
    """A wrapped login is the only one, and what belongs to others is refused."""
    with pytest.raises(AdapterMisconfigured, match=f"{key}: (excludes|is only of use)"):
        VaultAdapter.from_config({"ADDRESS": "https://v", "WRAPPED": "token", key: "1"})
