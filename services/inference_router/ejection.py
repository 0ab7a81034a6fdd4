"""Passive health of one (provider, model): when it is out, when it is probed again.

Immutable states and pure transitions; time (monotonic seconds) is passed in. Being out only *orders* the
candidates of a call: one that is out is tried after all others, so a single candidate is never out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

FAULTS_TO_EJECT = 5
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 10.0
LONGEST_REST = 60.0

_FAULTY_STATUS = frozenset({401, 403, 404})


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of one (provider, model). The default is a healthy one."""

    faults: int = 0
    """Provider faults in a row."""
    pause: float = 0.0
    """Length of the last ejection in seconds; 0: none since the last success."""
    out_until: float = 0.0
    rest_until: float = 0.0
    """The provider asked not to be called before."""
    probing: bool = False
    """After an ejection: one call is finding out whether it is well again."""


HEALTHY = Health()


def is_fault(status: int) -> bool:
    """Tell whether an HTTP status counts as the provider's fault: 5xx, and 401, 403, 404 (its key, its model)."""
    return status >= 500 or status in _FAULTY_STATUS


def returns_at(health: Health, now: float) -> float:
    """Return when it takes calls again; 0.0: it does now. A probe under way: ``now``, so it is first of the out."""
    until = max(health.out_until, health.rest_until)
    if until > now:
        return until
    return now if health.probing else 0.0


def why_out(health: Health, now: float) -> str:
    """Name the reason for programs: ``ejected``, ``resting``, ``probing``; empty if it takes calls."""
    if health.out_until > now:
        return "ejected"
    if health.rest_until > now:
        return "resting"
    return "probing" if health.probing else ""


def started(health: Health, now: float) -> Health:
    """A call to it begins. The first one after an ejection is the probe."""
    half_open = health.pause > 0 and returns_at(health, now) == 0.0
    return replace(health, probing=True) if half_open else health


def abandoned(health: Health) -> Health:
    """A call ended without telling anything: the caller left."""
    return replace(health, probing=False) if health.probing else health


def succeeded(health: Health, now: float) -> Health:
    """A call was answered well, or with an error that is the caller's. A rest that was asked for goes on."""
    return Health(rest_until=health.rest_until) if health.rest_until > now else HEALTHY


def failed(health: Health, now: float) -> Health:
    """A call ended with a provider fault.

    Faults of calls that were under way when it was put out do not lengthen the pause: they tell nothing new.
    """
    faults = health.faults + 1
    if health.out_until > now or (faults < FAULTS_TO_EJECT and health.pause == 0.0):
        return replace(health, faults=faults)
    pause = min(health.pause * 2 or FIRST_PAUSE, LONGEST_PAUSE)
    return replace(health, faults=faults, pause=pause, out_until=now + pause, probing=False)


def rested(health: Health, seconds: float, now: float) -> Health:
    """The provider answered 429 or 503 with ``Retry-After``. A 503 is a fault as well: apply :func:`failed` too."""
    until = now + min(max(seconds, 0.0), LONGEST_REST)
    return replace(health, rest_until=max(health.rest_until, until), probing=False)
