"""What keeps going wrong is said once: when it begins, when it changes and when it is over."""

from __future__ import annotations

import logging

import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeout

from junctor.errors import PeerUnavailable, StoreUnavailable
from services.runtime.db_errors import CannotConnect, Refusals
from services.runtime.trouble import Trouble

AWAY = CannotConnect(None, "Connection refused")
BUSY = PoolTimeout("no connection is free")


def said(caplog: pytest.LogCaptureFixture, *, level: int = logging.WARNING) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= level]


def test_a_trouble_is_told_when_it_begins_when_its_reason_changes_and_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    trouble = Trouble(logging.getLogger("t"), "could not do it")
    trouble.over()
    for error in (StoreUnavailable("a"), StoreUnavailable("b"), PeerUnavailable("c"), PeerUnavailable("c")):
        trouble.failed(error)
    trouble.over()
    trouble.over()
    trouble.failed(PeerUnavailable("c"))
    assert [getattr(record, "reason", "") for record in caplog.records] == [
        "STORE_UNAVAILABLE",
        "PEER_UNAVAILABLE",
        "",
        "PEER_UNAVAILABLE",
    ]
    assert all(record.exc_info is None for record in caplog.records)


def test_a_fault_is_told_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    trouble = Trouble(logging.getLogger("t"), "could not do it")
    for _ in range(3):
        trouble.failed(KeyError("x"))
    trouble.failed(KeyError("y"))
    assert [record.exc_info is not None for record in caplog.records] == [True, True]


def use(refusals: Refusals, how: str, error: Exception | None = None) -> None:
    with refusals.told(how):
        if error is not None:
            raise error


def test_a_store_that_is_away_says_so_once_however_it_is_used(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals("mine")
    for how in ("read", "write", "read"):
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            use(refusals, how, AWAY)
    use(refusals, "read")
    use(refusals, "write")
    assert said(caplog) == ["the store refuses: Connection refused", "the store is used again"]


def test_reads_that_go_on_do_not_make_a_store_writable(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals("mine")
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="busy"):
            use(refusals, "write", BUSY)
        use(refusals, "read")
    assert len(said(caplog)) == 1
    use(refusals, "write")
    assert said(caplog)[1:] == ["the store is used again"]
