"""A connection to AWS: whose identity, which region, which endpoint, and how long to wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pg_secrets.aws.errors import explained
from pg_secrets.errors import AdapterNotInstalled, CredentialsError
from pg_secrets.options import Options
from pg_secrets.unlogged import unlogged

CONNECT_TIMEOUT = 3.0
READ_TIMEOUT = 5.0
#: Tries of one request, the first included; beyond that the source decides when to try again.
_ATTEMPTS = 2
#: Seconds before its end at which an assumed role is assumed again (it lasts an hour or less).
_ROLE_MARGIN = 300.0
#: The loggers that show at DEBUG answers' bodies, with the secret, and what is signed, with tokens.
_TALKATIVE = ("botocore.parsers", "botocore.auth", "botocore.endpoint")


@dataclass(frozen=True)
class AssumedRole:
    """A role that is assumed before the secret is asked for."""

    arn: str
    session_name: str = "pg_secrets"
    external_id: str | None = field(default=None, repr=False)

    @classmethod
    def from_options(cls, options: Options) -> AssumedRole | None:
        """Read ``ROLE_ARN``, ``ROLE_SESSION_NAME`` and ``EXTERNAL_ID``."""
        arn = options.text("ROLE_ARN", None)
        name = options.text("ROLE_SESSION_NAME", None)
        external = options.text("EXTERNAL_ID", None)
        if arn is not None:
            return cls(arn, name or "pg_secrets", external)
        for key, value in (("ROLE_SESSION_NAME", name), ("EXTERNAL_ID", external)):
            if value is not None:
                raise options.error(key, "is only of use together with ROLE_ARN")
        return None


@dataclass(frozen=True)
class AwsPlace:
    """Where to ask and as whom."""

    region: str | None = None
    profile: str | None = None
    endpoint: str | None = None
    role: AssumedRole | None = None
    timeout: tuple[float, float] = (CONNECT_TIMEOUT, READ_TIMEOUT)

    @classmethod
    def from_options(cls, options: Options, *, endpoint: bool = True) -> AwsPlace:
        """Read ``REGION``, ``PROFILE``, ``ENDPOINT``, the role's options and the time-outs.

        Without ``endpoint`` that is no option: nothing is asked there.

        Raises:
            AdapterMisconfigured: one is of the wrong kind.
        """
        url = options.text("ENDPOINT", None) if endpoint else None
        if url is not None and not url.startswith(("http://", "https://")):
            raise options.error("ENDPOINT", "expected a URL such as https://vpce-1.example")
        return cls(
            options.text("REGION", None),
            options.text("PROFILE", None),
            url,
            AssumedRole.from_options(options),
            (
                options.seconds("CONNECT_TIMEOUT", CONNECT_TIMEOUT, minimum=0.05, maximum=60),
                options.seconds("TIMEOUT", READ_TIMEOUT, minimum=0.05, maximum=60),
            ),
        )


class AwsClient:
    """Calls one AWS service. Sends nothing before it is asked to. Not thread-safe."""

    def __init__(
        self, place: AwsPlace, service: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        _import_boto3()
        self._place = place
        self._service = service
        self._clock = clock
        self._client: Any = None
        self._good_until = float("inf")

    def __repr__(self) -> str:
        role = self._place.role.arn if self._place.role else None
        shown = (self._service, self._place.region, self._place.profile, role)
        return f"<AwsClient {' '.join(filter(None, shown))}>"

    def call(self, operation: str, purpose: str, **parameters: Any) -> Any:
        """Call an operation by its name in boto3; ``purpose`` is what an error calls it.

        Raises:
            CredentialsError: whatever boto3 raises, as one of the family.
        """
        return self._asked(lambda: getattr(self._connected(), operation)(**parameters), purpose)

    def signed(self, url: str, body: str, headers: Mapping[str, str], purpose: str) -> Any:
        """Return a POST request, in botocore's form, signed (version 4) for somebody else to send.

        Raises:
            CredentialsError: as :meth:`call` does; above all, there is no identity.
        """
        return self._asked(lambda: self._signed(url, body, headers), purpose)

    def forget(self) -> None:
        """Drop sockets and identity, without touching them: a parent process may use them."""
        self._client = None

    def close(self) -> None:
        """Close the sockets."""
        if self._client is not None:
            self._client.close()
        self._client = None

    def _asked(self, ask: Callable[[], Any], purpose: str) -> Any:
        failure: CredentialsError
        try:
            with unlogged(*_TALKATIVE):
                return ask()
        except CredentialsError:
            raise
        except Exception as error:  # noqa: BLE001 - botocore's own, or what it lets through
            failure = explained(error, purpose, self._place.timeout)
        raise failure

    def _signed(self, url: str, body: str, headers: Mapping[str, str]) -> Any:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        request = AWSRequest("POST", url, headers=dict(headers), data=body)
        SigV4Auth(self._keys(), self._service, self._place.region).add_auth(request)
        return request

    def _keys(self) -> Any:
        from botocore.credentials import ReadOnlyCredentials
        from botocore.exceptions import NoCredentialsError

        session = self._session()
        if self._place.role is not None:
            assumed, _ = self._assumed(session, self._place.role)
            return ReadOnlyCredentials(*assumed.values())
        found = session.get_credentials()
        if found is None:
            raise NoCredentialsError
        return found.get_frozen_credentials()

    def _session(self) -> Any:
        place = self._place
        return _import_boto3().Session(profile_name=place.profile, region_name=place.region)

    def _connected(self) -> Any:
        if self._client is None or self._clock() > self._good_until:
            self.close()  # a role that has ended
            place = self._place
            session = self._session()
            identity: dict[str, Any] = {}
            if place.role is not None:
                identity, self._good_until = self._assumed(session, place.role)
            self._client = session.client(
                self._service, endpoint_url=place.endpoint, config=self._config(), **identity
            )
        return self._client

    def _assumed(self, session: Any, role: AssumedRole) -> tuple[dict[str, Any], float]:
        """Return the role's keys, and until when to use them."""
        asked = {"RoleArn": role.arn, "RoleSessionName": role.session_name}
        if role.external_id is not None:
            asked["ExternalId"] = role.external_id
        sts = session.client("sts", config=self._config())
        try:
            keys = sts.assume_role(**asked)["Credentials"]
        finally:
            sts.close()
        found = {
            "aws_access_key_id": keys["AccessKeyId"],
            "aws_secret_access_key": keys["SecretAccessKey"],
            "aws_session_token": keys["SessionToken"],
        }
        return found, keys["Expiration"].timestamp() - _ROLE_MARGIN

    def _config(self) -> Any:
        from botocore.config import Config

        connect, read = self._place.timeout
        return Config(
            connect_timeout=connect,
            read_timeout=read,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        )


def _import_boto3() -> Any:
    try:
        import boto3
    except ImportError as error:
        raise AdapterNotInstalled(
            "adapters 'aws' and 'rds_iam', and Vault's AWS login, need boto3:"
            " run pip install 'channels-pg-secrets[aws]'"
        ) from error
    return boto3
