from __future__ import annotations

import asyncio
import os
import pickle
import stat
from pathlib import Path

import pytest

from services.runtime.auth import TOKEN_KEY, Secret, TokenFileError, load_or_create_token, token_metadata


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_file_is_made_private_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "config" / "junctor" / "service.token"
    token = load_or_create_token(path)
    assert len(token.reveal()) >= 43
    assert load_or_create_token(path) == token
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert os.listdir(path.parent) == ["service.token"]


async def test_processes_that_start_together_share_one_token(tmp_path: Path) -> None:
    path = tmp_path / "junctor" / "service.token"
    tokens = await asyncio.gather(*(asyncio.to_thread(load_or_create_token, path) for _ in range(16)))
    assert len({token.reveal() for token in tokens}) == 1
    assert os.listdir(path.parent) == ["service.token"]


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o644], ids=oct)
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "service.token"
    load_or_create_token(path)
    path.chmod(bits)
    with pytest.raises(TokenFileError, match=f"chmod 600 {path}"):
        load_or_create_token(path)


@pytest.mark.parametrize("content", ["", "short", "x" * 31, "é" * 40, "x" * 40 + "\x00"], ids=repr)
def test_a_token_that_cannot_be_one_is_refused_and_not_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "service.token"
    path.touch(0o600)
    path.write_text(content)
    with pytest.raises(TokenFileError, match="printable ASCII") as caught:
        load_or_create_token(path)
    assert not content or content not in str(caught.value)


def test_a_path_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TokenFileError, match="cannot use the service token file"):
        load_or_create_token(tmp_path / "file" / "service.token")


def test_a_secret_hides_itself() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"
    assert secret.reveal() == "hunter2"
    assert secret == Secret("hunter2")
    assert secret != Secret("hunter3")
    assert secret != "hunter2"
    assert not Secret("")
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        hash(secret)


def test_the_metadata_shows_the_token() -> None:
    assert token_metadata(Secret("abc")) == ((TOKEN_KEY, "abc"),)
