"""Credentials from Google Cloud's Secret Manager, through google-cloud-secret-manager."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pg_secrets.adapter import CredentialAdapter
from pg_secrets.credentials import Credentials
from pg_secrets.errors import (
    AdapterMisconfigured,
    AdapterNotInstalled,
    CredentialsError,
    CredentialsUnavailable,
)
from pg_secrets.fields import FieldMap
from pg_secrets.gcp.errors import explained
from pg_secrets.gcp.identity import service_account_key
from pg_secrets.options import Options
from pg_secrets.parsing import decoded, parse_secret
from pg_secrets.redaction import stripping
from pg_secrets.unlogged import unlogged

TIMEOUT = 5.0
_PATH = re.compile(
    r"projects/(?P<project>[^/]+)(/locations/(?P<location>[^/]+))?/secrets/(?P<secret>[^/]+)"
    r"(/versions/(?P<version>[^/]+))?"
)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
_SERVICE = "google.cloud.secretmanager_v1.services.secret_manager_service"
#: The loggers that show answers at DEBUG, and with them the secret.
_TALKATIVE = (
    f"{_SERVICE}.transports.grpc",
    f"{_SERVICE}.transports.rest",
    f"{_SERVICE}.client",
)


@dataclass(frozen=True)
class SecretVersion:
    """One version of one secret, global or regional."""

    project: str
    secret: str
    version: str = "latest"
    location: str | None = None

    @property
    def path(self) -> str:
        """The resource name that Google's API takes."""
        where = f"/locations/{self.location}" if self.location else ""
        return f"projects/{self.project}{where}/secrets/{self.secret}/versions/{self.version}"

    @classmethod
    def from_options(cls, options: Options) -> SecretVersion:
        """Read ``SECRET``, ``PROJECT``, ``LOCATION`` and ``VERSION``.

        Raises:
            AdapterMisconfigured: one is missing, of no form that Google knows, or given twice.
        """
        secret = options.text("SECRET")
        given = {
            "project": options.text("PROJECT", None),
            "location": options.text("LOCATION", None),
            "version": _version(options),
        }
        if "/" in secret:
            match = _PATH.fullmatch(secret)
            if match is None:
                form = "projects/P[/locations/L]/secrets/S[/versions/V]"
                raise options.error("SECRET", f"expected a name, or a path {form}")
            for part, value in match.groupdict().items():
                if value is not None and given.get(part) is not None:
                    raise options.error(part.upper(), "is given, and stands in SECRET's path too")
            given |= {part: value for part, value in match.groupdict().items() if value is not None}
            secret = str(given.pop("secret"))
        elif not _NAME.fullmatch(secret):
            raise options.error("SECRET", "expected letters, digits, hyphens and underscores")
        project = given["project"] or os.environ.get("GOOGLE_CLOUD_PROJECT")
        if not project:
            raise options.error("PROJECT", "is required: give it, or set GOOGLE_CLOUD_PROJECT")
        return cls(project, secret, given["version"] or "latest", given["location"])


class GcpAdapter(CredentialAdapter):
    """Reads one secret from Google Cloud's Secret Manager; needs the extra ``gcp``.

    Which secret:

    ``SECRET`` (string)
        Its name, or its whole path ``projects/P/secrets/S`` with or without ``/versions/V``.
    ``PROJECT`` (string, default ``GOOGLE_CLOUD_PROJECT``)
        The project's id or number.
    ``VERSION`` (integer or string, default ``"latest"``)
        A number, an alias, or ``latest``, which Google does not move off a disabled version.
    ``LOCATION`` (string, default: none)
        The region of a regional secret, asked for at that region's own endpoint.
    ``FIELDS`` (mapping of libpq keywords to the secret's keys)
        What to take of a JSON object. By default ``username`` or ``user``, ``password``, and where
        they are there ``host``, ``port``, ``dbname`` or ``database``. A secret that is no JSON
        object is taken for the bare password, or for a ``postgresql://`` URL.

    As whom, where:

    ``CREDENTIALS_FILE`` (path, default: Application Default Credentials)
        A service account's key. Workload identities and all else come through Application Default
        Credentials, whose file ``GOOGLE_APPLICATION_CREDENTIALS`` names.
    ``TRANSPORT`` (``"grpc"`` or ``"rest"``, default ``"grpc"``)
        Take ``rest`` where processes fork after the first use: gRPC's threads do not survive that.
    ``ENDPOINT`` (string, default: Google's own)
        ``host:port``, such as a private endpoint. With ``http://`` before it, an emulator that is
        asked without TLS and without an identity.
    ``TIMEOUT`` (seconds, default 5)
        How long an answer may take, with what is tried again.

    The checksum that comes with each value is verified. Safe to use from several threads, one
    request at a time.
    """

    name: ClassVar[str] = "gcp"

    def __init__(
        self,
        secret: SecretVersion,
        *,
        fields: FieldMap | None = None,
        credentials_file: str | None = None,
        transport: str = "grpc",
        endpoint: str | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        _import_secretmanager()
        self._secret = secret
        self._fields = fields
        self._credentials_file = credentials_file
        self._transport = transport
        self._endpoint = endpoint
        self._timeout = timeout
        self._client: Any = None

    def __repr__(self) -> str:
        return f"<GcpAdapter {self._secret.path}>"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> GcpAdapter:
        """Build from settings; nothing is sent.

        Raises:
            AdapterMisconfigured: a key is unknown, missing or of the wrong kind.
            AdapterNotInstalled: google-cloud-secret-manager is not installed.
        """
        options = Options(config, adapter="gcp")
        secret = SecretVersion.from_options(options)
        fields = FieldMap.from_options(options) if "FIELDS" in options else None
        file = options.path("CREDENTIALS_FILE", None)
        transport = options.choice("TRANSPORT", ("grpc", "rest"), "grpc")
        endpoint = options.text("ENDPOINT", None)
        timeout = options.seconds("TIMEOUT", TIMEOUT, minimum=0.05, maximum=60)
        options.finish()
        if endpoint is not None and not _is_endpoint(endpoint):
            raise options.error("ENDPOINT", "expected host:port, or http://host:port without TLS")
        return cls(
            secret,
            fields=fields,
            credentials_file=None if file is None else str(file),
            transport=transport,
            endpoint=endpoint,
            timeout=timeout,
        )

    @stripping
    def fetch(self) -> Credentials:
        """Ask Secret Manager for the secret.

        Raises:
            CredentialsUnavailable: Google is away, slow, or wants fewer requests, or what arrived
                does not fit its checksum; try again.
            CredentialsDenied: Google refuses who we are or what we ask.
            CredentialsNotFound: there is no such secret or version, or it is disabled.
            CredentialsInvalid: the secret lacks a field or is of no known format.
            AdapterMisconfigured: the identity's file cannot be used.
        """
        place = f"GCP secret {self._secret.path}"
        answer = self._access(place)
        data = bytes(answer.payload.data)
        _verify(data, answer.payload, place)
        found = parse_secret(decoded(data, place), place, self._fields)
        return found.replace(version=str(answer.name).rpartition("/")[2] or None)

    def forked(self) -> None:
        """Leave the parent's channel alone."""
        self._client = None

    def policy(self) -> str:
        """Return the command that lets a service account read the secret."""
        return (
            f"gcloud secrets add-iam-policy-binding {self._secret.secret}"
            f" --project={self._secret.project} --role=roles/secretmanager.secretAccessor"
            " --member=serviceAccount:<who asks>"
        )

    def close(self) -> None:
        """Close the channel."""
        client, self._client = self._client, None
        if client is not None:
            client.transport.close()

    def _access(self, place: str) -> Any:
        from google.api_core import exceptions
        from google.api_core.retry import Retry, if_exception_type

        # The client's own retry takes a minute, whatever time-out it is given.
        again = Retry(
            predicate=if_exception_type(exceptions.ServiceUnavailable),
            initial=0.1,
            maximum=1.0,
            timeout=self._timeout,
        )
        failure: CredentialsError
        try:
            with unlogged(*_TALKATIVE):
                return self._connected().access_secret_version(
                    name=self._secret.path, retry=again, timeout=self._timeout
                )
        except CredentialsError:
            raise
        except Exception as error:  # noqa: BLE001 - Google's own, or what they let through
            failure = explained(error, place, self._timeout)
        raise failure

    def _connected(self) -> Any:
        if self._client is None:
            secretmanager = _import_secretmanager()
            self._client = secretmanager.SecretManagerServiceClient(**self._how())
        return self._client

    def _how(self) -> dict[str, Any]:
        plain = self._endpoint is not None and self._endpoint.startswith("http://")
        if self._endpoint is not None and plain and self._transport == "grpc":
            return {"transport": _plain_transport(self._endpoint.removeprefix("http://"))}
        options: dict[str, Any] = {}
        if self._endpoint is not None:
            options["api_endpoint"] = self._endpoint
        elif self._secret.location is not None:
            options["api_endpoint"] = f"secretmanager.{self._secret.location}.rep.googleapis.com"
        how: dict[str, Any] = {"transport": self._transport, "client_options": options}
        if plain:
            how["credentials"] = _nobody()
        elif self._credentials_file is not None:
            option = "adapter 'gcp', option CREDENTIALS_FILE"
            how["credentials"] = service_account_key(self._credentials_file, option)
        return how


def _version(options: Options) -> str | None:
    if "VERSION" not in options:
        return None
    try:
        return str(options.integer("VERSION", minimum=1))
    except AdapterMisconfigured:
        alias = options.text("VERSION")
    if not _NAME.fullmatch(alias):
        raise options.error("VERSION", "expected a number, an alias, or 'latest'")
    return alias


def _is_endpoint(endpoint: str) -> bool:
    host = endpoint.removeprefix("http://")
    return bool(re.fullmatch(r"[A-Za-z0-9.-]+(:\d{1,5})?", host))


def _verify(data: bytes, payload: Any, place: str) -> None:
    """Raise CredentialsUnavailable if the value was damaged on its way (CRC32C, RFC 3720)."""
    import google_crc32c

    if "data_crc32c" in payload and int(payload.data_crc32c) != google_crc32c.value(data):
        raise CredentialsUnavailable(f"{place}: the value does not fit its checksum")


def _nobody() -> Any:
    from google.auth.credentials import AnonymousCredentials

    return AnonymousCredentials()


def _plain_transport(address: str) -> Any:
    import grpc
    from google.cloud.secretmanager_v1.services.secret_manager_service.transports import (
        SecretManagerServiceGrpcTransport,
    )

    return SecretManagerServiceGrpcTransport(channel=grpc.insecure_channel(address))


def _import_secretmanager() -> Any:
    try:
        with warnings.catch_warnings():
            # Where its C part is missing it says that it is slow: not for the size of a login.
            warnings.filterwarnings("ignore", "As the c extension", RuntimeWarning)
            import google_crc32c  # noqa: F401 - needed later, said now
        from google.cloud import secretmanager_v1
    except ImportError as error:
        raise AdapterNotInstalled(
            "adapter 'gcp' needs google-cloud-secret-manager:"
            " run pip install 'channels-pg-secrets[gcp]'"
        ) from error
    return secretmanager_v1
