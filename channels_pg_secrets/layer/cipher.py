"""Encryption of messages between processes, as in channels_redis."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from channels_pg_secrets.config import check_layer_options
from channels_pg_secrets.errors import ChannelLayerUnavailable, MissingPackage
from pg_secrets.adapter import CredentialAdapter
from pg_secrets.credentials import Credentials
from pg_secrets.errors import CredentialsError, CredentialsInvalid
from pg_secrets.registry import SourceConfig, credential_source
from pg_secrets.source import CredentialSource

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

logger = logging.getLogger("channels_pg_secrets.layer")

#: What ``symmetric_encryption_keys`` may be.
Keys = Sequence[str | bytes] | SourceConfig | None

#: Keys that are kept for reading after the store has replaced them.
_KEPT = 8


class Sealed(bytes):
    """A message that no key decrypted when it arrived: its receiver may have another by then."""

    #: Monotonic times: of its arrival, and of its expiry.
    arrived: float
    expires: float


class UnknownKey(ValueError):
    """No key that is held decrypts a message; the store may have another one by now."""


class Cipher:
    """Encrypts with the first key and decrypts with any; without keys it passes bytes through.

    Keys are strings or bytes of any length; each becomes a Fernet key by SHA-256, as channels_redis
    does it. Thread-safe. Names of channels and groups are not encrypted.
    """

    #: Where the keys come from, if not from the settings.
    source: CredentialSource | None = None

    def __init__(self, keys: Sequence[str | bytes] | None = None) -> None:
        self._fernets = _fernets(keys) if keys else []

    @property
    def ready(self) -> bool:
        """There are keys, or none are wanted; else :meth:`load` gets them."""
        return True

    def encrypt(self, data: bytes) -> bytes:
        """Return what may travel."""
        return self._fernets[0].encrypt(data) if self._fernets else data

    def decrypt(self, data: bytes) -> bytes:
        """Return what was encrypted. Raises UnknownKey where no key fits."""
        if not self._fernets:
            return data
        from cryptography.fernet import InvalidToken

        for fernet in self._fernets:
            try:
                return fernet.decrypt(data)
            except InvalidToken:
                continue
        raise UnknownKey("no symmetric_encryption_keys entry decrypts it")

    async def load(self) -> None:
        """Get keys before the first message is encrypted."""

    async def learn(self, since: float) -> None:
        """Look for a key that was not known at ``since``, a monotonic time."""


class SourcedCipher(Cipher):
    """The same with keys from a secret store, which may replace them at any time.

    The secret's password is a key, or a JSON list of keys of which the first encrypts. What was
    encrypted with a key that this process has held stays readable; what comes with a new one makes
    it ask the store.
    """

    source: CredentialSource

    def __init__(self, source: CredentialSource) -> None:
        super().__init__()
        import_fernet()
        self.source = source
        self._generation = 0
        #: The generation whose keys are none, once that was said.
        self._refused = 0
        #: When the store last answered, so that what came before is not asked for again.
        self._learned = -1.0
        self._lock = threading.Lock()

    @property
    def ready(self) -> bool:
        """There is a key."""
        return bool(self._fernets)

    def encrypt(self, data: bytes) -> bytes:
        """Return what may travel; never asks the store. Raises where there is no key yet."""
        self._follow()
        if not self._fernets:
            raise ChannelLayerUnavailable("There is no symmetric_encryption_keys entry yet")
        return super().encrypt(data)

    def decrypt(self, data: bytes) -> bytes:
        """Return what was encrypted; never asks the store. Raises UnknownKey."""
        self._follow()
        if not self._fernets:
            raise UnknownKey("there is no symmetric_encryption_keys entry yet")
        return super().decrypt(data)

    async def load(self) -> None:
        """Get keys before the first message is encrypted.

        Raises:
            ChannelLayerUnavailable: the store gave none within ten seconds.
        """
        try:
            self._adopt(await self.source.aget())
        except CredentialsError as error:
            text = f"symmetric_encryption_keys: {type(error).__name__}: {error}"
            raise ChannelLayerUnavailable(text) from error

    async def learn(self, since: float) -> None:
        """Ask the store, unless it has answered since.

        Raises:
            CredentialsError: it gave no answer within ten seconds.
        """
        if since < self._learned:
            return
        asked = time.monotonic()
        self._adopt(await asyncio.to_thread(self.source.refresh))
        self._learned = asked

    def _follow(self) -> None:
        held = self.source.current
        if held is None or held.generation == self._generation:
            return
        try:
            self._adopt(held)
        except CredentialsInvalid as error:
            if self._refused != held.generation:
                self._refused = held.generation
                logger.error("The keys of before are used on: %s", error)

    def _adopt(self, credentials: Credentials) -> None:
        with self._lock:
            if credentials.generation == self._generation:
                return
            new = _fernets(_keys(credentials))
            self._fernets = [*new, *self._fernets[:_KEPT]]
            self._generation = credentials.generation


def cipher_of(keys: Keys) -> Cipher:
    """Return the cipher for a value of ``symmetric_encryption_keys``; asks no store.

    Raises:
        WrongValue: it is neither a list of keys nor says where they come from.
        MissingPackage: the package ``cryptography`` is not installed.
        AdapterMisconfigured, AdapterNotInstalled: the store's settings are wrong.
    """
    check_layer_options({"symmetric_encryption_keys": keys})
    if is_source(keys):
        return SourcedCipher(credential_source(keys))  # type: ignore[arg-type]
    return Cipher(keys)  # type: ignore[arg-type]


def is_source(keys: object) -> bool:
    """Say whether a value of ``symmetric_encryption_keys`` says where the keys come from."""
    return isinstance(keys, (Mapping, CredentialSource, CredentialAdapter))


def _keys(credentials: Credentials) -> list[str]:
    text = credentials.password or ""
    keys: object = [text]
    if text.lstrip().startswith("["):
        try:
            keys = json.loads(text)
        except ValueError:
            keys = None  # the parser's error quotes the text
    if isinstance(keys, list) and keys and all(isinstance(key, str) and key for key in keys):
        return keys
    raise CredentialsInvalid(
        "symmetric_encryption_keys: the secret's password must be a key, or a JSON list of keys"
    )


def _fernets(keys: Sequence[str | bytes]) -> list[Fernet]:
    check_layer_options({"symmetric_encryption_keys": keys})
    fernet = import_fernet()
    found = []
    for key in keys:
        data = key.encode() if isinstance(key, str) else key
        found.append(fernet(base64.urlsafe_b64encode(hashlib.sha256(data).digest())))
    return found


def import_fernet() -> type[Fernet]:
    """Return the class that encrypts. Raises MissingPackage."""
    try:
        from cryptography.fernet import Fernet
    except ImportError as error:
        raise MissingPackage(
            "CONFIG key 'symmetric_encryption_keys' needs the package 'cryptography', which is not"
            " installed.",
            hint="Run pip install 'channels-pg-secrets[crypto]'.",
        ) from error
    return Fernet
