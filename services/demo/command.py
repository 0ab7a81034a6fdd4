"""``junctor demo-provider``: the demo provider alone, in the foreground."""

from __future__ import annotations

import asyncio
import errno
import signal
from typing import Annotated

import typer

from services.demo.app import PACE
from services.demo.server import start
from services.demo.wire import ECHO_MODEL


def command(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8090,
    pace: Annotated[float, typer.Option(help="Seconds between streamed tokens.", min=0)] = PACE,
) -> None:
    """Run the demo provider alone: an OpenAI-compatible server that needs no key."""
    try:
        asyncio.run(_run(host, port, pace))
    except OSError as error:
        typer.echo(_complaint(error, host, port), err=True)
        raise typer.Exit(1) from None


async def _run(host: str, port: int, pace: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    server = await start(host, port, pace=pace)
    typer.echo(welcome(server.url))
    await stop.wait()
    await server.stop()


def welcome(url: str) -> str:
    """Write what a started demo provider says: its URL and a call to paste."""
    body = f'{{"model":"{ECHO_MODEL}","stream":true,"messages":[{{"role":"user","content":"Hello"}}]}}'
    return (
        f"Demo provider on {url}/v1 (Ctrl-C stops it). Try:\n\n"
        f"  curl -N {url}/v1/chat/completions -H 'content-type: application/json' \\\n"
        f"    -d '{body}'\n"
    )


def _complaint(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"junctor: port {port} is taken; use --port"
    return f"junctor: cannot listen on {host}:{port}: {error.strerror or error}"
