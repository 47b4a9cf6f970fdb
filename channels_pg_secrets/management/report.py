"""What ``manage.py channels_pg_secrets check`` finds out about one layer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from django.core import checks

from channels_pg_secrets.engines import PostgresEngine
from channels_pg_secrets.readiness import examine


@dataclass(frozen=True)
class Report:
    """One layer: where its login comes from and how long it lasts, and what is wrong."""

    layer: str
    findings: list[checks.CheckMessage]
    #: Seconds that it took to fetch, log in and look.
    seconds: float
    #: The source's counters and ages, and the version, user and end of what it holds; no secret.
    credentials: dict[str, Any] | None

    @property
    def ready(self) -> bool:
        """Nothing keeps the layer from working."""
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        """Return the same for a program."""
        return {
            "layer": self.layer,
            "ready": self.ready,
            "seconds": round(self.seconds, 3),
            "credentials": self.credentials,
            "findings": [
                {"id": found.id, "message": found.msg, "hint": found.hint}
                for found in self.findings
            ],
        }

    def as_text(self) -> str:
        """Return the same for a person."""
        lines = [f"Channel layer {self.layer!r}: {'ready' if self.ready else 'not ready'}"]
        lines += [f"  {line}" for line in self._about_credentials()]
        for found in self.findings:
            lines += [f"  {found.id}: {found.msg}", f"    {found.hint}"]
        return "\n".join(lines) + "\n"

    def _about_credentials(self) -> list[str]:
        held = self.credentials
        if held is None:
            return ["The login stands in the settings."]
        if held["generation"] == 0:
            return [f"The login comes from {held['adapter']!r}, which gave none."]
        left = held["expires_in"]
        ends = "has no end of its own" if left is None else f"ends in {left:.0f} s"
        version = f", version {held['version']}" if held["version"] else ""
        user = held["user"] or "of the settings"
        return [f"The login comes from {held['adapter']!r}: user {user}{version}; it {ends}."]


def report(engine: PostgresEngine, layer: str) -> Report:
    """Fetch credentials, log in, and look for rights and whether LISTEN hears; blocks."""
    begun = time.monotonic()
    findings = examine(engine, f"CHANNEL_LAYERS[{layer!r}]", always_listen=True)
    credentials: dict[str, Any] | None = None
    if engine.source is not None:
        held = engine.source.current
        credentials = {
            **engine.source.stats(),
            "user": held.user if held else None,
            "version": held.version if held else None,
        }
    return Report(layer, findings, time.monotonic() - begun, credentials)
