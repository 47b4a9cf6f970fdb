"""Finding an engine by the name in ``ENGINE``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from channels.layers import BaseChannelLayer

from channels_pg_secrets.aliases import BACKEND
from channels_pg_secrets.engines.base import Engine
from channels_pg_secrets.engines.django_backend import find_backend
from channels_pg_secrets.engines.postgres import PostgresEngine
from channels_pg_secrets.errors import UnknownEngine, UnsuitableEngine
from pg_secrets.options import nearest

if TYPE_CHECKING:
    from pg_secrets.source import CredentialSource

EngineFactory = Callable[[Mapping[str, Any], "CredentialSource | None"], Engine]
#: What a name may stand for: an engine class or factory, or a channel layer class.
EngineLike = Callable[..., Any]
E = TypeVar("E", bound=EngineLike)

GROUP = "channels_pg_secrets.engines"
_SUGGESTED = (
    "django.db.backends.postgresql",
    "django.contrib.gis.db.backends.postgis",
    "channels_pg_secrets.db.postgresql",
)

_registered: dict[str, EngineLike] = {}


@overload
def register_engine(name: str) -> Callable[[E], E]: ...
@overload
def register_engine(name: str, engine: E) -> E: ...
def register_engine(name: str, engine: EngineLike | None = None) -> Any:
    """Let ``ENGINE = name`` mean ``engine``; without ``engine``, return a decorator.

    ``engine`` is an :class:`Engine` subclass, a factory ``(config, credentials) -> Engine`` or a
    channel layer class. A later registration of a name replaces an earlier one; a registered name
    goes before an entry point. Call it at import time, for instance in ``AppConfig.ready``.

    Raises:
        UnsuitableEngine: ``engine`` is none of those.
    """
    if engine is None:
        return lambda decorated: register_engine(name, decorated)
    _registered[name] = _suitable(engine, name)
    return engine


def engine_names() -> list[str]:
    """Return every registered name and entry point, in order."""
    return sorted({*_registered, *(found.name for found in entry_points(group=GROUP))})


@dataclass(frozen=True)
class FoundEngine:
    """What ``ENGINE`` stands for.

    ``backend`` is set when it names a Django database backend, and so the PostgreSQL engine that
    asks it.
    """

    engine: EngineLike
    backend: str | None = None

    @property
    def is_layer(self) -> bool:
        """Whether it is itself a channel layer class, to be called with ``**CONFIG``."""
        return isinstance(self.engine, type) and issubclass(self.engine, BaseChannelLayer)

    @property
    def takes_credentials(self) -> bool:
        """Whether ``CREDENTIALS`` are to be made a source for it."""
        return bool(getattr(self.engine, "takes_credentials", True))


def find_engine(name: object) -> FoundEngine:
    """Return what ``ENGINE = name`` stands for; classes and factories stand for themselves.

    Raises:
        UnknownEngine: there is nothing of that name; the text lists the names there are.
        UnsuitableEngine: it is there, but cannot be imported or is no engine.
    """
    if not isinstance(name, str):
        return FoundEngine(_suitable(name, getattr(name, "__qualname__", type(name).__name__)))
    if name == BACKEND:
        raise UnsuitableEngine(
            f"ENGINE {name!r} is a BACKEND, not an engine.",
            hint="Give it as BACKEND beside CONFIG; ENGINE says which engine it uses.",
        )
    if name in _registered:
        return FoundEngine(_registered[name])
    entry = _entry_point(name)
    if entry is not None:
        return FoundEngine(_loaded(entry))
    # Anything else is a dotted path; importing what is not one raises odd errors.
    if not all(part.isidentifier() for part in name.split(".")):
        raise _unknown(name)
    if find_backend(name) is not None:
        return FoundEngine(PostgresEngine, backend=name)
    return FoundEngine(_suitable(_dotted(name), name))


def _entry_point(name: str) -> EntryPoint | None:
    # One distribution may be found twice, as installed and as a checkout.
    found = {entry.value: entry for entry in entry_points(group=GROUP, name=name)}
    if len(found) > 1:
        raise UnsuitableEngine(
            f"ENGINE {name!r} is offered by more than one distribution:"
            f" {', '.join(sorted(found))}.",
            hint="Give the dotted path of the one that is meant.",
        )
    return next(iter(found.values()), None)


def _loaded(found: EntryPoint) -> EngineLike:
    try:
        engine = found.load()
    except (ImportError, AttributeError) as error:
        raise UnsuitableEngine(
            f"ENGINE {found.name!r} is the entry point {found.value!r}, which cannot be imported:"
            f" {str(error).rstrip('.')}."
        ) from error
    return _suitable(engine, found.name)


def _dotted(name: str) -> object:
    module_name, _, attribute = name.rpartition(".")
    if not module_name:
        raise _unknown(name)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise _unknown(name) from None
        raise UnsuitableEngine(
            f"ENGINE {name!r} cannot be imported: its module needs {error.name!r}, which is not"
            " installed."
        ) from error
    except ImportError as error:
        raise UnsuitableEngine(
            f"ENGINE {name!r} cannot be imported: {str(error).rstrip('.')}."
        ) from error
    if not hasattr(module, attribute):
        raise _unknown(name, module)
    return getattr(module, attribute)


def _suitable(engine: object, name: str) -> EngineLike:
    if isinstance(engine, type):
        if issubclass(engine, (Engine, BaseChannelLayer)):
            return engine
    elif callable(engine):
        return engine
    raise UnsuitableEngine(
        f"ENGINE {name!r} is {_described(engine)}, not an engine.",
        hint="It must be a subclass of channels_pg_secrets.engines.Engine, a factory"
        " (config, credentials) -> Engine, a channel layer class or a Django PostgreSQL backend.",
    )


def _described(engine: object) -> str:
    if isinstance(engine, type):
        return f"the class {engine.__qualname__}"
    return f"of type {type(engine).__name__}"


def _unknown(name: str, module: ModuleType | None = None) -> UnknownEngine:
    """Return the error for a name that stands for nothing, or for nothing in its module."""
    names = engine_names()
    shown = repr(name) if re.fullmatch(r"[\w.\-]{1,100}", name) else "(not a name)"
    text = (
        f"ENGINE {shown} is no registered engine, no entry point of the group {GROUP!r}, no"
        " Django database backend and no dotted path."
    )
    known = [*names, *_SUGGESTED]
    if module is not None:
        path, _, attribute = name.rpartition(".")
        text = f"ENGINE {shown}: the module {path!r} has no {attribute!r}."
        if close := nearest(attribute, vars(module)):
            known = [f"{path}.{close}"]
    close = nearest(name, known)
    did_you_mean = f"Did you mean {close!r}? " if close else ""
    return UnknownEngine(text, hint=f"{did_you_mean}Names: {', '.join(names)}.")
