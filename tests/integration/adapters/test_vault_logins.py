"""Every way into a real Vault with an identity that somebody else vouches for."""

from __future__ import annotations

import base64
import datetime
import json
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hvac
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pg_secrets.errors import (
    AdapterMisconfigured,
    CredentialsDenied,
    CredentialsInvalid,
    CredentialsUnavailable,
)
from pg_secrets.options import Options
from pg_secrets.testing.http import HttpAnswer, ScriptedHttpServer
from pg_secrets.testing.openbao import OpenBaoServer
from pg_secrets.vault import VaultAdapter
from pg_secrets.vault.auth import auth_method
from pg_secrets.vault.client import VaultAddress, VaultClient
from pg_secrets.vault.logins import SERVICE_ACCOUNT

POLICY = 'path "secret/data/logins" { capabilities = ["read"] }'


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    """A key to sign tokens and certificates with."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def vault(openbao: OpenBaoServer) -> Iterator[hvac.Client]:
    """A Vault with a secret and a policy that lets it be read."""
    client = openbao.client()
    client.secrets.kv.v2.create_or_update_secret("logins", secret={"password": "pw"})
    client.sys.create_or_update_policy("logins", POLICY)
    yield client
    client.adapter.close()


@pytest.fixture
def mount() -> str:
    """Where a test mounts its auth method."""
    return f"auth-{secrets.token_hex(4)}"


def password(address: str, auth: dict[str, Any], **config: Any) -> str | None:
    """Return what a fetch brings that logs in by ``auth``; the token is given back."""
    settings = {"ADDRESS": address, "KV": "logins", "AUTH": auth, **config}
    reader = VaultAdapter.from_config(settings)
    try:
        return reader.fetch().password
    finally:
        reader.close()


def jwt(key: rsa.RSAPrivateKey, **claims: Any) -> str:
    """A signed token (RFC 7519), RS256."""

    def encoded(part: bytes) -> str:
        return base64.urlsafe_b64encode(part).rstrip(b"=").decode()

    head = encoded(json.dumps({"alg": "RS256", "typ": "JWT"}).encode())
    signed = f"{head}.{encoded(json.dumps(claims).encode())}"
    signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{signed}.{encoded(signature)}"


def test_userpass(vault: hvac.Client, mount: str, openbao: OpenBaoServer, tmp_path: Path) -> None:
    """A name and a password, which may be any line of text; the wrong one is refused."""
    vault.sys.enable_auth_method("userpass", path=mount)
    vault.auth.userpass.create_or_update_user(
        "app", password="pass wörd", policies=["logins"], mount_point=mount
    )
    auth = {"METHOD": "userpass", "MOUNT": mount, "USERNAME": "app"}
    assert password(openbao.address, {**auth, "PASSWORD": "pass wörd"}) == "pw"
    file = tmp_path / "password"
    file.write_text("pass wörd\n")
    assert password(openbao.address, {**auth, "PASSWORD_FILE": str(file)}) == "pw"
    with pytest.raises(CredentialsDenied) as caught:
        password(openbao.address, {**auth, "PASSWORD": "hunter2hunter2"})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(CredentialsInvalid, match="control character"):
        password(openbao.address, {**auth, "PASSWORD": "a\x07b"})
    vault.sys.disable_auth_method(mount)


def test_jwt(
    vault: hvac.Client,
    mount: str,
    openbao: OpenBaoServer,
    key: rsa.RSAPrivateKey,
    tmp_path: Path,
) -> None:
    """A provider's token, read anew when the file holds another one."""
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    vault.sys.enable_auth_method("jwt", path=mount)
    vault.write(f"auth/{mount}/config", jwt_validation_pubkeys=[public.decode()])
    role = {"role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"]}
    vault.write(f"auth/{mount}/role/app", token_policies=["logins"], **role)
    now = int(datetime.datetime.now(datetime.timezone.utc).timestamp())
    claims = {"sub": "ci", "aud": "vault", "iat": now}
    file = tmp_path / "jwt"
    auth = {"METHOD": "jwt", "MOUNT": mount, "ROLE": "app", "JWT_FILE": str(file)}
    file.write_text(jwt(key, **claims, exp=now - 3600))
    with pytest.raises(CredentialsDenied, match="expired"):
        password(openbao.address, auth)
    file.write_text(jwt(key, **claims, exp=now + 3600))
    assert password(openbao.address, auth) == "pw"
    vault.sys.disable_auth_method(mount)


@pytest.fixture
def kubernetes() -> Iterator[ScriptedHttpServer]:
    """The one answer of a Kubernetes API server that Vault asks for."""
    with ScriptedHttpServer() as server:
        yield server


def _review(authenticated: bool) -> HttpAnswer:
    user = {
        "username": "system:serviceaccount:shop:web",
        "uid": "uid-1",
        "groups": ["system:serviceaccounts", "system:authenticated"],
    }
    status = {"authenticated": authenticated, **({"user": user} if authenticated else {})}
    kind = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}
    return HttpAnswer(201, {**kind, "status": status})


def test_kubernetes(
    vault: hvac.Client,
    mount: str,
    openbao: OpenBaoServer,
    key: rsa.RSAPrivateKey,
    kubernetes: ScriptedHttpServer,
    tmp_path: Path,
) -> None:
    """A pod's service account: Vault asks Kubernetes whether its token is one."""
    vault.sys.enable_auth_method("kubernetes", path=mount)
    vault.write(
        f"auth/{mount}/config",
        kubernetes_host=kubernetes.address,
        token_reviewer_jwt=jwt(key, sub="reviewer"),
        kubernetes_ca_cert=_certificate(key, "ca"),
        disable_local_ca_jwt=True,
    )
    vault.write(
        f"auth/{mount}/role/web",
        bound_service_account_names=["web"],
        bound_service_account_namespaces=["shop"],
        token_policies=["logins"],
    )
    about = "kubernetes.io/serviceaccount"
    token = tmp_path / "token"
    token.write_text(
        jwt(
            key,
            **{
                "iss": "kubernetes/serviceaccount",
                "sub": "system:serviceaccount:shop:web",
                f"{about}/namespace": "shop",
                f"{about}/service-account.name": "web",
                f"{about}/service-account.uid": "uid-1",
            },
        )
    )
    auth = {"METHOD": "kubernetes", "MOUNT": mount, "ROLE": "web", "TOKEN_FILE": str(token)}
    review = "/apis/authentication.k8s.io/v1/tokenreviews"
    kubernetes.script("POST", review, _review(authenticated=True))
    assert password(openbao.address, auth) == "pw"
    kubernetes.script("POST", review, _review(authenticated=False))
    with pytest.raises(CredentialsDenied):
        password(openbao.address, auth)
    vault.sys.disable_auth_method(mount)


def test_the_service_account_is_the_default() -> None:
    """Where Kubernetes mounts a token, and what is said where there is none."""
    config = {"ADDRESS": "https://v", "KV": "x", "AUTH": {"METHOD": "kubernetes", "ROLE": "web"}}
    with pytest.raises(CredentialsUnavailable, match=re.escape(SERVICE_ACCOUNT)):
        VaultAdapter.from_config(config).fetch()


def test_a_wrapped_secret_id(
    vault: hvac.Client, mount: str, openbao: OpenBaoServer, tmp_path: Path
) -> None:
    """It is unwrapped once, and again when there is another; one that was used says so."""
    vault.sys.enable_auth_method("approle", path=mount)
    vault.auth.approle.create_or_update_approle("app", token_policies=["logins"], mount_point=mount)
    role_id = vault.auth.approle.read_role_id("app", mount_point=mount)["data"]["role_id"]

    def wrapped() -> str:
        answer = vault.auth.approle.generate_secret_id("app", mount_point=mount, wrap_ttl="1m")
        return str(answer["wrap_info"]["token"])

    file = tmp_path / "wrapped"
    file.write_text(wrapped())
    auth = {
        "METHOD": "approle",
        "MOUNT": mount,
        "ROLE_ID": role_id,
        "SECRET_ID_FILE": str(file),
        "WRAPPED": True,
    }
    client = VaultClient(VaultAddress(openbao.address))
    method = auth_method(Options({"AUTH": auth}, adapter="vault"))
    first = method.log_in(client, time.time)
    assert method.log_in(client, time.time).value != first.value  # the secret id is known by now
    file.write_text(wrapped())
    assert method.log_in(client, time.time).owned
    with pytest.raises(CredentialsDenied, match="used already"):
        password(openbao.address, auth)
    client.close()
    vault.sys.disable_auth_method(mount)


def test_a_wrapped_token(vault: hvac.Client, openbao: OpenBaoServer, tmp_path: Path) -> None:
    """It is unwrapped once, and again when there is another; one that was used says what to do."""

    def wrapped() -> str:
        answer = vault.auth.token.create(policies=["logins"], wrap_ttl="1m")
        return str(answer["wrap_info"]["token"])

    file = tmp_path / "wrapped"
    file.write_text(wrapped())
    auth = {"METHOD": "token", "TOKEN_FILE": str(file), "WRAPPED": True}
    settings = {"ADDRESS": openbao.address, "KV": "logins", "AUTH": auth}
    reader = VaultAdapter.from_config(settings)
    assert [reader.fetch().password for _ in range(2)] == ["pw", "pw"]
    with pytest.raises(CredentialsDenied, match=r"used already.*take the token for stolen"):
        VaultAdapter.from_config(settings).fetch()
    file.write_text(wrapped())
    assert reader.fetch().password == "pw"
    reader.close()


def test_a_token_that_vault_agent_wrapped(
    vault: hvac.Client, openbao: OpenBaoServer, tmp_path: Path
) -> None:
    """The sink of an agent with a wrap_ttl: an object, whose token is wrapped as data."""
    token = vault.auth.token.create(policies=["logins"])["auth"]["client_token"]
    answer = vault.adapter.post("/v1/sys/wrapping/wrap", json={"token": token}, wrap_ttl="1m")
    file = tmp_path / "sink"
    file.write_text(json.dumps(answer["wrap_info"], separators=(",", ":")))
    auth = {"METHOD": "token", "TOKEN_FILE": str(file), "WRAPPED": True}
    assert password(openbao.address, auth) == "pw"


def test_something_else_was_wrapped(vault: hvac.Client, openbao: OpenBaoServer) -> None:
    """What is in a wrapping token, and is no token, is said without being shown."""
    answer = vault.adapter.post("/v1/sys/wrapping/wrap", json={"x": "canary"}, wrap_ttl="1m")
    auth = {"METHOD": "token", "TOKEN": answer["wrap_info"]["token"], "WRAPPED": True}
    with pytest.raises(CredentialsInvalid, match="there is no token in it") as caught:
        password(openbao.address, auth)
    assert "canary" not in str(caught.value)


def test_cert(tls_openbao: tuple[str, Path], key: rsa.RSAPrivateKey, tmp_path: Path) -> None:
    """A client certificate that Vault knows; one that it does not know is refused."""
    address, ca = tls_openbao
    client = hvac.Client(url=address, token="root", verify=str(ca))
    client.secrets.kv.v2.create_or_update_secret("logins", secret={"password": "pw"})
    client.sys.create_or_update_policy("logins", POLICY)
    client.sys.enable_auth_method("cert")
    known, stranger = _certificate(key, "known"), _certificate(key, "stranger")
    client.write("auth/cert/certs/app", certificate=known, token_policies=["logins"])
    client.adapter.close()
    files = {"CERT_FILE": tmp_path / "cert.pem", "KEY_FILE": tmp_path / "key.pem"}
    files["KEY_FILE"].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    auth = {"METHOD": "cert", "NAME": "app", **{name: str(path) for name, path in files.items()}}
    files["CERT_FILE"].write_text(known)
    assert password(address, auth, CA_BUNDLE=str(ca)) == "pw"
    files["CERT_FILE"].write_text(stranger)
    with pytest.raises(CredentialsDenied):
        password(address, auth, CA_BUNDLE=str(ca))
    with pytest.raises(AdapterMisconfigured, match="needs VERIFY"):
        password(address, auth, VERIFY=False)


def _certificate(key: rsa.RSAPrivateKey, name: str) -> str:
    """A certificate for clients that vouches for itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    ("auth", "text"),
    [
        ({"METHOD": "kubernetes"}, "ROLE: is required"),
        ({"METHOD": "jwt", "ROLE": "x"}, "JWT: is required"),
        ({"METHOD": "userpass", "USERNAME": "x"}, "PASSWORD: is required"),
        ({"METHOD": "ldap", "PASSWORD": "x"}, "USERNAME: is required"),
        ({"METHOD": "cert", "CERT_FILE": "/none", "KEY_FILE": "/none"}, "CERT_FILE: there is no"),
        ({"METHOD": "approle", "ROLE_ID": "x", "WRAPPED": True}, "WRAPPED: is only of use"),
    ],
)
def test_settings_that_are_wrong(auth: dict[str, Any], text: str) -> None:
    """Said before anything is sent."""
    with pytest.raises(AdapterMisconfigured, match=text):
        VaultAdapter.from_config({"ADDRESS": "https://v", "KV": "x", "AUTH": auth})


def test_ldap() -> None:
    """LDAP logs in as userpass does, at a path of its own: no directory is at hand to ask."""
    with ScriptedHttpServer() as server:
        token = {"client_token": "t", "lease_duration": 60, "renewable": False}
        server.script("POST", "/v1/auth/ldap/login/app", HttpAnswer(body={"auth": token}))
        value = {"data": {"data": {"password": "pw"}, "metadata": {"version": 1}}}
        server.script("GET", "/v1/secret/data/logins", HttpAnswer(body=value))
        auth = {"METHOD": "ldap", "USERNAME": "app", "PASSWORD": "of the directory"}
        assert password(server.address, auth) == "pw"
        assert server.requests[0].json() == {"password": "of the directory"}
