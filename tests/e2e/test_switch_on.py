"""Auth switched on in a junctor that runs, in the order of ``docs/deploy.md``: who has a key sees no error meanwhile.

Real processes on PostgreSQL, each exchanged for one with the setting, under load over HTTP and gRPC.
"""

from __future__ import annotations

from pathlib import Path

import grpc
import httpx
import pytest

from junctor.channel import open_channel
from services.settings_table import GATEWAY
from tests.e2e.core import thread
from tests.e2e.processes import PATIENCE
from tests.e2e.test_rolling import CHAT, ENTITY, InferenceStub, Load, typed
from tests.e2e.test_upgrade_day import PAUSE, THIS, access
from tests.e2e.upgrading import REGISTRIES, ROUTER, Site, site
from tests.upstream import ScriptedUpstream

pytestmark = pytest.mark.long

KEY = "switch-on-0123456789abcdef0123456789abcdef"


async def test_auth_is_switched_on_under_load_and_no_caller_with_a_key_sees_an_error(
    postgres_url: str, tmp_path: Path
) -> None:
    (tmp_path / "admin.key").write_text(KEY)
    (tmp_path / "admin.key").chmod(0o600)
    settings = {"JUNCTOR_AUTH": "on", "JUNCTOR_ADMIN_KEY_FILE": str(tmp_path / "admin.key")}
    async with ScriptedUpstream() as upstream, site(tmp_path, postgres_url, THIS) as made, access(made) as way:
        await thread(way, upstream)
        load = Load(made.urls, made.target(ROUTER), pause=PAUSE, key=KEY)
        async with load.running():
            await load.more(5)
            for name in (*REGISTRIES, GATEWAY, ROUTER):
                await made.exchange(name, THIS, **settings)
                await made.ended(name)
                await load.more(5)
                assert load.failed == [], name
        assert load.failed == []
        await nobody_without_a_key(made)


async def nobody_without_a_key(made: Site) -> None:
    url = f"http://127.0.0.1:{made.newest(GATEWAY).port}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE) as http:
        assert (await http.post(CHAT, json={"model": ENTITY, "messages": []})).status_code == 401
        assert (await http.get("/apis/models/v2/workspaces/default/models")).status_code == 401
    async with open_channel(made.target(ROUTER)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await InferenceStub(channel).CreateChatCompletion(
                typed.ChatCompletionRequest(model=ENTITY), timeout=PATIENCE
            )
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
