"""The errors a channel layer raises that are not Channels' own."""

from __future__ import annotations

from typing import ClassVar

from django.core.exceptions import ImproperlyConfigured


class ChannelLayerUnavailable(ConnectionError):
    """The database did not take the message in time; it may still arrive."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (self.__doc__ or "").splitlines()[0])


class LayerMisconfigured(ImproperlyConfigured):
    """A setting of a channel layer is wrong.

    ``id`` is that of the system check which reports the same mistake, ``hint`` says how to mend
    it. The message names the setting and what was expected, and never a secret value.
    """

    id = "channels_pg_secrets.E003"
    #: What the system check says where the raiser knows nothing better.
    usual_hint: ClassVar[str] = "Change it as the message says; see the settings reference."

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message} {hint}" if hint else message)
        self.message = message
        self.hint = hint or self.usual_hint


class UnknownEngine(LayerMisconfigured):
    """``ENGINE`` names nothing that can be found."""

    id = "channels_pg_secrets.E001"


class UnknownSetting(LayerMisconfigured):
    """A key of ``CONFIG`` is not known to the engine."""

    id = "channels_pg_secrets.E002"


class WrongValue(LayerMisconfigured):
    """The value of a key is of the wrong kind."""

    id = "channels_pg_secrets.E003"


class EngineDisagreement(LayerMisconfigured):
    """``ENGINE`` and ``BACKEND``, or ``ENGINE`` in two places, contradict each other."""

    id = "channels_pg_secrets.E004"


class MissingPackage(LayerMisconfigured):
    """A setting or an engine needs a package that is not installed; the hint has the command."""

    id = "channels_pg_secrets.E006"


class UnsuitableEngine(LayerMisconfigured):
    """``ENGINE`` was found, but is not PostgreSQL or cannot be imported."""

    id = "channels_pg_secrets.E007"
    usual_hint = "Mend what ENGINE names, install what it needs, or name another engine."


class UnsuitableAlias(LayerMisconfigured):
    """``USING`` names no usable alias of ``DATABASES``."""

    id = "channels_pg_secrets.E008"


class DatabaseMisconfigured(LayerMisconfigured):
    """An alias of ``DATABASES`` with our backend has settings that cannot work."""

    id = "channels_pg_secrets.E009"
