"""Logins to Amazon RDS and Aurora by IAM: a token that is signed here and lasts 15 minutes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pg_secrets.adapter import CredentialAdapter
from pg_secrets.aws.client import AwsClient, AwsPlace
from pg_secrets.credentials import Credentials
from pg_secrets.options import Options
from pg_secrets.redaction import stripping
from pg_secrets.tls import tls_parameters

#: Seconds for which RDS takes a token, and for which one is used here (Amazon RDS User Guide, "IAM
#: database authentication": 15 minutes; half a minute less for clocks that differ).
TOKEN_LIFETIME = 900.0
USED_FOR = 870.0


class RdsIamAdapter(CredentialAdapter):
    """Signs tokens that RDS takes for passwords; needs the extra ``aws``.

    ``HOST`` (string), ``PORT`` (integer, default 5432), ``USERNAME`` (string)
        What the token is for. It is valid there alone, so they are passed on to the connection.
        The user needs ``GRANT rds_iam``, the identity ``rds-db:connect``.
    ``SSLMODE`` (``"verify-full"``, ``"verify-ca"`` or ``"require"``, default ``"verify-full"``)
        The token goes over the wire as it is, so TLS is a must, and is laid over whatever the
        connection's own settings say.
    ``SSLROOTCERT`` (path, default: libpq's own)
        The certificates to trust: Amazon's ``global-bundle.pem``.
    ``REGION``, ``PROFILE``, ``ROLE_ARN`` and what belongs to it, ``CONNECT_TIMEOUT``, ``TIMEOUT``
        As for ``aws``. Nothing is asked of RDS; only finding the identity's keys may take a
        request.

    A session that is open outlives its token. Safe to use from several threads, one call at a
    time, and after a fork.
    """

    name: ClassVar[str] = "rds_iam"

    def __init__(
        self,
        client: AwsClient,
        *,
        host: str,
        port: int,
        user: str,
        parameters: Mapping[str, Any],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._host = host
        self._port = port
        self._user = user
        self._parameters = dict(parameters)
        self._clock = clock

    def __repr__(self) -> str:
        return f"<RdsIamAdapter {self._user}@{self._host}:{self._port} {self._client!r}>"

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, clock: Callable[[], float] = time.time
    ) -> RdsIamAdapter:
        """Build from settings; nothing is sent.

        Raises:
            AdapterMisconfigured: a key is unknown, missing or of the wrong kind.
            AdapterNotInstalled: boto3 is not installed.
        """
        options = Options(config, adapter="rds_iam")
        host = options.text("HOST")
        port = options.integer("PORT", 5432, minimum=1, maximum=65535)
        user = options.text("USERNAME")
        tls = tls_parameters(options)
        place = AwsPlace.from_options(options, endpoint=False)
        options.finish()
        if "/" in host or "," in host:
            raise options.error("HOST", "expected one host's name, as a token is for one host")
        parameters = {"host": host, "port": port, **tls}
        client = AwsClient(place, "rds", clock=clock)
        return cls(client, host=host, port=port, user=user, parameters=parameters, clock=clock)

    @stripping
    def fetch(self) -> Credentials:
        """Sign another token.

        Raises:
            CredentialsUnavailable: the identity's keys cannot be had now.
            CredentialsDenied: there is no identity to sign with, or its role may not be assumed.
            AdapterMisconfigured: there is no such profile, or no region.
        """
        now = self._clock()
        token = self._client.call(
            "generate_db_auth_token",
            f"RDS token for {self._user}@{self._host}",
            DBHostname=self._host,
            Port=self._port,
            DBUsername=self._user,
        )
        return Credentials(
            user=self._user,
            password=str(token),
            parameters=self._parameters,
            expires_at=now + USED_FOR,
        )

    def forked(self) -> None:
        """Leave the parent's sockets alone."""
        self._client.forget()

    def close(self) -> None:
        """Close the sockets."""
        self._client.close()
