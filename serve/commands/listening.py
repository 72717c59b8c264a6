"""`up`: HTTP until told to stop."""

import argparse
import logging
import socket

import uvicorn

from serve import logs
from serve.api import create_app
from serve.commands.parts import engine
from serve.new_items import MAX_BODY_BYTES
from serve.served import last_resort
from serve.settings import Settings

logger = logging.getLogger("serve")
DRAIN_S = 30


def up(chosen: Settings, _: argparse.Namespace) -> None:
    """Listen until told to stop, then finish what is in flight and take Triton down."""
    logs.configure(chosen.log)
    with _door(chosen) as door, engine(chosen, stand_in=last_resort) as made, made.fleet.watching():
        config = uvicorn.Config(
            create_app(made, chosen.access),
            http="h11",
            h11_max_incomplete_event_size=MAX_BODY_BYTES,  # a request line of a megabyte is refused by us, in words
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=DRAIN_S,
        )
        host, port = door.getsockname()[:2]
        logger.info("listening on http://%s:%s", host, port)
        uvicorn.Server(config).run(sockets=[door])


def _door(chosen: Settings) -> socket.socket:
    try:
        door = socket.create_server((chosen.host, chosen.port), backlog=2048)
    except OSError as error:
        where = f"{chosen.host}:{chosen.port}"
        raise OSError(f"{where} cannot be listened on ({error.strerror}); stop what holds it, or choose another by port=…") from error
    # Accepted connections inherit it. asyncio sets it only where a socket says that it is TCP, and else waits 40 ms for an acknowledgement.
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return door
