"""The hand-made binary encoding, as PostgreSQL understands it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.pq import ExecStatus

from channels_pg_secrets.layer import statements
from channels_pg_secrets.layer.statements import Statement
from pg_secrets.testing.database import FreshDatabase

VALUES: dict[str, list[Any]] = {
    "int4": [0, 1, -1, 2**31 - 1, -(2**31)],
    "int8": [0, -1, 2**63 - 1, -(2**63)],
    "float8": [0.0, -0.5, 1e300, 60.0],
    "bool": [True, False],
    "text": ["", "text", "ä€😀", "'; DROP TABLE x; --"],
    "bytea": [b"", b"\x00\xff", b"x" * 100_000],
    "int8[]": [[], [1], [1, None, -(2**63)]],
    "int4[]": [[], [1, None, 2]],
    "text[]": [[], [""], ["a", None, 'ä,{}"\\']],
    "ascii[]": [[], [b"a", None, b"{,}"]],
    "bytea[]": [[], [b"", None, b"\x00"]],
    "bool[]": [[], [True, False]],
}


@pytest.mark.parametrize("kind", VALUES)
def test_parameters_arrive_as_they_are(layer_database: FreshDatabase, kind: str) -> None:
    """What the server understands is what was given, for every kind of parameter."""
    pg_type = kind.replace("ascii", "text")
    statement = Statement("unused", (kind,))
    with psycopg.connect(**layer_database.connection_params(), autocommit=True) as connection:
        for value in VALUES[kind]:
            result = connection.pgconn.exec_params(
                f"SELECT $1::{pg_type} IS NOT DISTINCT FROM $2::{pg_type}".encode(),
                [*statement.encode([value]), _as_text(connection, pg_type, value)],
                None,
                [1, 0],
            )
            assert result.status == ExecStatus.TUPLES_OK, result.error_message
            assert result.get_value(0, 0) == b"t", value


def _as_text(connection: psycopg.Connection[Any], pg_type: str, value: Any) -> bytes:
    if pg_type == "text[]":
        value = [item.decode() if isinstance(item, bytes) else item for item in value]
    row = connection.execute(f"SELECT (%s::{pg_type})::text".encode(), [value]).fetchone()
    assert row is not None
    return str(row[0]).encode()


@pytest.mark.parametrize(
    ("pg_type", "decode", "value"),
    [
        ("int4", statements.int4, -(2**31)),
        ("int8", statements.int8, 2**63 - 1),
        ("float8", statements.float8, -1.25),
        ("text", statements.text, "ä€😀"),
        ("bytea", statements.raw, b"\x00\xff"),
    ],
)
def test_columns_are_decoded(
    layer_database: FreshDatabase, pg_type: str, decode: Any, value: Any
) -> None:
    """A binary result column gives the value that the server holds."""
    with psycopg.connect(**layer_database.connection_params()) as connection:
        cursor = connection.cursor(binary=True)
        cursor.execute(f"SELECT %s::{pg_type}".encode(), [value])
        assert cursor.pgresult is not None
        data = cursor.pgresult.get_value(0, 0)
    assert data is not None
    assert decode(bytes(data)) == value


STATEMENTS = [value for value in vars(statements).values() if isinstance(value, Statement)]


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement.verb)
def test_statements_fit_their_functions(
    layer_database: FreshDatabase, statement: Statement
) -> None:
    """Each statement prepares, with as many parameters and columns of the types it decodes."""
    decoders = {
        23: (statements.int4,),
        20: (statements.int8,),
        701: (statements.float8,),
        25: (statements.text, statements.raw),
        17: (statements.raw,),
    }
    with psycopg.connect(**layer_database.connection_params()) as connection:
        pgconn = connection.pgconn
        prepared = pgconn.prepare(statement.name, statement.sql)
        assert prepared.status == ExecStatus.COMMAND_OK, prepared.error_message
        described = pgconn.describe_prepared(statement.name)
        assert described.nparams == len(statement.parameters)
        types = [described.ftype(column) for column in range(len(statement.columns))]
    for oid, decoder in zip(types, statement.columns, strict=True):
        assert decoder in decoders[oid]
    assert described.nfields == max(len(statement.columns), 1)
