"""``junctor up``: all services and the edge in one process, with the demo provider and detection."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import ssl
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from services.demo.server import RunningDemo
from services.demo.server import start as start_demo
from services.main import Site, hush_terminal, load, make_site, run
from services.runtime.certificates import CertificateError
from services.runtime.tasks import Tasks
from services.settings import Settings
from services.settings_table import UP
from services.up import own_tls
from services.up.detect import detect
from services.up.edge import EdgeRefused
from services.up.findings import State
from services.up.register import NAME, WORKSPACE, register_demo
from services.up.screen import Facts, program_name, reachable_host, reachable_url, render

READY_SECONDS = 30.0
"""How long the screen waits for the services; they go on starting after it."""
_MODELS_SECONDS = 2.0
"""How long the screen waits for a first model."""
_POLL_SECONDS = 0.02

_log = logging.getLogger(__name__)


def command(  # noqa: PLR0913, PLR0917 - one parameter per flag
    host: Annotated[str | None, typer.Option(help="Address of the HTTP edge. [default: 127.0.0.1]")] = None,
    port: Annotated[str | None, typer.Option(help="Port of the HTTP edge. [default: 8080]")] = None,
    grpc_host: Annotated[str | None, typer.Option(help="Address of the gRPC listener. [default: 127.0.0.1]")] = None,
    grpc_port: Annotated[str | None, typer.Option(help="Port of the gRPC listener. [default: 50051]")] = None,
    admin_port: Annotated[str | None, typer.Option(help="Operators' port: health and metrics. [default: off]")] = None,
    workers: Annotated[str | None, typer.Option(help="Processes for gateway and router. [default: 1]")] = None,
    data_dir: Annotated[str | None, typer.Option(help="SQLite files. [default: ./junctor-data]")] = None,
    database_url: Annotated[str | None, typer.Option(help="postgresql://… instead of SQLite.")] = None,
    demo: Annotated[bool | None, typer.Option("--demo/--no-demo", help="The demo provider. [default: on]")] = None,
    detect_: Annotated[
        bool | None,
        typer.Option("--detect/--no-detect", help="Look for local model servers and provider keys. [default: on]"),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page at /console in the browser.")] = False,
    config: Annotated[str | None, typer.Option(help="TOML file with settings.")] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the settings in force, and exit.")
    ] = False,
) -> None:
    """Start everything in one process on this machine: services, HTTP edge, demo provider.

    Every flag has a variable (JUNCTOR_PORT …); the README lists them all.

    Examples:

      junctor up

      junctor up --port 9000 --no-demo

      junctor up --open

      OPENAI_API_KEY=… junctor up
    """
    flags: dict[str, Any] = {
        "host": host,
        "port": port,
        "grpc_host": grpc_host,
        "grpc_port": grpc_port,
        "admin_port": admin_port,
        "workers": workers,
        "data_dir": data_dir,
        "database_url": database_url,
        "demo": demo,
        "detect": detect_,
        "config": config,
        "print_config": print_config,
    }
    settings = load(flags, (UP,), program="junctor up")
    raise typer.Exit(run(settings, partial(up, opens=open_), make=partial(make_site, flags=flags)))


async def up(node: Site, stop: asyncio.Event, *, opens: bool = False) -> None:
    """Run until ``stop``: start the node, register what is there, show the screen, open the console if asked to."""
    settings = node.settings
    hush_terminal(settings)
    demo: RunningDemo | None = None
    greeting = Tasks("up")
    try:
        if sys.stdout.isatty():
            _say("junctor is starting …")
        await node.start()
        if settings.demo:
            demo = await start_demo()
        greeting.start(_greet(node, settings, demo, opens=opens))
        await stop.wait()
        await greeting.stop()
        _say("\nStopping: streams under way may finish. Ctrl-C again to stop at once.")
        await node.stop()
    finally:
        if demo is not None:  # after the node, whose streams it feeds
            await demo.stop()


async def _greet(node: Site, settings: Settings, demo: RunningDemo | None, *, opens: bool) -> None:
    """Register the demo and what detection finds, then print the screen."""
    try:
        facts = await _prepare(node, settings, demo)
    except (httpx.HTTPError, TimeoutError, CertificateError):
        _log.warning("the services are not ready after %d s; they go on starting", READY_SECONDS)
        return
    _say(render(facts, colour=sys.stdout.isatty()))
    if opens and not facts.console:
        _log.warning("there is no console to open: JUNCTOR_CONSOLE is off")
    elif opens and not await asyncio.to_thread(webbrowser.open, f"{facts.url}/console"):
        _log.warning("no browser could be started; the console is at %s/console", facts.url)


async def _prepare(node: Site, settings: Settings, demo: RunningDemo | None) -> Facts:
    tls = settings.tls.edge
    url = reachable_url(settings.edge.host, node.http_port, scheme="https" if tls else "http")
    verify: ssl.SSLContext | bool = own_tls.trusting(tls) if tls else True
    own = {node.http_port, node.grpc_port, settings.admin_port or 0} | ({demo.port} if demo else set())
    shown = {"authorization": f"Bearer {node.own_credential.reveal()}"} if settings.auth.on else {}
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=10, verify=verify, headers=shown) as client:
        await _until_ready(client)
        found: Sequence[str] = ()
        registered = demo is not None and await _registered(client, demo.url)
        if settings.detect:
            found = [finding.line for finding in await detect(client, environment=os.environ, own_ports=own)]
        if demo is not None and registered:
            await _until_routed(client, demo.url)
        models = await _models(client, expect=registered or bool(found))
    named = own_tls.name_in(tls, reachable_host(settings.edge.host)) if tls else ""
    return Facts(
        url=reachable_url(named, node.http_port, scheme="https") if tls else url,
        grpc_target=f"{named or settings.grpc.host}:{node.grpc_port}",
        certificate=str(tls.certificate.absolute()) if tls else "",
        data_dir=str(settings.data_dir.absolute()),
        models=models,
        auth=settings.auth.on,
        console=settings.console,
        detected=found,
        version=version("junctor"),
        program=program_name(shutil.which("junctor"), Path(sys.argv[0]), Path.cwd()),
    )


async def _registered(client: httpx.AsyncClient, demo_url: str) -> bool:
    """Register the demo; False if ``default/demo`` is a provider of the user's, or it could not be done."""
    try:
        return await register_demo(client, demo_url) is not State.LEFT_ALONE
    except EdgeRefused as error:
        _log.warning("the demo provider could not be registered: %s", error)
        return False


async def _until_ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(READY_SECONDS):
        while True:
            if (await client.get("/health/ready")).status_code == httpx.codes.OK:
                return
            await asyncio.sleep(_POLL_SECONDS)


async def _until_routed(client: httpx.AsyncClient, demo_url: str) -> None:
    """Wait a moment until the router knows where the demo listens: after a restart it is another port."""
    path = f"/apis/inference-gateway/v2/workspaces/{WORKSPACE}/provider/{NAME}/ready"
    try:
        async with asyncio.timeout(_MODELS_SECONDS):
            while True:
                answer = await client.get(path)
                if answer.status_code == httpx.codes.OK and answer.json().get("host_url") == demo_url:
                    return
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        return


async def _models(client: httpx.AsyncClient, *, expect: bool) -> list[str]:
    """Return the routable ids, after a moment for discovery when there should be some."""
    models: list[str] = []
    try:
        async with asyncio.timeout(_MODELS_SECONDS):
            while True:
                answer = await client.get("/v1/models")
                models = [model["id"] for model in answer.json().get("data", []) if _is_ours(model)]
                if models or not expect:
                    return models
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        return models


def _is_ours(model: Mapping[str, str]) -> bool:
    """Tell a name of junctor's (``workspace/model``) from an upstream's id, which resolves as well."""
    return model["id"].startswith(f"{model['owned_by']}/")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
