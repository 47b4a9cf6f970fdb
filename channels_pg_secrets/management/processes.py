"""What the processes of a layer answer when they are asked, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from channels_pg_secrets.blocking import blocking
from channels_pg_secrets.engines import PostgresEngine
from channels_pg_secrets.layer.channel_layer import PostgresChannelLayer
from channels_pg_secrets.management.login import age, in_words


@dataclass(frozen=True)
class ProcessAnswers:
    """The answers of all processes to one question; of a silent one ``node`` and ``silent``."""

    layer: str
    processes: list[dict[str, Any]]

    @property
    def complete(self) -> bool:
        """All have answered, and well."""
        return not any(one.get("silent") or one.get("error") for one in self.processes)

    def as_json(self) -> dict[str, Any]:
        """Return the same for a program."""
        return {"layer": self.layer, "complete": self.complete, "processes": self.processes}

    def as_text(self, describe: Callable[[dict[str, Any]], Iterator[str]]) -> str:
        """Return the same for a person, each process as ``describe`` has it."""
        number = len(self.processes)
        counted = {0: "no process uses it", 1: "1 process"}.get(number, f"{number} processes")
        lines = [f"Channel layer {self.layer!r}: {counted}"]
        for one in self.processes:
            lines.append("")
            if one.get("silent"):
                lines.append(f"  node {one['node']} does not answer")
            else:
                lines += [f"  {line}" for line in describe(one)]
        return "\n".join(lines) + "\n"


def ask_status(engine: PostgresEngine, layer: str, timeout: float) -> ProcessAnswers:
    """Ask all processes how they are doing; blocks, for ``timeout`` seconds after connecting.

    Raises:
        ChannelLayerUnavailable: the database cannot be reached.
    """
    return ProcessAnswers(layer, _with_layer(engine, lambda made: made.processes(timeout)))


def ask_to_reload(engine: PostgresEngine, layer: str, timeout: float) -> ProcessAnswers:
    """Have all processes fetch their credentials now; blocks, likewise.

    Raises:
        ChannelLayerUnavailable: the database cannot be reached.
    """
    # Its own answer is not wanted: this process ends with the command.
    return ProcessAnswers(layer, _with_layer(engine, lambda made: made.reload(timeout))[1:])


def _with_layer(
    engine: PostgresEngine,
    work: Callable[[PostgresChannelLayer], Coroutine[Any, Any, list[dict[str, Any]]]],
) -> list[dict[str, Any]]:
    async def run() -> list[dict[str, Any]]:
        layer = engine.channel_layer()
        assert isinstance(layer, PostgresChannelLayer)  # noqa: S101 - the engine's promise
        try:
            return await work(layer)
        finally:
            await layer.close()

    return blocking(run)


def describe_status(one: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of one process's answer to "status"."""
    yield f"{_named(one)}, up {age(one['age'])}" if "age" in one else _named(one)
    if "too_long" in one:
        yield f"  its answer of {one['too_long']} bytes is too long to be sent"
        return
    held = one["credentials"]
    if held is None:
        yield "  login      in the settings"
    else:
        yield f"  login      {in_words(held)}"
        if held["last_error"]:
            yield f"             the store's last answer: {held['last_error']}"
    for opened in one["connections"]:
        yield (
            f"  {opened['connection']:10} as {opened['user']}, generation {opened['generation']},"
            f" to {opened['server']}, for {age(opened['age'])}"
        )
    if one["connections"]:
        for place, keys in _by_place(one["connections"][0]["parameters"]).items():
            yield f"  from       {place}: {', '.join(keys)}"
    if held is not None:
        for event in held["events"]:
            at = datetime.fromtimestamp(event["at"], timezone.utc).isoformat(" ", "seconds")
            error = f": {event['error']}" if event["error"] else ""
            yield f"  {at} {event['kind']}, generation {event['generation']}{error}"


def describe_reload(one: dict[str, Any]) -> Iterator[str]:
    """Yield the line of one process's answer to "reload"."""
    if one["error"]:
        outcome = f"{one['error']} (it goes on with generation {one['generation']})"
    elif one["changed"] is None:
        outcome = "opens new connections with what its backend says now"
    elif one["changed"]:
        outcome = f"moves to generation {one['generation']}"
    else:
        outcome = f"the store says the same; it stays at generation {one['generation']}"
    yield f"node {one['node']}: {outcome}"


def _named(one: dict[str, Any]) -> str:
    return f"{one['host']}, process {one['pid']} ({one.get('program', '')}), node {one['node']}"


def _by_place(parameters: dict[str, str]) -> dict[str, list[str]]:
    places: dict[str, list[str]] = {}
    for key, place in parameters.items():
        places.setdefault(place.partition("[")[0], []).append(key)
    return places
