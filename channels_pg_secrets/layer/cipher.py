"""Encryption of messages between processes, as in channels_redis."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from channels_pg_secrets.config import check_layer_options
from channels_pg_secrets.errors import MissingPackage

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet


class Cipher:
    """Encrypts with the first key and decrypts with any; without keys it passes bytes through.

    Keys are strings or bytes of any length; each becomes a Fernet key by SHA-256, as channels_redis
    does it. Thread-safe. Names of channels and groups are not encrypted.
    """

    def __init__(self, keys: Sequence[str | bytes] | None) -> None:
        self._fernet = _fernet(keys) if keys else None

    @property
    def active(self) -> bool:
        """Messages are encrypted."""
        return self._fernet is not None

    def encrypt(self, data: bytes) -> bytes:
        """Return what may travel."""
        return data if self._fernet is None else self._fernet.encrypt(data)

    def decrypt(self, data: bytes) -> bytes:
        """Return what was encrypted. Raises ValueError where no key fits."""
        if self._fernet is None:
            return data
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(data)
        except InvalidToken:
            raise ValueError("no symmetric_encryption_keys entry decrypts it") from None


def _fernet(keys: Sequence[str | bytes]) -> MultiFernet:
    check_layer_options({"symmetric_encryption_keys": keys})
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError as error:
        raise MissingPackage(
            "CONFIG key 'symmetric_encryption_keys' needs the package 'cryptography', which is not"
            " installed.",
            hint="Run pip install 'channels-pg-secrets[crypto]'.",
        ) from error
    fernets = []
    for key in keys:
        data = key.encode() if isinstance(key, str) else key
        fernets.append(Fernet(base64.urlsafe_b64encode(hashlib.sha256(data).digest())))
    return MultiFernet(fernets)
