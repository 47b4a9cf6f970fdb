"""What keeps a layer from its database just now, and what those who wait are told of it."""

from __future__ import annotations

from channels_pg_secrets.errors import ChannelLayerUnavailable


class Trouble:
    """The latest reason why a connection could not be had."""

    def __init__(self, send_timeout: float) -> None:
        """``send_timeout``: the seconds that callers wait, for the text."""
        self._seconds = f"{send_timeout:g} seconds"
        self._reason: Exception | None = None
        #: Waiting will not mend it.
        self.permanent = False

    def begin(self, reason: Exception, *, permanent: bool) -> bool:
        """Connecting failed; say whether this reason is another than the one before."""
        new = str(self._reason) != str(reason)
        self._reason = reason
        self.permanent = permanent or isinstance(reason, ChannelLayerUnavailable)
        return new

    def end(self) -> bool:
        """A connection is up; say whether there was trouble until now."""
        had, self._reason = self._reason is not None, None
        return had

    def error(self) -> ChannelLayerUnavailable:
        """Return what to raise where somebody waited in vain."""
        reason = self._reason
        if isinstance(reason, ChannelLayerUnavailable):
            return reason
        if reason is None:
            return ChannelLayerUnavailable(f"The database did not answer within {self._seconds}")
        within = "" if self.permanent else f" within {self._seconds}"
        error = ChannelLayerUnavailable(
            f"The channel layer could get no database connection{within}: {reason}"
        )
        error.__cause__ = reason.with_traceback(None)
        return error
