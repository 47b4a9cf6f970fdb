"""TLS for logins whose password is a token that goes over the wire as it is."""

from __future__ import annotations

from pg_secrets.options import Options


def tls_parameters(options: Options) -> dict[str, str]:
    """Read ``SSLMODE`` and ``SSLROOTCERT``; return libpq's keywords.

    The server is checked unless less is asked for: these are laid over a connection's own settings,
    and must never make them weaker.

    Raises:
        AdapterMisconfigured: a mode that leaves TLS to chance.
    """
    mode = options.choice("SSLMODE", ("verify-full", "verify-ca", "require"), "verify-full")
    certificates = options.path("SSLROOTCERT", None)
    parameters = {"sslmode": mode}
    if certificates is not None:
        parameters["sslrootcert"] = str(certificates)
    return parameters
