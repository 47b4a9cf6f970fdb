"""One server process of the demo: uvicorn on a port it shares with the others."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

import uvicorn

APPLICATION = "channels_pg_secrets.demo.project.asgi:application"


def shared_socket(host: str, port: int) -> socket.socket:
    """Bind a port that further processes of this user may bind too; the kernel deals out clients.

    Raises:
        OSError: somebody else has the port.
    """
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


class Server(uvicorn.Server):
    """A server that leaves a file when it serves, for the launcher to see."""

    def __init__(self, config: uvicorn.Config, ready: Path) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if not self.should_exit:
            self._ready.touch()


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ready", type=Path, required=True)
    arguments = parser.parse_args()
    config = uvicorn.Config(
        APPLICATION, lifespan="on", log_config=None, timeout_graceful_shutdown=5
    )
    with shared_socket(arguments.host, arguments.port) as bound:
        Server(config, arguments.ready).run(sockets=[bound])


if __name__ == "__main__":
    main()
