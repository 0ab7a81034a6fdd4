"""When a candidate is out, for how long, and who probes; how many retries there may be."""

from __future__ import annotations

import pytest

from services.inference_router.budget import RetryBudget
from services.inference_router.ejection import (
    HEALTHY,
    Health,
    abandoned,
    failed,
    is_fault,
    rested,
    returns_at,
    started,
    succeeded,
    why_out,
)


def after_faults(count: int, now: float = 100.0) -> Health:
    health = HEALTHY
    for _ in range(count):
        health = failed(health, now)
    return health


def test_four_faults_are_not_enough_and_the_fifth_is() -> None:
    assert returns_at(after_faults(4), 100.0) == 0.0
    assert returns_at(after_faults(5), 100.0) == 101.0
    assert why_out(after_faults(5), 100.0) == "ejected"


def test_a_success_between_starts_the_count_again() -> None:
    health = succeeded(after_faults(4), 100.0)
    for _ in range(4):
        health = failed(health, 100.0)
    assert returns_at(health, 100.0) == 0.0


def test_late_faults_of_calls_under_way_do_not_lengthen_the_pause() -> None:
    assert returns_at(after_faults(50), 100.0) == 101.0


def test_each_failed_probe_doubles_the_pause_to_ten_seconds() -> None:
    health, now, pauses = after_faults(5), 101.0, []
    for _ in range(6):
        health = failed(started(health, now), now)
        pauses.append(returns_at(health, now) - now)
        now = health.out_until
    assert pauses == [2.0, 4.0, 8.0, 10.0, 10.0, 10.0]
    assert returns_at(after_faults(5, now), now) == now + 1.0


def test_one_probe_at_a_time() -> None:
    health = after_faults(5)
    assert returns_at(health, 101.0) == 0.0
    probing = started(health, 101.0)
    assert (returns_at(probing, 101.5), why_out(probing, 101.5)) == (101.5, "probing")
    assert returns_at(abandoned(probing), 101.5) == 0.0
    assert succeeded(probing, 0.0) == HEALTHY


def test_a_healthy_one_needs_no_probe() -> None:
    assert started(HEALTHY, 5.0) is HEALTHY
    assert started(after_faults(4), 101.0).probing is False


@pytest.mark.parametrize(("asked", "rest"), [(7.0, 7.0), (3600.0, 60.0), (-1.0, 0.0)])
def test_rests_as_long_as_asked_up_to_a_minute(asked: float, rest: float) -> None:
    health = rested(HEALTHY, asked, 100.0)
    assert returns_at(health, 100.0) == (100.0 + rest if rest else 0.0)
    assert returns_at(health, 100.0 + rest) == 0.0


def test_a_rest_is_no_fault_and_outlives_a_success() -> None:
    health = succeeded(rested(after_faults(4), 9.0, 100.0), 100.0)
    assert (returns_at(health, 100.0), why_out(health, 100.0)) == (109.0, "resting")
    assert returns_at(failed(health, 120.0), 120.0) == 0.0


@pytest.mark.parametrize("status", [500, 502, 503, 529, 401, 403, 404])
def test_counts_as_a_fault(status: int) -> None:
    assert is_fault(status)


@pytest.mark.parametrize("status", [200, 204, 400, 408, 409, 422, 429])
def test_does_not_count_as_a_fault(status: int) -> None:
    assert not is_fault(status)


def takes(budget: RetryBudget, now: float) -> int:
    count = 0
    while budget.take(now):
        count += 1
    return count


def test_the_budget_is_full_at_the_start_and_refills() -> None:
    budget = RetryBudget(1000.0)
    assert takes(budget, 1000.0) == 100
    assert takes(budget, 1000.5) == 5
    for _ in range(50):
        budget.request(1000.5)
    assert takes(budget, 1000.5) == 10
    assert takes(budget, 999.0) == 0
    assert takes(budget, 5000.0) == 100
