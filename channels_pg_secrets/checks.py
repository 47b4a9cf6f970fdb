"""System checks: what ``manage.py check`` says about layers and databases before anything runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.apps import apps
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from channels_pg_secrets.aliases import configured_layers, is_ours, normalised
from channels_pg_secrets.config import ORM_KEYS
from channels_pg_secrets.engines import Engine, PostgresEngine, RedisEngine
from channels_pg_secrets.engines.django_backend import DRIVER_OPTIONS
from channels_pg_secrets.engines.factory import APP_MISSING, resolve
from channels_pg_secrets.errors import LayerMisconfigured
from pg_secrets.errors import AdapterMisconfigured, AdapterNotInstalled, CredentialsError

PREFIX = "channels_pg_secrets"
_NO_EFFECT_OPTIONS = DRIVER_OPTIONS - {"assume_role", "prepare_threshold"}
_EXAMPLE = 'INSTALLED_APPS = [..., "channels_pg_secrets"]'


@checks.register("channels")
def check_layers(app_configs: Any = None, **_: Any) -> list[checks.CheckMessage]:
    """Check every alias of ``CHANNEL_LAYERS`` that is ours; asks no server and no store."""
    try:
        configured = configured_layers()
    except LayerMisconfigured as error:
        return [_as_message(error, "CHANNEL_LAYERS")]
    ours = {name: alias for name, alias in configured.items() if is_ours(alias)}
    said = {message.msg for message in check_databases()}
    found = (message for name in ours for message in _check_alias(name, ours[name]))
    messages = [message for message in found if message.msg not in said]
    if ours and not apps.is_installed(PREFIX):
        messages.append(
            checks.Warning(
                APP_MISSING,
                hint=_EXAMPLE,
                obj="CHANNEL_LAYERS",
                id=f"{PREFIX}.W001",
            )
        )
    return messages


def postgres_engines() -> Iterator[tuple[str, PostgresEngine]]:
    """Yield alias and engine of every layer on PostgreSQL whose settings are right."""
    with contextlib.suppress(LayerMisconfigured):  # reported by check_layers, as all below
        for name, alias in configured_layers().items():
            with contextlib.suppress(ImproperlyConfigured, CredentialsError):
                if is_ours(alias):
                    engine = resolve(normalised(name, alias)["CONFIG"])
                    if isinstance(engine, PostgresEngine):
                        yield name, engine


def _check_alias(name: str, alias: Mapping[str, Any]) -> list[checks.CheckMessage]:
    obj = f"CHANNEL_LAYERS[{name!r}]"
    try:
        whole = normalised(name, alias)
        messages = []
        for key in ("CONFIG", "TEST_CONFIG"):
            if key in whole:
                messages += _check_config(whole[key], f"{obj}[{key!r}]")
    except ImproperlyConfigured as error:
        return [_as_message(error, obj)]
    return messages


def _check_config(config: Mapping[str, Any], obj: str) -> list[checks.CheckMessage]:
    try:
        engine = resolve(config)
    except (ImproperlyConfigured, CredentialsError) as error:
        return [_as_message(error, obj)]
    messages: list[checks.CheckMessage] = []
    if isinstance(engine, PostgresEngine):
        messages += _without_effect(config, obj)
    if isinstance(engine, (PostgresEngine, RedisEngine)):
        messages += _unused_password(engine, config, obj)
    return messages


def _as_message(error: Exception, obj: str) -> checks.CheckMessage:
    if isinstance(error, LayerMisconfigured):
        return checks.Error(error.message, hint=error.hint, obj=obj, id=error.id)
    if isinstance(error, AdapterNotInstalled):
        hint = "Run the pip command it names, in the environment that runs this project."
        return checks.Error(str(error), hint=hint, obj=obj, id=f"{PREFIX}.E006")
    if isinstance(error, AdapterMisconfigured):
        hint = "Mend CREDENTIALS; docs/reference/adapters lists what each adapter takes."
        return checks.Error(str(error), hint=hint, obj=obj, id=f"{PREFIX}.E005")
    hint = "See the settings reference."
    return checks.Error(str(error), hint=hint, obj=obj, id=f"{PREFIX}.E003")


def _without_effect(config: Mapping[str, Any], obj: str) -> Iterator[checks.CheckMessage]:
    options = config.get("OPTIONS") or {}
    idle = sorted(ORM_KEYS & config.keys())
    idle += sorted(f"OPTIONS[{key!r}]" for key in _NO_EFFECT_OPTIONS & options.keys())
    if idle:
        yield checks.Warning(
            f"These settings have no effect on a channel layer: {', '.join(idle)}.",
            hint="Leave them out, or take the whole alias with USING.",
            obj=obj,
            id=f"{PREFIX}.W002",
        )


def _unused_password(
    engine: Engine, config: Mapping[str, Any], obj: str
) -> Iterator[checks.CheckMessage]:
    options = config.get("OPTIONS") or {}
    unused = ["PASSWORD"] if config.get("PASSWORD") else []
    unused += ["OPTIONS['password']"] if options.get("password") else []
    if engine.source is not None and unused:
        yield checks.Warning(
            f"{' and '.join(unused)} is given beside CREDENTIALS, which supply one and go before"
            " it.",
            hint="Leave it out; a secret that is not used should not be there.",
            obj=obj,
            id=f"{PREFIX}.W003",
        )


@checks.register("channels")
def check_databases(app_configs: Any = None, **_: Any) -> list[checks.CheckMessage]:
    """Check the aliases of ``DATABASES`` that have, or should have, our backend; asks nobody."""
    from django.db import connections

    from channels_pg_secrets.db.postgresql.settings import check_settings

    messages: list[checks.CheckMessage] = []
    for alias, configured in connections.settings.items():
        obj, engine = f"DATABASES[{alias!r}]", str(configured["ENGINE"])
        if engine == "channels_pg_secrets.db.postgresql":
            try:
                check_settings(configured, alias)
            except (ImproperlyConfigured, CredentialsError) as error:
                messages.append(_as_message(error, obj))
        elif "CREDENTIALS" in configured and engine.startswith("django."):
            messages.append(
                checks.Warning(
                    f"CREDENTIALS mean nothing to ENGINE {engine!r}, which ignores them.",
                    hint="Use ENGINE 'channels_pg_secrets.db.postgresql'.",
                    obj=obj,
                    id=f"{PREFIX}.W004",
                )
            )
    return messages


@checks.register(checks.Tags.database)
def check_tables(
    app_configs: Any = None, databases: Sequence[str] | None = None, **_: Any
) -> list[checks.CheckMessage]:
    """Log in as the layers would, and look for the functions they call.

    Runs with ``manage.py check --database ALIAS`` and before ``migrate``, for the layers that use
    that alias and for those with connection settings of their own. It only warns: before the very
    first ``migrate`` there is nothing to be found.
    """
    if not databases:
        return []
    from channels_pg_secrets.readiness import examine

    messages: list[checks.CheckMessage] = []
    for name, engine in postgres_engines():
        using = engine.django_backend.settings.using
        if using is None or using in databases:
            messages += examine(engine, f"CHANNEL_LAYERS[{name!r}]").findings
    return messages
