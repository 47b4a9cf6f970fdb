"""The proxy between a test and a server passes on what happens, except what it is told to hide."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import closing

import pytest

from pg_secrets.testing.proxy import FaultProxy

#: Closing sends a reset at once, as the kernel does for a process that dies with unread input.
RESET = struct.pack("ii", 1, 0)


@pytest.fixture
def pair() -> Iterator[tuple[FaultProxy, socket.socket, socket.socket]]:
    """A proxy, and the two ends that it connects: a client's and a server's."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(5)
        with FaultProxy(listener.getsockname()[1]) as proxy:
            client = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
            server, _ = listener.accept()
            server.settimeout(5)
            with closing(client), closing(server):
                client.sendall(b"question")
                assert server.recv(64) == b"question"
                yield proxy, client, server


def test_the_client_learns_that_the_server_reset_its_connection(
    pair: tuple[FaultProxy, socket.socket, socket.socket],
) -> None:
    """Or it would wait in vain, and a test of a crash would be one of a black hole."""
    _, client, server = pair
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    server.close()
    assert client.recv(64) == b""


def test_the_server_learns_that_the_client_is_gone(
    pair: tuple[FaultProxy, socket.socket, socket.socket],
) -> None:
    """An end that is closed in order is passed on."""
    _, client, server = pair
    client.close()
    assert server.recv(64) == b""


def test_the_server_does_not_learn_of_a_reset_that_the_proxy_made(
    pair: tuple[FaultProxy, socket.socket, socket.socket],
) -> None:
    """Its session stays, as after a network that broke."""
    proxy, client, server = pair
    assert proxy.reset() == 1
    with pytest.raises(ConnectionResetError):
        client.recv(64)
    server.settimeout(0.2)
    with pytest.raises(TimeoutError):
        server.recv(64)
