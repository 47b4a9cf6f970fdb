"""Encryption of message bodies."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from channels_pg_secrets.layer.cipher import Cipher


@pytest.mark.parametrize("keys", [None, [], ()])
def test_without_keys_bytes_pass_through(keys: Any) -> None:
    """No keys, no change."""
    cipher = Cipher(keys)
    assert not cipher.active
    assert cipher.encrypt(b"data") == cipher.decrypt(b"data") == b"data"


def test_keys_may_be_text_or_bytes_of_any_length() -> None:
    """Text and its UTF-8 bytes are the same key."""
    for key in ("k", "ключ" * 100):
        assert Cipher([key]).decrypt(Cipher([key.encode()]).encrypt(b"data")) == b"data"


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    """With [new, old] old messages open, and new ones need the new key."""
    both = Cipher(["new", "old"])
    assert both.decrypt(Cipher(["old"]).encrypt(b"data")) == b"data"
    assert Cipher(["new"]).decrypt(both.encrypt(b"data")) == b"data"
    with pytest.raises(ValueError, match="symmetric_encryption_keys"):
        Cipher(["old"]).decrypt(both.encrypt(b"data"))


@pytest.mark.parametrize("data", [b"", b"plain", b"gAAAAA", b"\xff" * 100])
def test_what_was_not_encrypted_is_refused(data: bytes) -> None:
    """Anything that no key made raises ValueError."""
    with pytest.raises(ValueError, match="symmetric_encryption_keys"):
        Cipher(["key"]).decrypt(data)


@pytest.mark.parametrize("keys", ["a-secret", b"a-secret", ["a", 1], {"a-secret": 1, 2: 3}])
def test_wrong_kinds_of_keys_are_named_without_them(keys: Any) -> None:
    """A setting that is no list of strings is an error that does not show it."""
    with pytest.raises(ImproperlyConfigured, match="symmetric_encryption_keys") as caught:
        Cipher(keys)
    assert "a-secret" not in str(caught.value)


def test_nothing_shows_a_key() -> None:
    """Neither repr() nor the encrypted text shows a key or the content."""
    cipher = Cipher(["a-secret"])
    assert "a-secret" not in repr(cipher)
    assert b"content" not in cipher.encrypt(b"content")
