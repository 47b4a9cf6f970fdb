"""Credentials from files: a mounted secret, or one file that holds the whole login."""

from __future__ import annotations

from pg_secrets.files.adapter import FilesAdapter

__all__ = ["FilesAdapter"]
