"""The contract of an engine: settings and credentials in, a channel layer out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from channels_pg_secrets.config import COMMON_KEYS, LAYER_OPTIONS, check_keys
from channels_pg_secrets.guarded import GuardedDict

if TYPE_CHECKING:
    from channels.layers import BaseChannelLayer

    from pg_secrets.source import CredentialSource


class Engine(ABC):
    """Turns one alias of ``CHANNEL_LAYERS`` into a channel layer.

    Subclasses implement :meth:`channel_layer`. ``config`` is ``CONFIG`` without ``CREDENTIALS``;
    ``credentials`` is the source those name, or ``None``. Construction happens whenever Channels
    first asks for the layer, also during system checks and before a fork: it connects to nothing.

    ``settings`` declares the keys a subclass takes, in addition to those of its bases; a class
    that declares them gets every other key refused. One that does not declare any is handed
    unknown keys as they are, unless they look like a known one misspelt.

    Raises:
        UnknownSetting: ``config`` has a key that is not known.
    """

    settings: ClassVar[frozenset[str]] = COMMON_KEYS | LAYER_OPTIONS
    #: Whether ``CREDENTIALS`` are turned into a source for this engine.
    takes_credentials: ClassVar[bool] = True

    def __init__(
        self, config: Mapping[str, Any], credentials: CredentialSource | None = None
    ) -> None:
        check_keys(config, self.known_settings(), engine=self.name, strict=self.is_strict())
        self.config: Mapping[str, Any] = GuardedDict(config)
        self.source = credentials

    @abstractmethod
    def channel_layer(self, **options: Any) -> BaseChannelLayer:
        """Build the channel layer.

        ``options`` are the keys of ``CONFIG`` in lower case (``prefix``, ``expiry``, ``capacity``
        and the like), as they were given; absent ones mean the layer's own defaults.
        """

    @property
    def name(self) -> str:
        """What to call this engine in messages."""
        return type(self).__name__

    def known_settings(self) -> frozenset[str]:
        """Return the keys declared by this engine's class and its bases."""
        declared = (vars(base).get("settings", frozenset()) for base in type(self).__mro__)
        return frozenset().union(*declared)

    def is_strict(self) -> bool:
        """Say whether this very class declares its keys, and so wants all others refused."""
        return "settings" in vars(type(self))

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} engine>"
