"""Credentials from HashiCorp Vault or OpenBao; needs the extra ``vault``."""

from __future__ import annotations

from pg_secrets.vault.adapter import VaultAdapter

__all__ = ["VaultAdapter"]
