"""One of the processes that share the ports of a command: ``python -m services.worker DESCRIPTOR``.

Started by :mod:`services.workers` and by nobody else. Its orders come over the socket of that descriptor; when the
other end is gone, it drains and ends.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from dataclasses import replace
from functools import partial
from typing import Any

from services.assembly import Node, Share
from services.main import hush_terminal, load, run
from services.runtime.tasks import Tasks
from services.settings import Address, Settings
from services.settings_table import GATEWAY, UP
from services.worker_link import Link, Orders, families_to

_TELL_SECONDS = 0.1


def main() -> None:
    """Take orders and serve until told to stop. Exits as ``junctord`` does."""
    end = socket.socket(fileno=int(sys.argv[1]))
    orders = _orders(end)
    settings = _settings(orders)
    listener = socket.socket(fileno=orders.listener) if orders.listener is not None else None
    share = Share(first=orders.first, listener=listener, relay_to=orders.relay_to)
    sys.exit(run(settings, partial(_work, end, UP in orders.services), make=lambda _: Node(settings, share)))


def _orders(end: socket.socket) -> Orders:
    line = b""
    while not line.endswith(b"\n"):
        byte = end.recv(1)  # one at a time: what follows is the link's
        if not byte:
            sys.exit(1)
        line += byte
    given = json.loads(line)
    return Orders(**given | {"services": tuple(given["services"])})


def _settings(orders: Orders) -> Settings:
    settings = load(orders.flags, orders.services, program="junctor worker")
    services = ("inference-router", GATEWAY) if UP in orders.services else orders.services
    return replace(
        settings,
        services=services,
        grpc=Address(settings.grpc.host, orders.grpc_port),
        tls=replace(settings.tls, peer_port=orders.peer_port),
        admin_port=None,
        unknown=(),  # the supervisor said so, and what is exposed
        exposures=(),
    )


async def _work(end: socket.socket, has_screen: bool, node: Node, stop: asyncio.Event) -> None:
    if has_screen:
        hush_terminal(node.settings)
    end.setblocking(False)
    link = await Link.over(end)
    tasks = Tasks("worker")
    tasks.start(_obey(link, node, stop))
    try:
        await node.start()
        tasks.start(_tell(link, node))
        await stop.wait()
        link.send(ready=False)
        await node.stop()
    finally:
        await tasks.stop()
        await link.close()


async def _obey(link: Link, node: Node, stop: asyncio.Event) -> None:
    while (message := await link.receive()) is not None:
        if "scrape" in message:
            figures = families_to(node.families())
            link.send(scraped=message["scrape"], families=figures, details=dict(node.details()))
        if "debug" in message:
            link.send(debugged=message["debug"], **await _answer(node, message))
    stop.set()


async def _answer(node: Node, message: dict[str, Any]) -> dict[str, Any]:
    try:
        told = await node.debug(message["question"], message["body"])
    except ValueError as error:
        return {"refused": str(error)}
    return {"answer": told["process"]}


async def _tell(link: Link, node: Node) -> None:
    """Say that the worker listens, and each change of its readiness."""
    told: bool | None = None
    while True:
        ready = node.ready()
        if ready is not told:
            told = ready
            link.send(ready=ready, serving=True)
        await asyncio.sleep(_TELL_SECONDS)


if __name__ == "__main__":
    main()
