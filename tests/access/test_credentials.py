"""Which credential a call shows, in any of the three fields that clients use."""

from __future__ import annotations

import pytest

from junctor.errors import Unauthenticated
from services.access.credentials import credential_of
from services.access.keys import LONGEST, hash_of, is_key, new_key, shown_prefix

Fields = list[tuple[bytes, bytes]]


@pytest.mark.parametrize(
    ("fields", "credential"),
    [
        ([], None),
        ([(b"accept", b"*/*")], None),
        ([(b"authorization", b"Bearer abc")], "abc"),
        ([(b"authorization", b"bearer  abc ")], "abc"),
        ([(b"x-api-key", b"abc")], "abc"),
        ([(b"api-key", b"abc")], "abc"),
        ([(b"authorization", b"Bearer abc"), (b"x-api-key", b"abc"), (b"api-key", b"abc")], "abc"),
    ],
)
def test_what_is_shown(fields: Fields, credential: str | None) -> None:
    assert credential_of(fields) == credential


@pytest.mark.parametrize(
    "fields",
    [
        [(b"authorization", b"Bearer abc"), (b"x-api-key", b"abd")],
        [(b"x-api-key", b"abc"), (b"api-key", b"abd")],
        [(b"authorization", b"Bearer abc"), (b"authorization", b"Bearer abd")],
        [(b"authorization", b"Basic abc")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"")],
        [(b"x-api-key", b"")],
        [(b"x-api-key", "schlüssel".encode())],
        [(b"x-api-key", b"a" * (LONGEST + 1))],
    ],
)
def test_what_is_no_credential_is_refused(fields: Fields) -> None:
    with pytest.raises(Unauthenticated, match="Invalid or expired token"):
        credential_of(fields)


def test_keys_are_long_known_by_their_prefix_and_never_stored() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        assert is_key(key)
        assert len(key) == 48
        assert key[5:] not in hash_of(key)
        assert hash_of(key).startswith("v1:")
        assert key.startswith(shown_prefix(key))
        assert len(shown_prefix(key)) < 12


@pytest.mark.parametrize("value", ["", "jnct_", "jnct_" + "0" * 43, "jnct_" + "1" * 42, "sk-" + "1" * 43])
def test_what_does_not_look_like_a_key(value: str) -> None:
    assert not is_key(value)


def test_a_chosen_key_shows_nothing() -> None:
    assert shown_prefix("hunter2hunter2") == ""
