"""Keeping secrets out of errors."""

from __future__ import annotations

import pytest

from pg_secrets.errors import CredentialsDenied, CredentialsError
from pg_secrets.redaction import redact, scrubbed, stripping


@pytest.mark.parametrize(
    ("text", "secrets", "expected"),
    [
        ("token abc refused", ["abc"], "token *** refused"),
        ("abcd and abc", ["abc", "abcd"], "*** and ***"),
        ("dial postgresql://app:pw@h:5/d failed", [], "dial postgresql://***@h:5/d failed"),
        ('bad password="pw" for app', [], "bad password=*** for app"),
        ("Secret_Id: pw, more", [], "Secret_Id: *** more"),
        ("two\n lines", ["", "x"], "two lines"),
    ],
)
def test_redact(text: str, secrets: list[str], expected: str) -> None:
    """Known secrets, URL user parts and assignments are blotted out, the rest stays."""
    assert redact(text, secrets) == expected


def test_redact_shortens() -> None:
    """A long text is cut to 300 characters."""
    assert len(redact("x" * 1000)) == 300


def chained() -> CredentialsError:
    """Return an error with an explicit cause, raised while another one was handled."""
    try:
        try:
            raise KeyError("context")
        except KeyError:
            try:
                try:
                    raise ValueError("inner")
                except ValueError as inner:
                    raise OSError("cause") from inner
            except OSError as cause:
                raise CredentialsError("all") from cause
    except CredentialsError as error:
        return error


def test_scrubbed_keeps_bare_causes() -> None:
    """Causes are kept without frames, and contexts are not kept."""
    error: BaseException | None = scrubbed(chained())
    said = []
    while error is not None:
        said.append(str(error))
        assert error.__traceback__ is None
        assert error.__context__ is None
        error = error.__cause__
    assert said == ["all", "cause", "inner"]


def test_scrubbed_reaches_a_context_beside_a_cause() -> None:
    """What was being handled loses its frames too, though the cause is another error."""
    error = CredentialsError("all")
    error.__context__ = context = chained()
    error.__cause__ = OSError("clean")
    scrubbed(error)
    assert context.__traceback__ is None


def test_stripping_leaves_other_errors_alone() -> None:
    """Only the family is scrubbed: a programming error keeps its traceback."""

    @stripping
    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(CredentialsDenied) as denied:
        fail(CredentialsDenied("no"))
    with pytest.raises(TypeError) as bug:
        fail(TypeError("bug"))
    assert len(denied.traceback) == 2
    assert len(bug.traceback) == 3
