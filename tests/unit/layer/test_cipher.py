"""Encryption of message bodies."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from channels_pg_secrets.errors import ChannelLayerUnavailable
from channels_pg_secrets.layer.cipher import Cipher, SourcedCipher, UnknownKey
from pg_secrets.credentials import Credentials
from pg_secrets.errors import CredentialsDenied
from pg_secrets.source import CredentialSource
from pg_secrets.testing.adapter import ScriptedAdapter


@pytest.mark.parametrize("keys", [None, [], ()])
def test_without_keys_bytes_pass_through(keys: Any) -> None:
    """No keys, no change."""
    cipher = Cipher(keys)
    assert cipher.ready
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


def store(*passwords: str) -> tuple[ScriptedAdapter, SourcedCipher]:
    """A store that holds these keys one after the other, and a cipher that follows it."""
    adapter = ScriptedAdapter([Credentials(password=password) for password in passwords])
    return adapter, SourcedCipher(CredentialSource(adapter, ttl=3600, background=False))


async def test_keys_from_a_store_are_fetched_once() -> None:
    """With the first message that needs one; afterwards they come from memory."""
    adapter, cipher = store("new")
    before = cipher.ready
    with pytest.raises(ChannelLayerUnavailable):
        cipher.encrypt(b"data")
    await cipher.load()
    assert (before, cipher.ready) == (False, True)
    assert Cipher(["new"]).decrypt(cipher.encrypt(b"data")) == b"data"
    assert adapter.fetches == 1


async def test_a_list_in_the_store_is_a_list_of_keys() -> None:
    """The first encrypts, as in the settings."""
    _, cipher = store('["new", "old"]')
    await cipher.load()
    assert cipher.decrypt(Cipher(["old"]).encrypt(b"data")) == b"data"
    assert Cipher(["new"]).decrypt(cipher.encrypt(b"data")) == b"data"


async def test_what_a_replaced_key_encrypted_stays_readable() -> None:
    """Others may not have heard yet that it was replaced."""
    _, cipher = store("old", "new")
    await cipher.load()
    cipher.source.refresh()
    assert Cipher(["new"]).decrypt(cipher.encrypt(b"data")) == b"data"
    assert cipher.decrypt(Cipher(["old"]).encrypt(b"data")) == b"data"


async def test_a_new_key_is_asked_for_once() -> None:
    """What came before the store's latest answer is not worth another question."""
    adapter, cipher = store("old", "new")
    await cipher.load()
    with pytest.raises(UnknownKey):
        cipher.decrypt(Cipher(["new"]).encrypt(b"data"))
    arrived = time.monotonic()
    await cipher.learn(arrived)
    assert cipher.decrypt(Cipher(["new"]).encrypt(b"data")) == b"data"
    await cipher.learn(arrived)
    assert adapter.fetches == 2


@pytest.mark.parametrize("secret", ["[]", '["a", 1]', '["s3cret"', "[null]"])
async def test_a_secret_that_is_no_key_is_named_without_it(secret: str) -> None:
    """The error says what is expected, and nothing of what was found."""
    _, cipher = store(secret)
    with pytest.raises(ChannelLayerUnavailable, match="a key, or a JSON list of keys") as caught:
        await cipher.load()
    assert "s3cret" not in str(caught.value)


async def test_keys_of_before_are_used_on_when_the_new_ones_are_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A mistake in the store costs no message; it is said once."""
    _, cipher = store("old", "[]")
    await cipher.load()
    cipher.source.refresh()
    for _ in range(2):
        assert Cipher(["old"]).decrypt(cipher.encrypt(b"data")) == b"data"
    assert caplog.text.count("The keys of before are used on") == 1


async def test_no_store_no_key() -> None:
    """The error names the setting and what the store said."""
    adapter = ScriptedAdapter(CredentialsDenied("permission denied"))
    cipher = SourcedCipher(CredentialSource(adapter, background=False))
    with pytest.raises(ChannelLayerUnavailable, match="symmetric_encryption_keys: Cred"):
        await cipher.load()
