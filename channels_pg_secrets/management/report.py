"""What ``manage.py channels_pg_secrets check`` and ``doctor`` find out about one layer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from django.core import checks

from channels_pg_secrets.engines import PostgresEngine
from channels_pg_secrets.layer.status import described
from channels_pg_secrets.management.login import in_words
from channels_pg_secrets.readiness import Step, examine


@dataclass(frozen=True)
class Report:
    """One layer: where its login comes from and how long it lasts, and what is wrong."""

    #: Its alias; None: it belongs to no project.
    layer: str | None
    steps: list[Step]
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
            "steps": [
                {"name": step.name, "seconds": round(step.seconds, 4), "seen": step.seen}
                for step in self.steps
            ],
            "findings": [
                {"id": found.id, "message": found.msg, "hint": found.hint}
                for found in self.findings
            ],
        }

    def as_text(self) -> str:
        """Return the same for a person."""
        subject = f"Channel layer {self.layer!r}" if self.layer else "This login"
        lines = [f"{subject}: {'ready' if self.ready else 'not ready'}"]
        lines += [
            f"  {step.name:8} {1000 * step.seconds:5.0f} ms  {step.seen}" for step in self.steps
        ]
        lines += [f"  {line}" for line in self._about_credentials()]
        for found in self.findings:
            lines += [f"  {found.id}: {found.msg}", f"    {found.hint}"]
        return "\n".join(lines) + "\n"

    def _about_credentials(self) -> list[str]:
        held = self.credentials
        if held is None:
            return ["The login stands in the settings."]
        return [f"The login comes {in_words(held)}."]


def report(engine: PostgresEngine, layer: str | None, *, rights: bool = True) -> Report:
    """Fetch credentials, log in, and look for rights and whether LISTEN hears; blocks.

    Without ``rights`` nothing that belongs to a layer is looked for.
    """
    begun = time.monotonic()
    found = examine(engine, f"CHANNEL_LAYERS[{layer!r}]", thorough=True, rights=rights)
    credentials = None if engine.source is None else described(engine.source)
    return Report(layer, found.steps, found.findings, time.monotonic() - begun, credentials)
