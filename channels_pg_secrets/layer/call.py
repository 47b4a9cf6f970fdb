"""What the publishing connection has to do next: a statement, and what becomes of its outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from channels_pg_secrets.layer.identity import Identity
    from channels_pg_secrets.layer.statements import Statement
    from channels_pg_secrets.layer.wire import Rows


@dataclass(slots=True)
class Call:
    """One statement to send, and what becomes of its outcome."""

    statement: Statement
    values: Sequence[Any]
    #: The rows are here. False: the tables do not know this node.
    done: Callable[[Rows], bool]
    #: It may or may not have been carried out, and is to be sent again.
    in_doubt: Callable[[], None]
    #: The server will not have it.
    refused: Callable[[Exception], None]


class Job(Protocol):
    """Something that has statements to send now and then."""

    @property
    def waiting(self) -> bool:
        """There may be something to send; asked with every message, so at almost no cost."""

    def next_call(self, identity: Identity) -> Call | None:
        """Return the next statement, or ``None`` when there is nothing to do."""
