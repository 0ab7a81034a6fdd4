"""``--workers N``: one supervisor, and N processes that share the ports of gateway and router.

Each worker has a listening socket of its own for the edge (SO_REUSEPORT), which the supervisor keeps open: what was
connected while a worker ends or starts waits for the next one. gRPC's listeners belong to the workers, so a restart
begins the new worker before it ends the old one. In ``junctor up`` the registries run here, once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from services.assembly import REGISTRIES, ROUTER, Node
from services.runtime.admin_http import AdminServer
from services.runtime.auth import Secret, load_or_create_token, own_credential
from services.runtime.debugging import Debugging
from services.runtime.failures import CannotStart
from services.runtime.http_server import listen_group
from services.runtime.keyring import Keyring
from services.runtime.metrics import Family, Sample, process_metrics
from services.runtime.server import BindError, reserve
from services.runtime.tasks import Tasks
from services.runtime.telemetry import redactor_of
from services.settings import Address, Settings
from services.settings_table import GATEWAY, PORTS, UP
from services.settings_tls import Tls
from services.worker_link import Link, Orders, merged
from services.worker_process import FIRST_BACKOFF, GOOD_SECONDS, LAST_BACKOFF, Slot, Worker

READY_SECONDS = 30.0
"""How long a restart waits for the new worker before it keeps the old one."""
_OVERTIME = 5.0
"""Seconds beyond the drain limit after which a worker is killed."""
_SCRAPE_SECONDS = 2.0
_DEBUG_SECONDS = 10.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Plan:
    """What every worker is told."""

    services: tuple[str, ...]
    flags: dict[str, Any]
    relay_to: str = ""
    slots: list[Slot] = field(default_factory=list)


class Supervisor:
    """Starts, watches, restarts and ends the workers; has the same ways in as a :class:`Node`."""

    def __init__(self, settings: Settings, flags: Mapping[str, Any]) -> None:
        """``flags`` are those that ``settings`` was loaded with. Nothing is started yet."""
        self.settings = settings
        self.names = (*PORTS, GATEWAY) if UP in settings.services else settings.services
        self.http_port = 0
        self.grpc_port = 0
        self.peer_port: int | None = None
        self._plan = _Plan(settings.services, dict(flags))
        self._token = load_or_create_token(settings.service_token_file)
        self._registries: Node | None = None
        self._reserved: list[socket.socket] = []
        self._admin: AdminServer | None = None
        self._own = process_metrics(time.time())
        self._debugging = Debugging(self._about, self._redact)
        self._tasks = Tasks("supervisor")
        self._stopping = False
        self._scrapes = 0
        self._rolling = asyncio.Lock()

    @property
    def own_credential(self) -> Secret:
        """What this process shows at its own edge."""
        return own_credential(self._token)

    @property
    def secrets(self) -> Sequence[Secret]:
        """What must never be logged."""
        return [secret for secret in (self._token, self.settings.auth.admin_key) if secret is not None]

    async def start(self) -> None:
        """Take the ports and start every worker. Raises CannotStart, OSError; call :meth:`stop` then as well."""
        self._take_ports()
        if self.settings.admin_port is not None:
            await self._start_admin(self.settings.admin_port)
        if UP in self.settings.services:
            await self._start_registries()
        if ROUTER in self.names:
            Keyring.load_or_create(self.settings.secret_key_file)  # once, before several look for it
        first, *others = self._plan.slots
        await self._first_start(first)  # alone: what keeps it from starting is said once
        await asyncio.gather(*(self._first_start(slot) for slot in others))
        if not sys.stderr.isatty():  # a terminal that closes says the same
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._restart_soon)

    async def stop(self) -> None:
        """Let every worker drain, kill what overruns the limit, then end the registries."""
        self._stopping = True
        for slot in self._plan.slots:
            if slot.listener is not None:  # first: a worker takes what is connected, then the last copy is closed
                slot.listener.close()
        workers = [worker for slot in self._plan.slots for worker in (slot.worker, slot.starting) if worker]
        await asyncio.gather(*(self._end(worker) for worker in workers))
        await self._tasks.stop()
        if self._registries is not None:
            await self._registries.stop()
        if self._admin is not None:
            await self._admin.stop()
        for taken in self._reserved:
            taken.close()

    def end_now(self) -> None:
        """Kill every worker."""
        for slot in self._plan.slots:
            for worker in (slot.worker, slot.starting):
                if worker is not None:
                    worker.signal(signal.SIGKILL)

    async def restart(self) -> None:
        """Exchange every worker for a new one, one after the other, without a moment in which nobody listens."""
        async with self._rolling:
            for slot in self._plan.slots:
                if self._stopping or not await self._exchange(slot):
                    return
        _log.info("every worker was restarted")

    # -- the parts

    def _take_ports(self) -> None:
        edge, grpc, count = self.settings.edge, self.settings.grpc, self.settings.workers
        listeners: list[socket.socket | None] = [None] * count
        if GATEWAY in self.names:
            group = listen_group(edge.host, edge.port, count)
            self.http_port = int(group[0].getsockname()[1])
            listeners = [*group]
        self._plan.slots = [Slot(number, one) for number, one in enumerate(listeners, start=1)]
        if ROUTER in self.names:
            self.grpc_port = self._reserve(grpc.host, grpc.port, flag="--grpc-port")
            if (port := self.settings.tls.peer_port) is not None:
                self.peer_port = self._reserve(grpc.host, port, flag="--peer-port")

    def _reserve(self, host: str, port: int, *, flag: str) -> int:
        taken = reserve(host, port, flag=flag)
        self._reserved.append(taken)
        return int(taken.getsockname()[1])

    async def _start_admin(self, port: int) -> None:
        self._admin = AdminServer(
            readiness=self.checks,
            collectors=[self.families],
            details=self.details,
            gather=self._gather,
            debug=self.debug,
            token=self._token,
        )
        host = self.settings.grpc.host
        try:
            await self._admin.start(host, port)
        except OSError as error:
            raise BindError(host, port, error.errno or 0, error.strerror or str(error), flag="--admin-port") from error

    async def _start_registries(self) -> None:
        inside = replace(self.settings, grpc=Address("127.0.0.1", 0), tls=Tls(), exposures=())  # workers alone call it
        own = replace(inside, services=REGISTRIES, admin_port=None)
        self._registries = Node(own)
        await self._registries.start()
        self._plan.relay_to = f"127.0.0.1:{self._registries.grpc_port}"

    # -- workers

    async def _launch(self, slot: Slot) -> Worker:
        ours, theirs = socket.socketpair()
        kept = [theirs.fileno()] + ([slot.listener.fileno()] if slot.listener is not None else [])
        with theirs:
            # Not the loop's own: uvloop forks, which grpc's threads do not bear; this does not (vfork).
            process = subprocess.Popen(  # noqa: ASYNC220, S603
                # -P: nothing in the current folder is ours
                [sys.executable, "-P", "-m", "services.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=kept,
                start_new_session=True,  # Ctrl-C is for the supervisor, which tells the workers
            )
        ours.setblocking(False)
        worker = Worker(process, await Link.over(ours))
        plan = self._plan
        orders = Orders(
            plan.services,
            plan.flags,
            self.grpc_port,
            self.peer_port,
            slot.number == 1,
            slot.listener.fileno() if slot.listener is not None else None,
            plan.relay_to,
        )
        worker.link.send(**asdict(orders))
        self._tasks.start(self._watch(slot, worker))
        return worker

    async def _first_start(self, slot: Slot) -> None:
        slot.worker = await self._launch(slot)
        while not slot.worker.serving.is_set():
            if slot.worker.code is not None:
                raise CannotStart("a worker could not start; its reason is above")
            await slot.worker.changed.wait()

    async def _watch(self, slot: Slot, worker: Worker) -> None:
        """Follow a worker to its end, and start another if nobody asked for the end."""
        code = await worker.listen()
        if self._stopping or slot.worker is not worker or not worker.serving.is_set():
            return
        if time.monotonic() - worker.born > GOOD_SECONDS:
            slot.backoff = FIRST_BACKOFF
        while not self._stopping:
            _log.error("%s ended: %s; another one follows in %.1f s", slot.name, _why(code), slot.backoff)
            await asyncio.sleep(slot.backoff)
            slot.backoff = min(2 * slot.backoff, LAST_BACKOFF)
            slot.restarts += 1
            slot.worker = again = await self._launch(slot)
            while again.code is None and not again.serving.is_set():
                await again.changed.wait()
            if again.serving.is_set():
                return  # its own watch goes on
            code = again.code or 0

    async def _exchange(self, slot: Slot) -> bool:
        """Put a new worker in a slot; the old one drains once the new one is ready. False: the old one stays."""
        slot.starting = new = await self._launch(slot)
        try:
            async with asyncio.timeout(READY_SECONDS):
                ready = await new.becomes_ready()
        except TimeoutError:
            ready = False
        if self._stopping:
            return False
        slot.starting = None
        if not ready:
            _log.error("the new %s did not become ready; the old one goes on", slot.name)
            await self._end(new)
            return False
        old, slot.worker = slot.worker, new
        slot.restarts += 1
        if old is not None:
            await self._end(old)
        return True

    def _restart_soon(self) -> None:
        self._tasks.start(self.restart())

    async def _end(self, worker: Worker) -> None:
        worker.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.settings.drain_timeout + _OVERTIME):
                await worker.ended.wait()
        except TimeoutError:
            worker.signal(signal.SIGKILL)
            await worker.ended.wait()

    # -- for operators

    def ready(self) -> bool:
        """Tell whether every worker, and every registry here, would serve a request."""
        return all(self.checks().values())

    def checks(self) -> Mapping[str, bool]:
        """Return every worker with its state, and the registries' services in ``up``."""
        workers = {slot.name: slot.worker is not None and slot.worker.ready for slot in self._plan.slots}
        return {**(self._registries.checks() if self._registries is not None else {}), **workers}

    def details(self) -> Mapping[str, float]:
        """Return the worst of each figure that the workers told when last asked."""
        found: dict[str, float] = {}
        for slot in self._plan.slots:
            for name, value in (slot.worker.details if slot.worker is not None else {}).items():
                found[name] = max(value, found.get(name, value))
        return found

    def families(self) -> list[Family]:
        """Return the metrics of all processes, each sample with the label ``process``."""
        by_process = {"supervisor": [*self._own()] if self._registries is None else self._registries.families()}
        for slot in self._plan.slots:
            if slot.worker is not None and slot.worker.code is None:
                by_process[slot.name] = slot.worker.families
        restarts = tuple(Sample(slot.restarts, {"process": slot.name}) for slot in self._plan.slots)
        text = "Times that a worker was started again."
        return [*merged(by_process), Family("junctor_worker_restarts_total", "counter", text, restarts)]

    async def debug(self, question: str, body: object = None) -> dict[str, object]:
        """Answer an operator for every process; see :mod:`services.runtime.debugging`. Raises ValueError."""
        self._scrapes += 1
        number = self._scrapes
        found: dict[str, object] = {"supervisor": await self._debugging.answer(question, body)}
        if self._registries is not None and body is None:  # in this process: its log levels are the supervisor's
            found["registries"] = (await self._registries.debug(question))["process"]
        workers = {slot.name: slot.worker for slot in self._plan.slots if slot.worker is not None}
        async with asyncio.timeout(_DEBUG_SECONDS):
            answers = await asyncio.gather(*(worker.ask(number, question, body) for worker in workers.values()))
        return {**found, **dict(zip(workers, answers, strict=True))}

    def _redact(self, value: object) -> object:
        return redactor_of(self.secrets).field("", value)

    async def _about(self) -> dict[str, object]:
        from services.process_report import about

        return about(self.settings, checks=self.checks(), stores={}, router={})

    async def _gather(self) -> None:
        self._scrapes += 1
        workers = [slot.worker for slot in self._plan.slots if slot.worker is not None]
        try:
            async with asyncio.timeout(_SCRAPE_SECONDS):
                await asyncio.gather(*(worker.scrape(self._scrapes) for worker in workers))
        except TimeoutError:
            _log.warning("a worker did not tell its metrics in time; those of its last answer are shown")


def _why(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
