from __future__ import annotations

import os

import pytest

from services.runtime.private_files import too_open

US, ROOT, SOMEBODY = 10001, 0, 4711


@pytest.mark.parametrize(
    ("mode", "owner", "reader", "refused"),
    [
        pytest.param(0o600, US, US, False, id="our-own"),
        pytest.param(0o400, US, US, False, id="our-own-and-read-only"),
        pytest.param(0o640, US, US, True, id="our-own-for-the-group"),
        pytest.param(0o440, ROOT, US, False, id="as-kubernetes-mounts-a-secret"),
        pytest.param(0o640, ROOT, US, False, id="roots-for-our-group"),
        pytest.param(0o660, ROOT, US, True, id="roots-that-the-group-may-write"),
        pytest.param(0o444, ROOT, US, True, id="roots-for-everybody"),
        pytest.param(0o640, ROOT, ROOT, True, id="roots-own-for-its-group"),
        pytest.param(0o640, SOMEBODY, US, True, id="somebody-elses-for-the-group"),
    ],
)
def test_a_private_file_is_for_its_owner_and_roots_also_for_its_group(
    mode: int, owner: int, reader: int, refused: bool
) -> None:
    status = os.stat_result((0o100000 | mode, 1, 1, 1, owner, US, 0, 0, 0, 0))

    assert too_open(status, user=reader) is refused
