"""A TCP proxy that breaks connections in the ways that networks do."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections import deque
from types import TracebackType

from pg_secrets.testing.process import free_port


class FaultProxy:
    """Forwards to a server on this machine until it is told not to. Safe from any thread.

    ``port`` is where to connect. ``latency`` is how many seconds everything takes, in each
    direction. Two threads for each connection; all end with :meth:`stop`.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.latency = 0.0
        self._target = (host, port)
        self.port: int = free_port()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._abandoned: list[socket.socket] = []
        self._swallowed: set[socket.socket] = set()
        self._swallowing = False
        #: Gates of the connections that are made from now on, and those that are kept shut.
        self._requests, self._answers = threading.Event(), threading.Event()
        self._held: list[threading.Event] = []
        self.release()
        self._lock = threading.Lock()
        self._listen()

    def hold_answers(self) -> None:
        """Let requests pass, and keep what the server answers."""
        self._answers.clear()

    def release_answers(self) -> None:
        """Let answers pass again, also those that were kept."""
        self._answers.set()

    def hold(self) -> None:
        """Keep everything, as a network that freezes; nobody is told."""
        self._requests.clear()
        self._answers.clear()

    def hold_open(self) -> None:
        """Keep everything of the connections that are open; new ones pass meanwhile."""
        self.hold()
        self._held += [self._requests, self._answers]
        self._requests, self._answers = threading.Event(), threading.Event()
        self._requests.set()
        self._answers.set()

    def release(self) -> None:
        """Let everything pass again, also what was kept."""
        for gate in (self._requests, self._answers, *self._held):
            gate.set()
        self._held.clear()

    def refuse(self) -> None:
        """Refuse new connections; those that are open stay."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def admit(self) -> None:
        """Take new connections again, after :meth:`refuse`."""
        self._listen()

    @property
    def taken(self) -> int:
        """How many connections were made since the last fault that met all of them."""
        with self._lock:
            return len(self._pairs)

    def swallow(self) -> int:
        """Be a black hole: what is sent is lost, and nobody is told.

        The connections that are open stay lost for good. New ones are taken and get no answer until
        :meth:`spit`, which ends them. Returns how many connections were open.
        """
        with self._lock:
            pairs, self._pairs = self._pairs, []
            self._swallowed |= {end for pair in pairs for end in pair}
            self._swallowing = True
        return len(pairs)

    def spit(self) -> None:
        """Stop swallowing: connections made from now on reach the server."""
        self._swallowing = False
        self.reset()

    def reset(self) -> int:
        """Break all client connections with a TCP reset; returns how many there were.

        The server's side stays open and silent: it does not learn that its client has gone.
        """
        with self._lock:
            pairs, self._pairs = self._pairs, []
            self._abandoned += [server for _, server in pairs]
        for client, _ in pairs:
            with contextlib.suppress(OSError):
                # Ends the recv of the forwarding thread, without which close would not reset.
                client.shutdown(socket.SHUT_RD)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        return len(pairs)

    def stop(self) -> None:
        """End everything."""
        self.release()
        self.refuse()
        with self._lock:
            ends = {end for pair in self._pairs for end in pair} | self._swallowed
            ends.update(self._abandoned)
        for end in ends:
            _close(end)

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                _close(client)
                continue
            server.settimeout(None)
            for end in (client, server):  # both sides of a proxy wait for each other otherwise
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.append((client, server))
                if self._swallowing:
                    self._swallowed |= {client, server}
            for arguments in ((client, server, self._requests), (server, client, self._answers)):
                threading.Thread(target=self._forward, args=arguments, daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, gate: threading.Event) -> None:
        under_way: deque[tuple[float, bytes]] = deque()
        try:
            while True:
                pause = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
                if not under_way or select.select([source], [], [], pause)[0]:
                    data = source.recv(65536)
                    if not data:
                        break
                    under_way.append((time.monotonic() + self.latency, data))
                self._deliver(under_way, sink, gate)
            if not self._is_lost(source, sink):
                sink.shutdown(socket.SHUT_WR)
        except (OSError, ValueError):
            # One end is gone: the other one learns it, unless that is the fault that was asked for.
            if not self._is_lost(source, sink):
                _close(sink)

    def _is_lost(self, *ends: socket.socket) -> bool:
        """Nobody is to be told of the end of these."""
        return any(end in self._abandoned or end in self._swallowed for end in ends)

    def _deliver(
        self, under_way: deque[tuple[float, bytes]], sink: socket.socket, gate: threading.Event
    ) -> None:
        while under_way and under_way[0][0] <= time.monotonic():
            _, data = under_way.popleft()
            gate.wait()
            if sink not in self._swallowed:
                sink.sendall(data)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)  # wakes the thread that is in recv
    end.close()
