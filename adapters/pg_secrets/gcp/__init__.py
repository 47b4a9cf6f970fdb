"""Credentials from Google Cloud's Secret Manager; needs the extra ``gcp``."""

from __future__ import annotations

from pg_secrets.gcp.adapter import GcpAdapter

__all__ = ["GcpAdapter"]
