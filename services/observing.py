"""What a process tells of itself besides its services' own metrics: traces, a line per request, readiness, its drain.

Without a collector in the settings nothing is traced, and nothing of that is imported.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol

from services.runtime.finished import Hooks
from services.runtime.metrics import Family, Sample, gauge
from services.runtime.request_log import RequestLog
from services.runtime.tasks import Tasks
from services.settings import Settings

if TYPE_CHECKING:
    from services.runtime.otlp import OtlpExporter
    from services.runtime.tracing import Tracer


class Traced(Protocol):
    """A part of a process whose calls can be traced."""

    def trace(self, tracer: Tracer) -> None:
        """Trace calls from now on."""


class Observing:
    """One for each process."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is imported or sent before :meth:`start`. Belongs to the running loop."""
        self._settings = settings
        self._tasks = Tasks("observing")
        self._ready: dict[str, bool] = {}
        self._stores: dict[str, bool] = {}
        self._draining_since: float | None = None
        self._exporter: OtlpExporter | None = None
        self._tracer: Tracer | None = None
        self._log: RequestLog | None = None

    def start(self) -> None:
        """Begin to send spans, if the settings name a collector. Before the parts that are traced are made."""
        if self._settings.observing.collector is None:
            return
        from services.runtime.otlp import OtlpExporter
        from services.runtime.tracing import Tracer

        exporter = self._exporter = OtlpExporter(self._settings.observing.collector, _resource(self._settings))
        self._tracer = Tracer(exporter.export, ratio=self._settings.observing.trace_sample)
        self._tasks.start(exporter.run())

    def hooks(self, hooks: Hooks) -> None:
        """Write a line for each call of a router."""
        handler = next((each for each in logging.getLogger().handlers if isinstance(each, logging.StreamHandler)), None)
        if handler is not None:
            self._log = RequestLog(handler, sample=self._settings.observing.log_sample)
            hooks.add(self._log)

    def trace(self, part: Traced) -> None:
        """Trace the calls of a part, if anything is traced."""
        if self._tracer is not None:
            part.trace(self._tracer)

    def noted(self, service: str, *, ready: bool, stored: bool) -> None:
        """Take what a service said when it was last asked; ``stored``: that is whether its database answered."""
        self._ready[service] = ready
        if stored:
            self._stores[service] = ready

    def drains(self) -> None:
        """Note that the process begins to stop."""
        self._draining_since = time.monotonic()

    async def stop(self) -> None:
        """Send and write what waits."""
        await self._tasks.stop()
        if self._log is not None:
            await self._log.stop()
        if self._exporter is not None:
            await self._exporter.stop()

    def families(self) -> Iterable[Family]:
        """Return the metrics of all this."""
        since = self._draining_since
        drained = 0.0 if since is None else time.monotonic() - since
        limit = self._settings.drain_timeout
        yield Family("junctor_build_info", "gauge", "1; the release.", (Sample(1, {"version": version("junctor")}),))
        yield gauge("junctor_drain_seconds", "Seconds since the process was told to stop; 0: it was not.", drained)
        yield gauge("junctor_drain_limit_seconds", "How long requests under way may take then.", limit)
        ready = tuple(Sample(int(state), {"service": name}) for name, state in self._ready.items())
        yield Family("junctor_service_ready", "gauge", "1 while a service would serve a request.", ready)
        stores = tuple(Sample(int(state), {"store": name}) for name, state in self._stores.items())
        yield Family("junctor_database_up", "gauge", "1 while a service's database answers.", stores)
        if self._exporter is not None:
            yield from self._exporter.families()
        if self._log is not None:
            yield from self._log.families()


def _resource(settings: Settings) -> dict[str, str]:
    """Describe this process as OpenTelemetry's conventions do."""
    return {
        "service.name": "junctor",
        "service.version": version("junctor"),
        "service.instance.id": f"{platform.node()}-{os.getpid()}",
        "junctor.services": ",".join(settings.services),
    }
