"""Credentials from AWS Secrets Manager, through boto3."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar

from pg_secrets.adapter import CredentialAdapter
from pg_secrets.aws.client import AwsClient, AwsPlace
from pg_secrets.credentials import Credentials
from pg_secrets.errors import CredentialsError, CredentialsInvalid, CredentialsNotFound
from pg_secrets.fields import FieldMap
from pg_secrets.options import Options
from pg_secrets.parsing import decoded, parse_secret
from pg_secrets.redaction import stripping

CURRENT, PENDING, PREVIOUS = "AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"
#: Seconds after which the date of the next rotation is asked for again.
_SCHEDULE_TTL = 3600.0


class AwsAdapter(CredentialAdapter):
    """Reads one secret from AWS Secrets Manager; needs the extra ``aws``.

    Which secret:

    ``SECRET`` (string)
        Its name or ARN.
    ``VERSION_ID`` (string, default: none)
        Pins one version.
    ``VERSION_STAGE`` (string, default ``"AWSCURRENT"``)
        Another staging label.
    ``FIELDS`` (mapping of libpq keywords to the secret's keys)
        What to take of a JSON object. By default RDS' own layout: ``username``, ``password``, and
        where they are there ``host``, ``port``, ``dbname``. A secret that is no JSON object is
        taken for the bare password, or for a ``postgresql://`` URL.
    ``TRY_OTHER_STAGES`` (bool, default False)
        After the database refused a login, try ``AWSPENDING``, then ``AWSPREVIOUS``: where one user
        is rotated in place, the database changes before ``AWSCURRENT`` moves.

    As whom, where:

    ``REGION``, ``PROFILE`` (strings, default: boto3's own)
        AWS region, and the profile in AWS' configuration files. Keys come from where boto3 finds
        them: variables, files, containers, instances, web identity.
    ``ROLE_ARN`` (string), with ``ROLE_SESSION_NAME`` (default ``"pg_secrets"``), ``EXTERNAL_ID``
        A role to assume first; assumed again five minutes before it ends.
    ``ENDPOINT`` (URL, default: AWS' own)
        Another address of Secrets Manager, such as a VPC endpoint.
    ``CONNECT_TIMEOUT`` (seconds, default 3), ``TIMEOUT`` (seconds, default 5)
        How long connecting, and each wait for an answer, may take; a request is tried twice.

    With ``secretsmanager:DescribeSecret`` allowed, the date of the next rotation is known and the
    secret is read again just then; without it the TTL decides. Safe to use from several threads,
    one request at a time, and after a fork.
    """

    name: ClassVar[str] = "aws"

    def __init__(
        self,
        client: AwsClient,
        secret: str,
        *,
        version_id: str | None = None,
        stage: str = CURRENT,
        fields: FieldMap | None = None,
        try_other_stages: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._secret = secret
        self._version_id = version_id
        self._stage = stage
        self._fields = fields
        self._others = (PENDING, PREVIOUS) if try_other_stages else ()
        self._clock = clock
        self._refused: set[str] = set()
        self._rotates_at: float | None = None
        self._scheduled_until = -1.0

    def __repr__(self) -> str:
        return f"<AwsAdapter {self._secret} {self._client!r}>"

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], *, clock: Callable[[], float] = time.time
    ) -> AwsAdapter:
        """Build from settings; nothing is sent.

        Raises:
            AdapterMisconfigured: a key is unknown, missing or of the wrong kind.
            AdapterNotInstalled: boto3 is not installed.
        """
        options = Options(config, adapter="aws")
        secret = options.text("SECRET")
        version_id = options.text("VERSION_ID", None)
        stage = options.text("VERSION_STAGE", None)
        others = options.flag("TRY_OTHER_STAGES", False)
        fields = FieldMap.from_options(options) if "FIELDS" in options else None
        place = AwsPlace.from_options(options)
        options.finish()
        if version_id is not None and stage is not None:
            raise options.error("VERSION_STAGE", "excludes VERSION_ID: give one of them")
        if others and (version_id is not None or stage is not None):
            raise options.error("TRY_OTHER_STAGES", "excludes a pinned VERSION_ID or VERSION_STAGE")
        return cls(
            AwsClient(place, "secretsmanager", clock=clock),
            secret,
            version_id=version_id,
            stage=stage or CURRENT,
            fields=fields,
            try_other_stages=others,
            clock=clock,
        )

    @stripping
    def fetch(self) -> Credentials:
        """Ask Secrets Manager for the secret.

        Raises:
            CredentialsUnavailable: AWS is away, slow, or wants fewer requests; try again.
            CredentialsDenied: AWS refuses who we are, what we ask, or the use of the KMS key.
            CredentialsNotFound: there is no such secret, version or stage, or it is to be deleted.
            CredentialsInvalid: the secret lacks a field or is of no known format.
            AdapterMisconfigured: there is no such profile, or no region.
        """
        found = self._read(self._stage)
        other = self._not_refused() if found.fingerprint in self._refused else None
        if other is None:
            self._refused.clear()  # it is new, or all were tried: begin again
        else:
            found = other
        return found.replace(refresh_at=self._next_rotation())

    def rejected(self, credentials: Credentials) -> None:
        """Note that the database refused this login: another stage may hold the one it takes."""
        if self._others:
            self._refused.add(credentials.fingerprint)

    def policy(self) -> str:
        """Return the statement that an IAM policy has to hold."""
        arn = self._secret if self._secret.startswith("arn:") else _any_arn(self._secret)
        actions = '"secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"'
        return (
            f'{{"Effect": "Allow", "Action": [{actions}], "Resource": "{arn}"}}'
            " (and kms:Decrypt on its key, where that is one of your own)"
        )

    def forked(self) -> None:
        """Leave the parent's sockets alone."""
        self._client.forget()

    def close(self) -> None:
        """Close the sockets."""
        self._client.close()

    def _not_refused(self) -> Credentials | None:
        for stage in self._others:
            try:
                other = self._read(stage)
            except CredentialsNotFound:
                continue
            if other.fingerprint not in self._refused:
                return other
        return None

    def _read(self, stage: str) -> Credentials:
        which = {"VersionId": self._version_id} if self._version_id else {"VersionStage": stage}
        place = f"AWS secret {self._secret} ({next(iter(which.values()))})"
        answer = self._client.call("get_secret_value", place, SecretId=self._secret, **which)
        text = _text(answer, place)
        found = parse_secret(text, place, self._fields)
        return found.replace(version=answer.get("VersionId"))

    def _next_rotation(self) -> float | None:
        """Return when the secret will be rotated, in epoch seconds, as far as that is known."""
        if self._version_id is not None or self._stage != CURRENT:
            return None
        now = self._clock()
        if now < min(self._scheduled_until, self._rotates_at or self._scheduled_until):
            return self._rotates_at
        self._scheduled_until = now + _SCHEDULE_TTL
        self._rotates_at = None
        try:
            answer = self._client.call(
                "describe_secret", f"AWS secret {self._secret}", SecretId=self._secret
            )
        except CredentialsError:
            return None  # a permission that may be missing; the TTL will do
        date = answer.get("NextRotationDate")
        if isinstance(date, datetime) and answer.get("RotationEnabled"):
            self._rotates_at = date.timestamp()
        return self._rotates_at


def _any_arn(name: str) -> str:
    # Secrets Manager puts six characters of its own behind the name.
    return f"arn:aws:secretsmanager:*:*:secret:{name}-??????"


def _text(answer: Mapping[str, Any], place: str) -> str:
    text, binary = answer.get("SecretString"), answer.get("SecretBinary")
    if isinstance(text, str):
        return text
    if not isinstance(binary, bytes):
        raise CredentialsInvalid(f"{place}: the answer holds no secret")
    return decoded(binary, place)
