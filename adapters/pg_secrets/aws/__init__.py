"""Credentials from AWS Secrets Manager; needs the extra ``aws``."""

from __future__ import annotations

from pg_secrets.aws.adapter import AwsAdapter

__all__ = ["AwsAdapter"]
