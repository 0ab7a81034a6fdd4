"""Gets shares of limits from the quota service and gives back what is not needed: off the path of calls.

One question at a time, about all windows that have something to say. Amounts are absolute, so a question whose answer
was lost does no harm. A share is sized by the demand since the last question; more is asked for while half is left.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Final

from junctor.channel import Peer
from junctor.errors import JunctorError
from junctor.v1 import quota_pb2 as pb
from junctor.v1 import quota_pb2_grpc
from services.inference_router.limits import Limiter
from services.inference_router.limits_windows import NEVER, Window

ASK_SECONDS = 2.0
"""How long an answer may take."""
AGAIN_SECONDS = 0.05
"""Between two questions about a window that other routers hold."""
DOWN_SECONDS = 1.0
"""Between two questions while nobody answers."""
LOOK_SECONDS = 0.5
"""Between two looks for shares that nobody uses."""
RENEW_SECONDS = 60.0
"""A share is spoken of this often, or the service takes its holder for dead and gives it to others."""
GREET_SECONDS = 20.0
"""A router that has nothing to ask says this often that it is there: the service counts those of the last minute."""
LARGEST_SHARE: Final = 8
"""A share, beyond what calls wait for, is at most this part of a window."""
_SMALLEST_SHARE = 128
_MOST_WISHES = 1_000

_log = logging.getLogger(__name__)


def declared_lease(allowed: int) -> int:
    """Return how much of a window a router may hold for later calls at most."""
    return max(1, allowed // LARGEST_SHARE)


class Leases:
    """The :class:`~services.inference_router.limits.Lessor` of a router with a quota service. :meth:`run` is a task."""

    def __init__(self, limiter: Limiter, metering: Peer, *, pauses: Callable[[float], float] = float) -> None:
        """``pauses`` turns the figures above into seconds: tests shorten them."""
        self.limiter = limiter
        self.holder = secrets.token_hex(8)
        self._peer = metering
        self._stub = quota_pb2_grpc.QuotaStub(metering.channel)
        self._pauses = pauses
        self._loop = asyncio.get_running_loop()
        self._dirty: dict[Window, bool] = {}
        """Windows to speak of, and whether more is wanted of them."""
        self._under_way: Mapping[Window, bool] = {}
        """Of which the question is that was not answered yet."""
        self._held: dict[Window, float] = {}
        """Windows that are not over, and when they were last spoken of."""
        self._holding = asyncio.Event()
        self._wake = asyncio.Event()
        self._number = 0
        self._greets = True
        """It is to be said that this router is there, whatever else is asked."""
        self._down = False

    @property
    def down(self) -> bool:
        """The last question was not answered."""
        return self._down

    def ask(self, window: Window) -> None:
        """Have more of a window, or have it said that more was used than held."""
        window.low = NEVER  # asked: not by every call until there is an answer
        self._dirty[window] = True
        self._wake.set()

    async def run(self) -> None:
        """Ask until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask_forever())
            group.create_task(self._look_forever())
            group.create_task(self._greet_forever())

    async def give_back(self) -> None:
        """Give back all that is not used, once: the router ends."""
        now = self.limiter.clock()
        windows = [window for window in self._held if window.end > now]
        for window in windows:
            window.hold(window.spent)
        if windows and not self._down:
            await self._ask(dict.fromkeys(windows, False), {})

    # -- asking

    async def _ask_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self._ask_all():
                await asyncio.sleep(self._pauses(DOWN_SECONDS))
                self._wake.set()
            elif self._dirty:  # others hold what calls here wait for
                await asyncio.sleep(self._pauses(AGAIN_SECONDS))
                self._wake.set()

    async def _ask_all(self) -> bool:
        while self._dirty or self._down or self._greets:
            now = self.limiter.clock()
            live = [(window, more) for window, more in self._dirty.items() if window.end > now]
            batch, self._dirty = dict(live[:_MOST_WISHES]), dict(live[_MOST_WISHES:])
            if not (batch or self._down or self._greets):  # of one who is down it is asked whether it is back
                break
            if not await self._ask(batch, self.limiter.needs()):
                self._dirty = batch | self._dirty
                self._went_down()
                return False
            if self._down:
                self._down = False
                _log.info("the quota service answers again")
            more, self._dirty = self._dirty, {}
            self.limiter.answered()  # may ask for what others hold
            if not more:
                return True
            self._dirty |= more
        return True

    async def _ask(self, windows: Mapping[Window, bool], needs: Mapping[Window, int]) -> bool:
        self._number += 1
        request = pb.LeaseRequest(holder=self.holder, lease_id=self._number)
        put_at = self._loop.time()
        said = [window.spent for window in windows]
        for (window, more), spent in zip(windows.items(), said, strict=True):
            needed = spent + needs.get(window, 0)
            share = self._share(window, spent) if more else 0
            # What is held is given back where nothing can be taken from it meanwhile: in `look`.
            request.wishes.append(_wish(window, spent, needed, max(needed + share, window.granted)))
            window.asked = spent
        self._under_way = windows
        try:
            response = await self._peer.call(self._stub.Lease, request, timeout=self._pauses(ASK_SECONDS))
        except JunctorError as error:
            _log.debug("no lease", extra={"reason": error.reason})
            return False
        finally:
            self._under_way = {}
        self._greets = False
        self.limiter.holders = max(1, response.holders)
        for window, wish, grant in zip(windows, request.wishes, response.grants, strict=True):
            _take(window, grant, wish)
            window.heard = put_at
            self._held[window] = put_at
            self._holding.set()
        return True

    def _share(self, window: Window, spent: int) -> int:
        """Return how much to hold for later calls: twice what was used since the last question, within bounds."""
        smallest = -(-window.allowed // _SMALLEST_SHARE)
        return min(max(2 * (spent - window.asked), smallest), declared_lease(window.allowed))

    def _went_down(self) -> None:
        if not self._down:
            self._down = True
            _log.warning("the quota service does not answer: limits hold as JUNCTOR_QUOTA_FAIL says")
        self.limiter.lost()

    async def _greet_forever(self) -> None:
        while True:
            self._greets = True
            self._wake.set()
            await asyncio.sleep(self._pauses(GREET_SECONDS))

    # -- giving back

    async def _look_forever(self) -> None:
        while True:
            await self._holding.wait()
            await asyncio.sleep(self._pauses(LOOK_SECONDS))
            self.look()
            if not self._held:
                self._holding.clear()

    def look(self) -> None:
        """Forget windows that are over; of those not used since the last look tell the use, give back the rest."""
        now, loop_now = self.limiter.clock(), self._loop.time()
        for window, spoken in list(self._held.items()):
            if window.end <= now:
                del self._held[window]
                continue
            if window in self._under_way:  # the answer says again what is held: what was given back would come back
                continue
            idle = window.seen == window.spent
            window.seen = window.spent
            if idle and window.left > 0:
                window.hold(window.spent)
                window.asked = window.spent
                self._say(window)
            elif idle and window.spent != window.reported:
                self._say(window)  # calls of other routers wait for as long as more may be given back
            elif loop_now - spoken > RENEW_SECONDS and window.left > 0:
                self._say(window)

    def _say(self, window: Window) -> None:
        self._dirty.setdefault(window, False)
        self._wake.set()


def _wish(window: Window, used: int, needed: int, wanted: int) -> pb.LeaseWish:
    wish = pb.LeaseWish(used=used, needed=needed, wanted=wanted)
    wish.window.subject = window.subject
    wish.window.unit = pb.QuotaUnit.ValueType(window.unit.value)
    wish.window.start.seconds = window.start
    wish.window.end.seconds = window.end
    wish.window.allowed = window.allowed
    return wish


def _take(window: Window, grant: pb.LeaseGrant, wish: pb.LeaseWish) -> None:
    window.hold(grant.granted)
    window.others = max(0, grant.taken - max(grant.granted, wish.used))
    window.used_by_all = grant.used
    window.reported = wish.used
    # Where less was given than wanted there is hardly more: calls that need it ask themselves.
    window.low = window.left // 2 if grant.granted >= wish.wanted > wish.used else NEVER
