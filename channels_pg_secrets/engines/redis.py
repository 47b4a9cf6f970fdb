"""The Redis engine: channels_redis' layers, whose logins follow ``CREDENTIALS``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from channels_pg_secrets.config import LAYER_OPTIONS, check_layer_options, wrong
from channels_pg_secrets.engines.base import Engine
from channels_pg_secrets.errors import LayerMisconfigured, MissingPackage
from channels_pg_secrets.layer.cipher import import_fernet, is_source

if TYPE_CHECKING:
    from channels.layers import BaseChannelLayer

    from pg_secrets.source import CredentialSource

#: What only the core layer has: the other one keeps no message.
_QUEUEING = ("expiry", "group_expiry", "capacity", "channel_capacity")
#: What Redis counts in whole seconds.
_WHOLE = frozenset({"expiry", "group_expiry"})


class RedisEngine(Engine):
    """Builds channels_redis' core or pub/sub layer for Redis 6.2 or later.

    Connections log in with ``CREDENTIALS``, or with ``USER`` and ``PASSWORD``, and change to new
    credentials in place. One engine may be used from any thread; it connects to nothing itself.

    Raises:
        MissingPackage: channels_redis is missing, or ``cryptography`` for encryption keys.
        LayerMisconfigured: a setting is wrong; nothing has been sent yet.
    """

    settings: ClassVar[frozenset[str]] = frozenset(
        {"HOST", "PORT", "NAME", "USER", "PASSWORD", "OPTIONS", "LAYER", "hosts"}
    )
    #: Seconds for which a connection that was refused waits for other credentials.
    rejection_budget: ClassVar[float] = 10.0

    def __init__(
        self, config: Mapping[str, Any], credentials: CredentialSource | None = None
    ) -> None:
        super().__init__(config, credentials)
        if find_spec("channels_redis") is None:
            raise MissingPackage(
                "ENGINE 'redis' needs channels_redis, which is not installed.",
                hint="Run pip install 'channels-pg-secrets[redis]'",
            )
        self.layer: str = config.get("LAYER", "core")
        if self.layer not in ("core", "pubsub"):
            raise wrong("LAYER", self.layer, "'core' or 'pubsub'")
        self._check_options(self.config)
        from channels_pg_secrets.engines.redis_hosts import connection_keywords

        self._hosts = connection_keywords(
            self.config, self.source, patience=self.rejection_budget, core=self.layer == "core"
        )

    def known_settings(self) -> frozenset[str]:
        """Return the declared keys; ``send_timeout`` means nothing here."""
        return super().known_settings() - {"send_timeout"}

    def channel_layer(self, **options: Any) -> BaseChannelLayer:
        """Build the layer; ``options`` go over those in the settings.

        Raises:
            WrongValue: an option is of the wrong kind.
        """
        self._check_options(options)
        from channels_pg_secrets.engines.redis_layer import PubSubLayer, RedisChannelLayer

        kind = RedisChannelLayer if self.layer == "core" else PubSubLayer
        given = {
            key: value
            for key, value in {**self.config, **options}.items()
            if key in LAYER_OPTIONS and value is not None
        }
        for key in _WHOLE & given.keys():
            given[key] = int(given[key])
        layer: BaseChannelLayer = kind(hosts=self._hosts, **given)
        return layer

    def _check_options(self, options: Mapping[str, Any]) -> None:
        check_layer_options(options)
        keys = options.get("symmetric_encryption_keys")
        if is_source(keys):
            raise wrong("symmetric_encryption_keys", keys, "a list of keys with ENGINE 'redis'")
        if keys:
            import_fernet()
        for key in _QUEUEING:
            if key in options and self.layer == "pubsub":
                raise LayerMisconfigured(
                    f"CONFIG key {key!r} means nothing to LAYER 'pubsub', which queues without"
                    " bounds in the receiving process.",
                    hint="Leave it out, or use LAYER 'core'.",
                )
        for key in sorted(_WHOLE & options.keys()):
            if options[key] != int(options[key]):
                raise wrong(key, options[key], "a whole number of seconds with ENGINE 'redis'")
