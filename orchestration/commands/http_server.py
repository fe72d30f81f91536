"""Serving an app over HTTP until SIGTERM or SIGINT: for the collector, the read API."""

import os
import signal
import socket
from typing import TYPE_CHECKING

from ingest.errors import WarehouseError

if TYPE_CHECKING:
    from fastapi import FastAPI


def listen(host: str, port: int) -> socket.socket:
    """Raises `WarehouseError` for an address that is taken, or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise WarehouseError(
            f"{host}:{port}: cannot be listened on ({error.strerror or error}); choose "
            "another --host or --port"
        ) from error


def serve(app: "FastAPI", listener: socket.socket, *, name: str) -> None:
    """Returns after a signal, once the requests under way are answered."""
    import structlog
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=1000,
            timeout_graceful_shutdown=10,
        )
    )

    def stop(*_: object) -> None:
        server.should_exit = True

    # uvicorn stops on a signal, and raises it again afterwards: what follows this call
    # is still to be done then. Before it is up, nothing hears a signal.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    address = listener.getsockname()
    structlog.get_logger(name).info(
        "listening", host=address[0], port=address[1], pid=os.getpid()
    )
    server.run(sockets=[listener])
