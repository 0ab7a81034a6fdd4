"""Limits of keys and workspaces: reserved when a call is admitted, settled when it has ended.

One :class:`Limiter` for each router. It decides by what this router holds of each window: all of it where there is no
quota service (``lessor`` None), else its leases. A call takes from all its windows or from none; what it did not use
goes back. Nothing here is asked of callers without limits, and nothing is done per event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from junctor.errors import JunctorError, PeerUnavailable
from services.access.identity import Caller, Limits
from services.inference_router.limits_told import crowded, exceeded, fields_of, tightest
from services.inference_router.limits_windows import Period, Unit, Window, bounds
from services.runtime.exchange import Headers

PATIENCE = 0.5
"""Seconds that a call waits for a lease at most."""
FULL_SECONDS = 0.25
"""For how long what was refused is refused again without asking: a caller that hammers costs one question in that."""
_SUBJECTS = 20_000
"""Number of subjects at which those whose windows have all ended are forgotten."""
_REQUESTS, _TOKENS, _COST = Unit.REQUESTS, Unit.TOKENS, Unit.COST
_CANNOT_TELL = "Limits cannot be checked now: the quota service does not answer"


class Lessor(Protocol):
    """Gets more of windows; tells by :meth:`Limiter.answered` that it did, by :meth:`Limiter.lost` that it cannot."""

    @property
    def down(self) -> bool:
        """Nobody is there to ask."""

    def ask(self, window: Window) -> None:
        """Have more of a window soon. Returns at once; may be called often."""


class Subject:
    """The windows of one key or workspace as they are now."""

    __slots__ = ("limits", "name", "running", "until", "windows")

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        self.limits = limits
        self.windows: tuple[Window, ...] = ()
        self.until = 0.0
        """When the first of them ends."""
        self.running = 0
        """Calls under way, of a workspace: its ``concurrency`` holds here, a key's where it is proven."""


class Counted:
    """What the calls of one caller to one workspace count against, until a window ends or a limit changes."""

    __slots__ = ("room", "space", "told", "until", "windows")

    def __init__(self, mine: Subject | None, room: Subject | None, space: Limits | None) -> None:
        """``mine``: the key; ``room``: the workspace, of which ``space`` are the limits."""
        of_key, of_room = mine.windows if mine else (), room.windows if room else ()
        self.windows = (*of_key, *of_room)
        self.told = tuple(tightest(self.windows)) if of_key and of_room else self.windows
        self.room = room
        self.space = space
        self.until = min([subject.until for subject in (mine, room) if subject is not None], default=0.0)


class Hold:
    """What one call has reserved."""

    __slots__ = ("amounts", "counted", "tokens", "told")

    def __init__(self, counted: Counted, amounts: Sequence[int], told: Headers) -> None:
        self.counted = counted
        self.amounts = amounts
        self.told = told
        """Header fields of the answer."""
        self.tokens = (0, 0)
        """What was expected to go in, and to come out."""

    @property
    def has_budget(self) -> bool:
        """Tell whether what the call costs is counted."""
        return any(window.unit is _COST for window in self.counted.windows)


class _Waiter:
    __slots__ = ("amounts", "future", "since", "windows")

    def __init__(self, windows: Sequence[Window], amounts: Sequence[int], loop: asyncio.AbstractEventLoop) -> None:
        self.windows = windows
        self.amounts = amounts
        self.since = loop.time()
        self.future: asyncio.Future[None] = loop.create_future()


class Limiter:
    """See the module. Made and used inside one running event loop."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        fail_open: bool = True,
        patience: float = PATIENCE,
    ) -> None:
        """``clock`` is UNIX time. ``fail_open``: go on with a share of each window while nobody can be asked."""
        self.workspaces: Mapping[str, Limits] = {}
        """Limits of the workspaces that have any; somebody else keeps it up to date."""
        self.lessor: Lessor | None = None
        self.holders = 1
        """Routers that share the windows, as last heard: what each may use alone while nobody can be asked."""
        self.clock = clock
        self._loop = asyncio.get_running_loop()
        self._fail_open = fail_open
        self._patience = patience
        self._subjects: dict[str, Subject] = {}
        self._plans: dict[tuple[Caller, str], Counted] = {}
        self._waiters: list[_Waiter] = []

    # -- a call

    def concerns(self, caller: Caller, workspace: str) -> bool:
        """Tell whether a call counts against anything here."""
        return caller.limits.counted or (bool(self.workspaces) and workspace in self.workspaces)

    def has_budget(self, caller: Caller, workspace: str) -> bool:
        """Tell whether what a call costs is counted."""
        space = self.workspaces.get(workspace)
        return caller.limits.budget is not None or (space is not None and space.budget is not None)

    async def admit(self, caller: Caller, workspace: str, *, tokens: int, cost: int | None) -> Hold:
        """Reserve what a call may use; ``cost`` None: its price is not known. Raises LimitExceeded, PeerUnavailable."""
        hold = self.reserve(caller, workspace, tokens, cost)
        if hold is not None:
            return hold
        now = self.clock()
        counted = self._counted(caller, workspace, now)
        amounts = _amounts(counted.windows, tokens, cost or 0)
        room = counted.room
        if room is None:
            await self._await(counted.windows, amounts)
        else:
            room.running += 1  # who waits counts, or too many would be let in together
            try:
                await self._await(counted.windows, amounts)
            except BaseException:
                room.running -= 1
                raise
        return Hold(counted, amounts, fields_of(counted.told, now))

    def reserve(self, caller: Caller, workspace: str, tokens: int, cost: int | None) -> Hold | None:
        """Do as :meth:`admit` if what is needed is here; None: it has to be waited for. Raises LimitExceeded."""
        now = self.clock()
        counted = self._plans.get((caller, workspace))
        if counted is None or now >= counted.until or counted.space is not self.workspaces.get(workspace):
            counted = self._counted(caller, workspace, now)
        room = counted.room
        if room is not None:
            _require_room(room, workspace)
        windows = counted.windows
        amounts = _amounts(windows, tokens, cost or 0)
        for window, amount in zip(windows, amounts):  # noqa: B905 - of one length, and this is every call's way
            if window.left < amount:
                return None
        for window, amount in zip(windows, amounts):  # noqa: B905 - as above
            window.left = left = window.left - amount
            if left <= window.low and self.lessor is not None:
                self.lessor.ask(window)
        if room is not None:
            room.running += 1
        return Hold(counted, amounts, fields_of(counted.told, now))

    def _counted(self, caller: Caller, workspace: str, now: float) -> Counted:
        """Gather the windows that a caller's calls to a workspace count against now."""
        if len(self._plans) >= _SUBJECTS:
            self._plans.clear()
        space = self.workspaces.get(workspace)
        mine = self._subject(caller.principal, caller.limits, now) if caller.limits.counted else None
        room = None if space is None else self._subject(f"workspace:{workspace}", space, now)
        self._plans[caller, workspace] = counted = Counted(mine, room, space)
        return counted

    def settle(self, hold: Hold, *, requests: int, tokens: int, cost: int) -> None:
        """Count what a call has used instead of what it reserved; once."""
        counted = hold.counted
        for window, amount in zip(counted.windows, hold.amounts):  # noqa: B905 - of one length
            unit = window.unit
            used = requests if unit is _REQUESTS else tokens if unit is _TOKENS else cost
            if used != amount:
                window.left = left = window.left + amount - used
                if left < 0 and self.lessor is not None:
                    self.lessor.ask(window)  # the others have to know
        if counted.room is not None:
            counted.room.running -= 1
        if self._waiters:
            self.answered()

    def _take(self, windows: Sequence[Window], amounts: Sequence[int]) -> None:
        for window, amount in zip(windows, amounts, strict=True):
            window.left -= amount
            if window.left <= window.low and self.lessor is not None:
                self.lessor.ask(window)

    # -- what is not here at once

    async def _await(self, windows: Sequence[Window], amounts: Sequence[int]) -> None:
        """Take from windows of which too little is held: wait for a lease, within bounds."""
        lessor = self.lessor
        now = self._loop.time()
        for window, amount in zip(windows, amounts, strict=True):
            full = now < window.full_until and amount >= window.full_for
            known = full or window.spent + amount > window.allowed
            if window.left < amount and (lessor is None or known):
                raise exceeded(window, amount, windows, self.clock())
        if lessor is None or lessor.down:
            self._go_alone(windows, amounts)
            return
        waiter = _Waiter(windows, amounts, self._loop)
        self._waiters.append(waiter)
        for window, amount in zip(windows, amounts, strict=True):
            if window.left < amount:
                lessor.ask(window)
        timer = self._loop.call_later(self._patience, self._give_up, waiter)
        try:
            await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                for window, amount in zip(windows, amounts, strict=True):
                    window.left += amount
            raise
        finally:
            timer.cancel()

    def needs(self) -> dict[Window, int]:
        """Return how much of each window calls wait for."""
        found: dict[Window, int] = {}
        for waiter in self._waiters:
            if not waiter.future.done():
                for window, amount in zip(waiter.windows, waiter.amounts, strict=True):
                    found[window] = found.get(window, 0) + amount
        return found

    def answered(self) -> None:
        """Serve calls that wait, in their order, with what is held now; refuse those for which there is no more."""
        waiting, self._waiters = self._waiters, []
        for waiter in waiting:
            if waiter.future.done():
                continue
            lack = _lack(waiter)
            if lack is None:
                self._take(waiter.windows, waiter.amounts)
                waiter.future.set_result(None)
            elif lack[0].heard >= waiter.since and lack[0].used + lack[1] > lack[0].allowed:
                self._refuse(waiter, *lack)
            else:
                self._waiters.append(waiter)
        if self.lessor is not None:
            for waiter in self._waiters:  # other routers hold it; they give back what they do not need
                if (lack := _lack(waiter)) is not None:
                    self.lessor.ask(lack[0])

    def lost(self) -> None:
        """Have calls that wait go on alone: nobody is there to ask."""
        waiting, self._waiters = self._waiters, []
        for waiter in waiting:
            self._end_alone(waiter)

    def _give_up(self, waiter: _Waiter) -> None:
        """Let a call wait no longer."""
        if waiter.future.done():
            return
        self._waiters = [other for other in self._waiters if other is not waiter]
        lack = _lack(waiter)
        if lack is not None and lack[0].heard >= waiter.since:
            self._refuse(waiter, *lack)
        else:
            self._end_alone(waiter)

    def _end_alone(self, waiter: _Waiter) -> None:
        if waiter.future.done():
            return
        try:
            self._go_alone(waiter.windows, waiter.amounts)
        except JunctorError as error:
            waiter.future.set_exception(error)
        else:
            waiter.future.set_result(None)

    def _refuse(self, waiter: _Waiter, window: Window, amount: int) -> None:
        window.full_for = amount
        window.full_until = self._loop.time() + FULL_SECONDS
        waiter.future.set_exception(exceeded(window, amount, waiter.windows, self.clock()))

    def _go_alone(self, windows: Sequence[Window], amounts: Sequence[int]) -> None:
        """Take without asking: up to an even share of each window, as many as there were routers."""
        for window, amount in zip(windows, amounts, strict=True):
            if window.left >= amount:
                continue
            if not self._fail_open:
                raise PeerUnavailable(_CANNOT_TELL, retry_after=1.0)
            share = min(max(1, window.allowed // self.holders), window.allowed - window.others)
            if window.spent + amount > share:
                raise exceeded(window, amount, windows, self.clock())
        self._take(windows, amounts)
        for window in windows:
            if window.left < 0 and self.lessor is not None:
                self.lessor.ask(window)  # told as soon as somebody listens

    # -- windows

    def _subject(self, name: str, limits: Limits, now: float) -> Subject:
        subject = self._subjects.get(name)
        if subject is None or subject.limits is not limits or now >= subject.until:
            return self._renewed(subject, name, limits, now)
        return subject

    def _renewed(self, subject: Subject | None, name: str, limits: Limits, now: float) -> Subject:
        """Begin the windows of a subject, keep those that go on, and take its limits as they are now."""
        if subject is None:
            if len(self._subjects) >= _SUBJECTS:
                self._forget(now)
            subject = self._subjects[name] = Subject(name, limits)
        subject.limits = limits
        before = {(window.unit, window.start, window.end): window for window in subject.windows}
        windows = []
        for unit, allowed, period in _wanted(limits):
            span = bounds(period, now)
            window = before.get((unit, *span)) or Window(name, unit, allowed, span)
            window.allowed = allowed
            if self.lessor is None:
                window.fill()
            windows.append(window)
        subject.windows = tuple(windows)
        subject.until = min((window.end for window in windows), default=float("inf"))
        return subject

    def _forget(self, now: float) -> None:
        for name, subject in list(self._subjects.items()):
            if not subject.running and all(window.end <= now for window in subject.windows):
                del self._subjects[name]


def _wanted(limits: Limits) -> list[tuple[Unit, int, Period]]:
    wanted = []
    if limits.requests_per_minute is not None:
        wanted.append((Unit.REQUESTS, limits.requests_per_minute, Period.MINUTE))
    if limits.tokens_per_minute is not None:
        wanted.append((Unit.TOKENS, limits.tokens_per_minute, Period.MINUTE))
    if limits.budget is not None:
        wanted.append((Unit.COST, limits.budget.micros, Period(limits.budget.period)))
    return wanted


def _amounts(windows: Sequence[Window], tokens: int, cost: int) -> list[int]:
    """Return what a call takes of each window. What is more than all of it would never be served: it takes all."""
    amounts = []
    for window in windows:
        unit = window.unit
        if unit is _REQUESTS:
            amounts.append(1)
        else:
            amount = tokens if unit is _TOKENS else cost
            amounts.append(amount if amount < window.allowed else window.allowed)
    return amounts


def _require_room(room: Subject, workspace: str) -> None:
    most = room.limits.concurrency
    if most is not None and room.running >= most:
        raise crowded(workspace, most, room.running)


def _lack(waiter: _Waiter) -> tuple[Window, int] | None:
    """Return the first window that has too little for a call, and what the call needs of it."""
    for window, amount in zip(waiter.windows, waiter.amounts, strict=True):
        if window.left < amount:
            return window, amount
    return None
