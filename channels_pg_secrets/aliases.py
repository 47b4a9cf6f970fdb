"""``ENGINE`` at the top level of an alias of ``CHANNEL_LAYERS``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from channels import layers
from django.conf import settings

from channels_pg_secrets.errors import EngineDisagreement, WrongValue

BACKEND = "channels_pg_secrets.ChannelLayer"


def is_ours(alias: object) -> bool:
    """Say whether an alias is for us: by ``ENGINE``, by ``BACKEND``, or by having neither."""
    if not isinstance(alias, Mapping):
        # Nobody can use it, and nobody else would say so.
        return True
    return "ENGINE" in alias or alias.get("BACKEND", BACKEND) == BACKEND


def configured_layers() -> Mapping[str, Any]:
    """Return ``CHANNEL_LAYERS`` as it stands in the settings.

    Raises:
        WrongValue: it is no dict.
    """
    configured = getattr(settings, "CHANNEL_LAYERS", {})
    if not isinstance(configured, Mapping):
        raise WrongValue(f"CHANNEL_LAYERS must be a dict; found {type(configured).__name__}.")
    return configured


def normalised(name: str, alias: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an alias as Channels understands it, with ``BACKEND`` and ``CONFIG["ENGINE"]``.

    Raises:
        EngineDisagreement: ``ENGINE`` says one thing here and another there.
        WrongValue: the alias or its ``CONFIG`` is no dict, or it has a key of no meaning.
    """
    where = f"CHANNEL_LAYERS[{name!r}]"
    if not isinstance(alias, Mapping):
        raise WrongValue(f"{where} must be a dict; found {type(alias).__name__}.")
    if not is_ours(alias):
        return alias
    _check_backend(where, alias)
    known = {"ENGINE", "BACKEND", "CONFIG", "TEST_CONFIG"}
    unknown = sorted(str(key)[:50] for key in alias if key not in known | {"ROUTING"})
    if unknown:
        raise WrongValue(
            f"{where} has {', '.join(unknown)} beside CONFIG.",
            hint="Only ENGINE, BACKEND, CONFIG and TEST_CONFIG belong there; the rest goes into"
            " CONFIG.",
        )
    config = _config(where, alias, "CONFIG")
    if "ENGINE" in alias and config.get("ENGINE", alias["ENGINE"]) != alias["ENGINE"]:
        raise EngineDisagreement(
            f"{where} has ENGINE {alias['ENGINE']!r}, and its CONFIG has {config['ENGINE']!r}.",
            hint="Give ENGINE in one place.",
        )
    return {**alias, "BACKEND": BACKEND, **_configs(where, alias, config)}


def _configs(where: str, alias: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    given = {**config, **alias}
    engine = {"ENGINE": given["ENGINE"]} if "ENGINE" in given else {}
    found: dict[str, Any] = {"CONFIG": {**engine, **config}}
    if "TEST_CONFIG" in alias:
        # Another engine than in CONFIG is what TEST_CONFIG is for.
        found["TEST_CONFIG"] = {**engine, **_config(where, alias, "TEST_CONFIG")}
    return found


def _config(where: str, alias: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    config = alias.get(key, {})
    if not isinstance(config, Mapping):
        raise WrongValue(f"{where}[{key!r}] must be a dict; found {type(config).__name__}.")
    return config


def _check_backend(where: str, alias: Mapping[str, Any]) -> None:
    if "ENGINE" in alias and alias.get("BACKEND", BACKEND) != BACKEND:
        raise EngineDisagreement(
            f"{where} has ENGINE {alias['ENGINE']!r} and also BACKEND {alias['BACKEND']!r}.",
            hint=f"ENGINE goes with BACKEND {BACKEND!r}, or without any.",
        )


class Aliases(Mapping[str, Mapping[str, Any]]):
    """``CHANNEL_LAYERS`` with each alias normalised when it is looked at.

    One wrong alias so leaves the others usable.
    """

    def __init__(self, configured: Mapping[str, Any]) -> None:
        self._configured = configured

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        return normalised(name, self._configured[name])

    def __contains__(self, name: object) -> bool:
        return name in self._configured

    def __iter__(self) -> Iterator[str]:
        return iter(self._configured)

    def __len__(self) -> int:
        return len(self._configured)


class NormalisingManager:
    """Mixed into the class of Channels' layer manager, whose ``configs`` it normalises."""

    @property
    def configs(self) -> Mapping[str, Mapping[str, Any]]:
        """The aliases as Channels understands them, from the settings of this moment."""
        return Aliases(super().configs)  # type: ignore[misc]


def teach_channels() -> None:
    """Make ``channels.layers.channel_layers`` understand ``ENGINE``; doing it twice is harmless.

    The object itself is kept, as everybody has imported it already, and its class is extended:
    ``override_settings`` and ``TEST_CONFIG`` go through the same property.
    """
    manager = layers.channel_layers
    kind = type(manager)
    if not issubclass(kind, NormalisingManager):
        manager.__class__ = type(kind.__name__, (NormalisingManager, kind), {})
