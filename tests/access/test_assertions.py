"""What one process tells another about the caller: only by the token, only for a while, never altered."""

from __future__ import annotations

import msgspec
import pytest

from junctor.errors import Unauthenticated
from services.access import assertions as module
from services.access.assertions import Assertions, from_text, to_text
from services.access.identity import Caller, Identity, Kind
from services.access.roles import Permission
from services.runtime.auth import Secret

TOKEN = Secret("t" * 40)
JANE = Identity(
    Kind.USER,
    "jane",
    email="jane@example.com",
    groups=frozenset({"ops", "dev"}),
    permissions=frozenset({Permission.READ}),
    expires=2e9,
)


@pytest.mark.parametrize("identity", [JANE, Identity(Kind.KEY, "key-1"), Identity(Kind.SERVICE, "junctor")])
def test_arrives_as_it_was(identity: Identity) -> None:
    written = Assertions(TOKEN).write(Caller(identity))
    assert Assertions(TOKEN).read(from_text(to_text(written))) == identity


def test_another_token_writes_nothing_that_counts_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    written, reader = Assertions(Secret("x" * 40)).write(Caller(JANE)), Assertions(TOKEN)
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            reader.read(written)
    assert caplog.text.count("need the same service token (JUNCTOR_SERVICE_TOKEN_FILE)") == 1


def test_every_altered_byte_is_found() -> None:
    reader = Assertions(TOKEN)
    written = Assertions(TOKEN).write(Caller(JANE))
    for index in range(len(written)):
        altered = bytearray(written)
        altered[index] ^= 1
        with pytest.raises(Unauthenticated):
            reader.read(bytes(altered))
    for length in range(len(written)):
        with pytest.raises(Unauthenticated):
            reader.read(written[:length])


@pytest.mark.parametrize("age", [module.LIFETIME + 5, -40.0], ids=["old", "of the future"])
def test_is_good_for_a_while_only(age: float) -> None:
    signer = Assertions(TOKEN)
    fresh = signer.write(Caller(JANE))
    body = msgspec.msgpack.decode(fresh[:-32])
    body[-1] -= age
    old = msgspec.msgpack.encode(body)
    signed = old + module.hmac.digest(signer._key, old, "sha256")
    with pytest.raises(Unauthenticated):
        Assertions(TOKEN).read(signed)


@pytest.mark.parametrize("text", ["", "?", "AAAA", "é"])
def test_rubbish_is_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        Assertions(TOKEN).read(from_text(text))


def test_a_clock_that_is_set_back_stops_nobody() -> None:
    now = [10_000.0]
    writer = Assertions(TOKEN, clock=lambda: now[0])
    reader = Assertions(TOKEN, clock=lambda: now[0])
    reader.read(writer.write(Caller(JANE)))
    now[0] -= 3600
    assert reader.read(writer.write(Caller(JANE))) == JANE
