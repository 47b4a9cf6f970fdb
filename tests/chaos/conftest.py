"""What the chaos runs share: the scale, the processes, the database, and the report.

``pytest tests/chaos`` is the long form, where almost every fault strikes twenty times. As a part
of all tests most strike once, and some are left to the long form. ``--chaos short`` and ``--chaos
long`` choose.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# At the end: what is installed is what is tested.
sys.path.append(str(Path(__file__).parents[2]))

from pg_secrets.testing.database import FreshDatabase
from pg_secrets.testing.postgres import PostgresServer
from pg_secrets.testing.proxy import FaultProxy
from tests.chaos.load import DRAIN, Limits, Load, Pool, Process, Shape, Strike
from tests.chaos.report import Row, markdown
from tests.integration.layer.conftest import Layers, migrate
from tests.integration.layer.conftest import eventually as eventually

HERE = Path(__file__).parent
#: Seconds that one fault's long form may take.
LONG_TIMEOUT = 600


def is_long(config: pytest.Config) -> bool:
    """The long form is asked for: in words, or by running nothing else than this folder."""
    choice = config.getoption("--chaos")
    if choice is not None:
        return bool(choice == "long")
    paths = [(config.invocation_params.dir / arg.split("::")[0]).resolve() for arg in config.args]
    return all(path == HERE or HERE in path.parents for path in paths)


# The report -------------------------------------------------------------------------------


class Progress:
    """Prints each fault's figures when it is done, and writes the table at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._rows: list[Row] = []
        self._server = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called in the process that reports, whichever ran the test."""
        found = dict(report.user_properties)
        if report.when != "teardown" or "chaos" not in found:
            return
        row = Row(**found["chaos"])  # type: ignore[arg-type]  # pytest knows nothing of the values
        self._server = str(found["server"])
        self._rows.append(row)
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None and is_long(self._config):
            terminal.ensure_newline()
            terminal.write_line(row.line())

    def pytest_sessionfinish(self) -> None:
        """Write the table, if a file was named."""
        path = self._config.getoption("--chaos-report")
        if path and self._rows:
            Path(path).write_text(markdown(self._rows, self._server))


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # where pytest-xdist's workers report to
        config.pluginmanager.register(Progress(config))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    long = is_long(config)
    left_out = [] if long else [item for item in items if item.get_closest_marker("long_form")]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    for item in items:
        if HERE in item.path.parents and long:
            item.add_marker(pytest.mark.timeout(LONG_TIMEOUT))


# Fixtures ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """The processes that runs take theirs from."""
    made = Pool()
    yield made
    made.close()


@pytest.fixture(scope="session")
def chaos_database(postgres_server: PostgresServer) -> Iterator[FreshDatabase]:
    """A migrated database for all runs that need no server of their own."""
    with FreshDatabase(postgres_server) as fresh:
        migrate(fresh)
        yield fresh


@dataclass
class Chaos:
    """Runs loads under faults; ``place`` makes layers and logins in one database."""

    place: Layers
    long: bool
    _pool: Pool
    _kind: str
    _record: Callable[[str, Any], None]

    @property
    def database(self) -> FreshDatabase:
        """Where the messages go through."""
        return self.place.database

    @property
    def unnoticed(self) -> Limits:
        """The limits of a fault that nobody should notice.

        The short form runs beside other tests, which take the processors for longer than that.
        """
        return Limits(gap=0.5 if self.long else 2.0, lines=1)

    def times(self, *, short: int = 1, long: int = 20) -> int:
        """Return how often a fault is to strike."""
        return long if self.long else short

    def config(self, credentials: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Return ``CONFIG`` for a layer of this run, with ``CREDENTIALS`` or its own login."""
        login = self.database.settings(None if credentials else self.place.login)
        if credentials:
            login["CREDENTIALS"] = credentials
        return {**login, "prefix": self.place.prefix, "capacity": 10_000, **more}

    @asynccontextmanager
    async def load(
        self,
        fault: str,
        config: Callable[[str], dict[str, Any]] | None = None,
        *,
        limits: Limits | None = None,
        **shape: Any,
    ) -> AsyncIterator[Load]:
        """Let messages flow during the block; at its end all must have arrived as promised.

        ``config``: ``CONFIG`` by process name. ``shape``: see :class:`Shape`.
        """
        kind = Shape(**shape)
        load = Load(dict(zip(kind.names, self._pool.take(len(kind.names)), strict=True)))
        try:
            await load.start(config or (lambda _name: self.config()), kind)
            yield load
            limits = limits or Limits()
            # Where messages may be dropped, the last of them are waited for in vain.
            drain = 3.0 if limits.dropped or limits.buried else DRAIN
            await load.settle_accounts(self._queued, drain=drain, settle=kind.settle)
            row, wrong = await load.judge(self._kind, fault, limits)
            self._tell(row)
            await load.end()
        except BaseException:
            # Nobody knows what they are still doing.
            for process in load.members.values():
                process.kill()
            raise
        self._pool.give_back(load.members.values())
        assert not wrong, "\n".join([row.line(), *wrong])

    @asynccontextmanager
    async def processes(self, count: int) -> AsyncIterator[list[Process]]:
        """Return processes without a load; those that are alive at the end are kept."""
        taken = self._pool.take(count)
        try:
            yield taken
        finally:
            for process in taken:
                if process.alive:
                    await process("end")
            self._pool.give_back(taken)

    async def suffer(self, fault: str, strike: Strike, times: int, **options: Any) -> None:
        """Let a fault strike so often, under load."""
        async with self.load(fault, **options) as load:
            await load.strike(strike, times)

    def tell(self, fault: str, **counted: Any) -> None:
        """Enter a fault that struck without a load into the report; see :class:`Row`."""
        self._tell(Row(self._kind, fault, self.times(), **counted))

    def _tell(self, row: Row) -> None:
        self._record("server", self._version())
        self._record("chaos", row.to_dict())

    def _queued(self) -> set[int]:
        query = "SELECT id FROM channels_pg_secrets_queue WHERE prefix = %s"
        return {row for (row,) in self.database.execute(query, (self.place.prefix,))}

    def _version(self) -> str:
        return str(self.database.server.execute("SHOW server_version")[0][0]).split()[0]


@pytest.fixture
def chaos(
    request: pytest.FixtureRequest,
    pool: Pool,
    chaos_database: FreshDatabase,
    record_property: Callable[[str, Any], None],
) -> Chaos:
    """Runs loads under faults in the shared database."""
    kind = request.module.__name__.rpartition("test_")[2]
    return Chaos(Layers(chaos_database), is_long(request.config), pool, kind, record_property)


@pytest.fixture
def proxy(chaos: Chaos) -> Iterator[FaultProxy]:
    """Between processes and the server, for those that are told its port."""
    with FaultProxy(chaos.database.server.port) as made:
        yield made
