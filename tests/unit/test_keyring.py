"""The key file, and envelope encryption with its keys."""

import json
import stat
import threading

import pytest

from services.provider_registry.secrets import (
    KeyFileError,
    Keyring,
    Sealed,
    ValueUnreadable,
    add_key,
    identity_of,
)
from services.runtime.auth import Secret

HERE = identity_of("default", "k1", "secret-1")
VALUE = Secret("sk-value")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "config" / "secret.key"


def test_the_first_start_makes_a_private_file_that_later_ones_read(path):
    sealed = Keyring.load_or_create(path).seal(VALUE, HERE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert Keyring.load_or_create(path).open(sealed, HERE) == VALUE
    assert [entry.name for entry in path.parent.iterdir()] == ["secret.key"]


def test_processes_that_start_together_agree_on_one_key(path):
    rings = []
    threads = [threading.Thread(target=lambda: rings.append(Keyring.load_or_create(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({ring.newest for ring in rings}) == 1
    assert len(path.read_text().splitlines()) == 1


def test_the_newest_key_encrypts_and_older_ones_still_decrypt(path):
    ring = Keyring.load_or_create(path)
    old = ring.seal(VALUE, HERE)
    added = add_key(path)
    ring.reload()
    assert ring.newest == added == ring.seal(VALUE, HERE).key_id
    assert ring.open(old, HERE) == VALUE


def test_a_key_that_another_process_added_is_found(path):
    ring = Keyring.load_or_create(path)
    add_key(path)
    sealed = Keyring.load_or_create(path).seal(VALUE, HERE)
    assert ring.open(sealed, HERE) == VALUE


def test_wrapping_anew_keeps_the_ciphertext_and_needs_the_new_key_alone(path):
    ring = Keyring.load_or_create(path)
    old = ring.seal(VALUE, HERE)
    add_key(path)
    ring.reload()
    new = ring.rewrap(old, HERE)
    assert new.ciphertext == old.ciphertext
    path.write_text(path.read_text().splitlines()[1] + "\n")
    assert Keyring.load_or_create(path).open(new, HERE) == VALUE


@pytest.mark.parametrize(
    "elsewhere",
    [("system", "k1", "secret-1"), ("default", "k2", "secret-1"), ("default", "k1", "secret-2")],
    ids=["workspace", "name", "id"],
)
def test_a_value_moved_to_another_secret_cannot_be_read(path, elsewhere):
    ring = Keyring.load_or_create(path)
    sealed = ring.seal(VALUE, HERE)
    with pytest.raises(ValueUnreadable):
        ring.open(sealed, identity_of(*elsewhere))
    with pytest.raises(ValueUnreadable):
        ring.rewrap(sealed, identity_of(*elsewhere))


@pytest.mark.parametrize("part", ["wrapped_key", "ciphertext"])
def test_a_value_that_was_tampered_with_cannot_be_read(path, part):
    ring = Keyring.load_or_create(path)
    sealed = ring.seal(VALUE, HERE)
    parts = {"wrapped_key": sealed.wrapped_key, "ciphertext": sealed.ciphertext}
    parts[part] = parts[part][:-1] + bytes([parts[part][-1] ^ 1])
    with pytest.raises(ValueUnreadable):
        ring.open(Sealed(sealed.key_id, **parts), HERE)


def test_equal_values_have_different_ciphertexts(path):
    ring = Keyring.load_or_create(path)
    assert ring.seal(VALUE, HERE).ciphertext != ring.seal(VALUE, HERE).ciphertext


@pytest.mark.parametrize(
    "content",
    [
        "",
        "nonsense\n",
        json.dumps({"id": "k", "key": "c2hvcnQ="}) + "\n",
        json.dumps({"id": "", "key": "A" * 43 + "="}) + "\n",
        json.dumps(["k"]) + "\n",
    ],
    ids=["empty", "not JSON", "a short key", "no id", "a list"],
)
def test_a_key_file_that_cannot_be_used_is_named_but_not_quoted(path, content):
    path.parent.mkdir()
    path.touch(mode=0o600)
    path.write_text(content)
    with pytest.raises(KeyFileError, match=r"secret\.key") as caught:
        Keyring.load_or_create(path)
    assert "c2hvcnQ" not in str(caught.value)
    assert "nonsense" not in str(caught.value)


def test_a_key_file_that_others_can_read_is_refused(path):
    Keyring.load_or_create(path)
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        Keyring.load_or_create(path)


def test_nothing_that_is_printed_shows_a_key_or_a_value(path):
    ring = Keyring.load_or_create(path)
    key = json.loads(path.read_text())["key"]
    sealed = ring.seal(VALUE, HERE)
    shown = f"{ring!r} {ring} {sealed!r} {VALUE!r}"
    assert ring.newest in shown
    assert key not in shown
    assert "sk-value" not in shown
    assert repr(sealed.ciphertext) not in shown
