"""The vault adapter's settings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pg_secrets.errors import AdapterMisconfigured, AdapterNotInstalled, CredentialsInvalid
from pg_secrets.vault import VaultAdapter

CANARY = "canary-s3cret"
BASE: dict[str, Any] = {
    "ADDRESS": "https://vault.example:8200",
    "ROLE": "app",
    "AUTH": {"METHOD": "token", "TOKEN": CANARY},
}
APPROLE = {"METHOD": "approle", "ROLE_ID": "r"}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in BASE.items() if name != key}


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (without("ROLE"), "ROLE: is required and missing, unless STATIC_ROLE or KV"),
        (without("ROLE") | {"ROEL": "app"}, "ROEL.*did you mean ROLE"),
        (BASE | {"KV": "x"}, "ROLE: excludes KV"),
        (BASE | {"STATIC_ROLE": "x"}, "ROLE: excludes STATIC_ROLE"),
        (BASE | {"VERSION": 1}, "VERSION: is only of use together with KV"),
        (BASE | {"FIELDS": {"user": "u"}}, "FIELDS: is only of use together with KV"),
        (without("ROLE") | {"KV": "x", "KV_VERSION": 3}, "KV_VERSION: found an int"),
        (without("ROLE") | {"KV": "x", "KV_VERSION": 1, "VERSION": 2}, "VERSION: KV version 1"),
        (without("ROLE") | {"KV": "x", "FIELDS": {"pasword": "p"}}, "did you mean 'password'"),
        (without("ADDRESS"), "ADDRESS: is required.*, and VAULT_ADDR is not set"),
        (without("ADDRESS") | {"ADRESS": "https://v"}, "ADDRESS: is required.*found ADRESS"),
        (BASE | {"ADDRESS": "vault:8200"}, "ADDRESS: expected a URL"),
        (BASE | {"ADDRESS": "https://vault:port"}, "ADDRESS: expected a URL"),
        (BASE | {"ADDRESS": f"https://u:{CANARY}@vault"}, "ADDRESS: holds a user"),
        (BASE | {"CA_BUNDLE": "/does/not/exist"}, "CA_BUNDLE: there is no file"),
        (BASE | {"CA_BUNDLE": "/etc", "VERIFY": False}, "VERIFY: False and a CA_BUNDLE"),
        (BASE | {"TIMEOUT": 0}, "TIMEOUT: found an int"),
        (BASE | {"TOKEN": CANARY}, "TOKEN"),
        (BASE | {"AUTH": CANARY}, "AUTH: found a str"),
        (BASE | {"AUTH": {}}, "METHOD: is required"),
        (BASE | {"AUTH": {"METHOD": "app_role"}}, "did you mean approle"),
        (BASE | {"AUTH": {"METHOD": CANARY}}, "one of 'token', 'approle'"),
        (BASE | {"AUTH": {"METHOD": "token", "TOKN": CANARY}}, "did you mean TOKEN"),
        (
            BASE | {"AUTH": {"METHOD": "token", "TOKEN": CANARY, "TOKEN_FILE": "x"}},
            "TOKEN: excludes TOKEN_FILE",
        ),
        (BASE | {"AUTH": {"METHOD": "approle"}}, "ROLE_ID: is required: give it, or ROLE_ID_ENV"),
        (BASE | {"AUTH": APPROLE | {"SECRET_ID": 7}}, "SECRET_ID: found an int"),
    ],
)
def test_wrong_options(config: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong option is refused when the adapter is built, named, and its value not shown."""
    monkeypatch.delenv("VAULT_ADDR", raising=False)
    with pytest.raises(AdapterMisconfigured, match=text) as caught:
        VaultAdapter.from_config(config)
    assert CANARY not in str(caught.value)
    assert "vault" in str(caught.value)


@pytest.mark.parametrize("token", [f"{CANARY}\nX-Injected: 1", f"{CANARY} x", f"{CANARY}é"])
def test_token_that_no_header_takes(token: str) -> None:
    """A token with a space or a line end in it is refused before anything is sent, unseen."""
    adapter = VaultAdapter.from_config(BASE | {"AUTH": {"METHOD": "token", "TOKEN": token}})
    with pytest.raises(CredentialsInvalid, match="TOKEN: it holds") as caught:
        adapter.fetch()
    assert CANARY not in str(caught.value)


def test_unset_token_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token variable that is not set is a misconfiguration that names it."""
    monkeypatch.delenv("APP_TOKEN", raising=False)
    auth = {"METHOD": "token", "TOKEN_ENV": "APP_TOKEN"}
    with pytest.raises(AdapterMisconfigured, match="APP_TOKEN is not set"):
        VaultAdapter.from_config(BASE | {"AUTH": auth}).fetch()


def test_repr_holds_no_secret() -> None:
    """The adapter's repr says where and what, and shows no token."""
    shown = repr(VaultAdapter.from_config(BASE))
    assert "https://vault.example:8200" in shown
    assert "database/creds/app" in shown
    assert CANARY not in shown


def test_ca_bundle_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """VAULT_CACERT that cannot be loaded is an error of CA_BUNDLE's kind, not silently dropped."""
    monkeypatch.setenv("VAULT_CACERT", str(tmp_path / "none.pem"))
    with pytest.raises(AdapterMisconfigured, match="VAULT_CACERT or VAULT_CAPATH"):
        VaultAdapter.from_config(BASE)


def test_missing_hvac(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without hvac the error names the pip command."""
    monkeypatch.setitem(sys.modules, "hvac", None)
    with pytest.raises(AdapterNotInstalled, match=r"pip install 'channels-pg-secrets\[vault\]'"):
        VaultAdapter.from_config(BASE)


def test_hvac_is_imported_only_when_built() -> None:
    """Importing the adapter's module imports neither hvac nor requests."""
    code = "import sys, pg_secrets.vault; print({'hvac', 'requests'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "set()"
