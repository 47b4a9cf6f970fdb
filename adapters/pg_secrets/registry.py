"""From settings to sources: names of adapters, and one shared source per equal config."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar, overload

from pg_secrets.adapter import CredentialAdapter
from pg_secrets.errors import AdapterMisconfigured, AdapterNotInstalled, CredentialsError
from pg_secrets.guard import guarded
from pg_secrets.options import Options, nearest
from pg_secrets.redaction import scrubbed
from pg_secrets.shared_lease import SharedAdapter, shared_key
from pg_secrets.source import CredentialSource

GROUP = "pg_secrets.adapters"
#: The keys beside an adapter's own, which are the source's.
BESIDE = frozenset({"TTL", "BACKGROUND", "SHARED"})

AdapterFactory = Callable[[Mapping[str, Any]], CredentialAdapter]
RegisteredAdapter = type[CredentialAdapter] | AdapterFactory
SourceConfig = str | Mapping[str, Any] | CredentialAdapter | CredentialSource

R = TypeVar("R", bound=RegisteredAdapter)

_adapters: dict[str, RegisteredAdapter] = {}
_sources: dict[object, CredentialSource] = {}
_lock = threading.RLock()


@overload
def register_adapter(name: str) -> Callable[[R], R]: ...
@overload
def register_adapter(name: str, adapter: R) -> R: ...
def register_adapter(name: str, adapter: Any = None) -> Any:
    """Make an adapter known under a name, which then wins over an entry point of that name.

    ``adapter`` is a :class:`CredentialAdapter` subclass or a function from the settings (a mapping
    with keys in capitals) to an adapter. Without it this is a decorator. Thread-safe.

    Raises:
        TypeError: ``adapter`` is neither.
    """
    if adapter is None:
        return lambda decorated: register_adapter(name, decorated)
    if not callable(adapter):
        raise TypeError(f"adapter {name!r} must be a class or a function, not {adapter!r}")
    with _lock:
        _adapters[name] = adapter
    return adapter


def credential_source(config: SourceConfig) -> CredentialSource:
    """Return the process's one source for this config, making it if it is not there yet.

    ``config`` is a name (``"env"``), a mapping with ``ADAPTER`` and the adapter's own options,
    an adapter or a source. ``TTL`` (seconds), ``BACKGROUND`` (bool) and ``SHARED`` (a directory)
    in a mapping are the source's, all other keys the adapter's. Nothing is sent yet. Thread-safe.

    Raises:
        AdapterMisconfigured: no such adapter, its settings are wrong, or building it failed.
        AdapterNotInstalled: the package it needs is missing.
    """
    try:
        return _source(config)
    except CredentialsError as error:
        failure = scrubbed(error)
    # The settings may hold a secret: no frame of this call carries them out.
    del config
    raise failure


def credential_adapter(config: str | Mapping[str, Any]) -> CredentialAdapter:
    """Build an adapter of its own from a name or a mapping with ``ADAPTER``; nothing is sent.

    Raises:
        AdapterMisconfigured: no such adapter, its settings are wrong, or building it failed.
        AdapterNotInstalled: the package it needs is missing.
    """
    settings = {"ADAPTER": config} if isinstance(config, str) else dict(config)
    name, factory = _chosen(settings)
    return guarded(name, lambda: factory(settings), AdapterMisconfigured)


def _source(config: SourceConfig) -> CredentialSource:
    if isinstance(config, CredentialSource):
        return config
    if isinstance(config, CredentialAdapter):
        adapter = config
        return _shared(("adapter", _Identity(adapter)), lambda: CredentialSource(adapter))
    if isinstance(config, str):
        config = {"ADAPTER": config}
    if not isinstance(config, Mapping):
        raise AdapterMisconfigured(
            "CREDENTIALS: expected a name, a mapping with ADAPTER, an adapter or a source,"
            f" found {type(config).__name__}"
        )
    settings = dict(config)
    return _shared(("config", _frozen(settings)), lambda: _from_settings(settings))


def _shared(key: object, build: Callable[[], CredentialSource]) -> CredentialSource:
    made: CredentialSource | None = None
    while True:
        with _lock:
            source = _sources.get(key)
            if source is not None and not source.closed:
                # Whoever came second drops his own. It has sent nothing, and is not closed: the
                # adapter may be one that both were built around.
                return source
            if made is not None:
                _sources[key] = made
                return made
        # Without the lock: this imports modules and runs strangers' code, which may wait for a
        # thread that waits for us.
        made = build()


def _chosen(settings: dict[str, Any]) -> tuple[str, AdapterFactory]:
    """Take ``ADAPTER`` out of the settings; return its name and what builds it."""
    adapter = settings.pop("ADAPTER", None)
    if isinstance(adapter, type) and issubclass(adapter, CredentialAdapter):
        return adapter.name or adapter.__name__, adapter.from_config
    if isinstance(adapter, str) and adapter:
        # Finding it may import it, and with it whatever a stranger's module does.
        return adapter, guarded(adapter, lambda: _factory(adapter), AdapterMisconfigured)
    found = "nothing" if adapter is None else f"a {type(adapter).__name__}"
    raise AdapterMisconfigured(
        f"CREDENTIALS: ADAPTER must name an adapter, found {found}; known: {_listed()}"
    )


def _from_settings(settings: dict[str, Any]) -> CredentialSource:
    name, factory = _chosen(settings)
    options = Options({key: settings.pop(key, None) for key in BESIDE}, adapter=name)
    ttl = options.seconds("TTL", None, minimum=1.0)
    background = options.flag("BACKGROUND", True)
    directory = options.path("SHARED", None)
    built = guarded(name, lambda: factory(settings), AdapterMisconfigured)
    if directory is not None:
        built = SharedAdapter(built, directory, shared_key(name, settings, built))
    return CredentialSource(built, ttl=ttl, background=background)


def _after_fork() -> None:
    global _lock  # a thread of the parent may hold the old one
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# names ------------------------------------------------------------------------------------


def _factory(name: str) -> AdapterFactory:
    with _lock:
        found: Any = _adapters.get(name)
    if found is None:
        entry = _entry_point(name)
        if entry is not None:
            found = _loaded(name, entry)
        elif "." in name or ":" in name:
            found = _imported(name)
        else:
            close = nearest(name, _names())
            hint = f" Did you mean {close!r}?" if close else ""
            raise AdapterMisconfigured(
                f"CREDENTIALS: there is no adapter {name!r}.{hint} Known: {_listed()};"
                " or give a dotted path"
            )
    if isinstance(found, type) and issubclass(found, CredentialAdapter):
        return found.from_config
    if callable(found) and not isinstance(found, type):
        return _checked(name, found)
    raise AdapterMisconfigured(
        f"CREDENTIALS: adapter {name!r} is neither a CredentialAdapter nor a function:"
        f" found {_described(found)}"
    )


def _described(found: object) -> str:
    if isinstance(found, type):
        return f"the class {found.__name__}"
    return f"an object of type {type(found).__name__}"


def _checked(name: str, function: Callable[[Mapping[str, Any]], object]) -> AdapterFactory:
    def build(settings: Mapping[str, Any]) -> CredentialAdapter:
        adapter = function(settings)
        if not isinstance(adapter, CredentialAdapter):
            raise AdapterMisconfigured(
                f"CREDENTIALS: adapter {name!r} returned {type(adapter).__name__},"
                " not a CredentialAdapter"
            )
        return adapter

    return build


def _entry_point(name: str) -> EntryPoint | None:
    """Return the one entry point of this name.

    Raises:
        AdapterMisconfigured: there are several, and so nobody knows which is meant.
    """
    # One distribution may be found twice, as installed and as a checkout.
    found = {entry.value: entry for entry in entry_points(group=GROUP, name=name)}
    if len(found) > 1:
        raise AdapterMisconfigured(
            f"CREDENTIALS: adapter {name!r} is offered by more than one distribution:"
            f" {', '.join(sorted(found))}; give the dotted path of the one that is meant"
        )
    return next(iter(found.values()), None)


def _names() -> list[str]:
    with _lock:
        registered = list(_adapters)
    return sorted({*registered, *(entry.name for entry in entry_points(group=GROUP))})


def _listed() -> str:
    return ", ".join(_names()) or "none"


def _loaded(name: str, entry: EntryPoint) -> object:
    try:
        return entry.load()
    except ImportError as error:
        raise AdapterNotInstalled(
            f"adapter {name!r} ({entry.value}) cannot be imported: {error}"
        ) from error
    except AttributeError as error:
        raise AdapterMisconfigured(f"adapter {name!r} ({entry.value}): {error}") from error


def _imported(path: str) -> object:
    module_name, _, attribute = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
        return getattr(module, attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise AdapterMisconfigured(
            f"CREDENTIALS: ADAPTER {path!r} is no adapter's name ({_listed()})"
            f" and cannot be imported: {error}"
        ) from error


# equal configs ----------------------------------------------------------------------------


class _Identity:
    """A key that stands for one object, hashable or not, and keeps it alive."""

    def __init__(self, target: object) -> None:
        self.target = target

    def __hash__(self) -> int:
        return id(self.target)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.target is self.target


class _Secret:
    """A hashable settings value that does not show itself: any of them may be a secret."""

    def __init__(self, value: object) -> None:
        self._value = (type(value), value)

    def __hash__(self) -> int:
        return hash(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Secret) and other._value == self._value


def _frozen(value: object) -> object:
    if isinstance(value, Mapping):
        return frozenset((_frozen(key), _frozen(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    try:
        hash(value)
    except TypeError:
        return _Identity(value)
    return _Secret(value)
