"""Limits as one router process has them: its windows, its leases, the workspaces and prices that it knows."""

from __future__ import annotations

from junctor.channel import Peer
from services.inference_router.limits import Limiter
from services.inference_router.limits_calls import CallLimits
from services.inference_router.limits_leases import Leases
from services.inference_router.limits_prices import Prices
from services.inference_router.limits_workspaces import WorkspaceLimits
from services.runtime.tasks import Tasks


class ProcessLimits:
    """Wires them up. Made in the running loop."""

    def __init__(self, access_control: Peer, *, fail_open: bool = True) -> None:
        """``access_control`` is the process that has workspaces, prices and the quota service."""
        self.limiter = Limiter(fail_open=fail_open)
        self.leases = Leases(self.limiter, access_control)
        self.limiter.lessor = self.leases
        self.workspaces = WorkspaceLimits(access_control)
        self.limiter.workspaces = self.workspaces.limits
        self.prices = Prices(access_control)
        self.calls = CallLimits(self.limiter, self.prices)

    def start(self, tasks: Tasks) -> None:
        """Follow workspaces, and ask for leases and prices when there is need."""
        for work in (self.workspaces.follower.run(), self.leases.run(), self.prices.run()):
            tasks.start(work)
