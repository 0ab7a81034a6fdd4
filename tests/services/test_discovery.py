"""Discovery against a real upstream, a real store and a real ProviderSync server."""

from dataclasses import replace

import pytest
import pytest_asyncio

from junctor.errors import PeerUnavailable, StaleVersion
from junctor.v1 import provider_registry_pb2 as pb
from junctor.v1 import secrets_pb2 as spb
from services.provider_registry import seed
from services.runtime.addresses import AddressPolicy
from tests.provider_plane import QUICK, ModelRegistry, running, until
from tests.upstream import Hang, Json, Raw, Reset, Status, head

CREATED, READY = pb.PROVIDER_STATUS_CREATED, pb.PROVIDER_STATUS_READY
ERROR, LOST, PENDING = pb.PROVIDER_STATUS_ERROR, pb.PROVIDER_STATUS_LOST, pb.PROVIDER_STATUS_PENDING
CALM = replace(QUICK, interval=600.0)
"""Only what is demanded is discovered again."""


def models(*ids):
    return Json(200, {"object": "list", "data": [{"id": model} for model in ids]})


def served(provider):
    return [(m.model_entity_id, m.served_model_name) for m in provider.served_models]


@pytest_asyncio.fixture
async def plane(tmp_path):
    async with running(tmp_path) as running_plane:
        yield running_plane


async def test_a_new_provider_becomes_ready_with_its_models_in_upstream_order(plane, upstream):
    upstream.always(models("zeta/2", "alpha/1"))
    created = await plane.create("up1", upstream.url)
    assert (created.status, created.status_message) == (CREATED, "Model provider created")
    provider = await plane.ready("up1")
    assert served(provider) == [("default/zeta-2", "zeta/2"), ("default/alpha-1", "alpha/1")]
    assert provider.status_message == ""
    assert provider.last_attempt.ToMicroseconds() >= provider.created_at.ToMicroseconds()
    assert provider.next_attempt.ToMicroseconds() > provider.last_attempt.ToMicroseconds()
    assert plane.models.served("up1") == [("zeta-2", "zeta/2"), ("alpha-1", "alpha/1")]
    assert plane.models.requests[0].host_url == upstream.url


@pytest.mark.parametrize(
    ("base", "fields", "target"),
    [
        ("", {}, "/v1/models"),
        ("/", {}, "/v1/models"),
        ("/v1", {}, "/v1/models"),
        ("/v1/", {}, "/v1/models"),
        ("/team", {}, "/team/v1/models"),
        ("", {"api_base_path": "/v1beta/openai"}, "/v1beta/openai/models"),
        ("", {"api_base_path": ""}, "/models"),
        ("", {"models_path": "/model/list"}, "/v1/model/list"),
        ("/v1", {"models_path": "all", "api_base_path": ""}, "/v1/all"),
    ],
)
async def test_the_model_list_is_asked_for_where_calls_would_go(plane, upstream, base, fields, target):
    upstream.always(models("m1"))
    await plane.create("up1", upstream.url + base, **fields)
    await plane.ready("up1")
    assert upstream.requests[0].target == target


async def test_the_list_is_asked_for_with_key_and_headers_of_a_proxied_call(plane, upstream):
    upstream.always(models("m1"))
    await plane.secret("k1", "s3cret-value")
    await plane.create(
        "up1",
        upstream.url,
        api_key_secret_name="k1",
        default_extra_headers={"values": {"X-Both": "default", "X-One": "1"}},
        required_extra_headers={"values": {"x-both": "required", "accept-encoding": "gzip"}},
    )
    await plane.ready("up1")
    request = upstream.requests[0]
    names = ("authorization", "x-both", "x-one", "accept-encoding")
    assert [request.header(n) for n in names] == ["Bearer s3cret-value", "required", "1", "identity"]
    await plane.update("up1", auth_header_format="X-Api-Key: v={{ auth_secret }}")
    await until(lambda: any(r.header("x-api-key") == "v=s3cret-value" for r in upstream.requests))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Status(404), id="404"),
        pytest.param(Json(200, ["a"]), id="not an object"),
        pytest.param(Raw(head(200, ("content-length", "4")) + b"<ht>"), id="not JSON"),
    ],
)
async def test_an_upstream_without_a_model_list_is_ready_for_the_provider_route(plane, upstream, answer):
    upstream.always(answer)
    await plane.create("up1", upstream.url)
    provider = await plane.ready("up1")
    assert served(provider) == []
    assert provider.status_message == "Non-OpenAI compliant endpoint, model entity routing disabled"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        pytest.param(Status(500), "it answered 500", id="500"),
        pytest.param(Status(401), "it answered 401: the API key is missing", id="401"),
        pytest.param(Raw(head(302, ("location", "/v1/models"))), "redirects are not followed", id="redirect"),
        pytest.param(Reset(), "broke", id="reset"),
        pytest.param(Raw(b"garbage\r\n\r\n"), "is not HTTP", id="garbage"),
        pytest.param(Raw(head(200, ("content-length", "99")) + b"{"), "", id="cut"),
        pytest.param(
            Raw(head(200, ("content-length", str(5 << 20))) + b" " * (5 << 20)), "larger than 4 MiB", id="too large"
        ),
        pytest.param(
            Raw(head(200, ("content-encoding", "gzip"), ("content-length", "2")) + b"{}"), "compressed", id="gzip"
        ),
    ],
)
async def test_a_failing_upstream_is_named_as_the_reason_and_recovers(plane, upstream, answer, why):
    if isinstance(answer, Raw):
        answer = Raw(*answer._steps, _close())
    upstream.always(answer)
    await plane.create("up1", upstream.url)
    provider = await plane.becomes("up1", lambda p: p.status_message != "Model provider created")
    assert provider.status == CREATED
    assert provider.status_message.startswith("Provider discovery failed: ")
    assert why in provider.status_message
    assert "127.0.0.1" not in provider.status_message
    upstream.always(models("m1"))
    assert served(await plane.ready("up1")) == [("default/m1", "m1")]


def _close():
    from tests.upstream import CLOSE

    return CLOSE


async def test_a_closed_port_is_a_failure_that_names_no_address(plane, upstream):
    await upstream.refuse()
    await plane.create("up1", upstream.url)
    provider = await plane.becomes("up1", lambda p: "failed" in p.status_message)
    assert provider.status_message == "Provider discovery failed: it does not accept connections"


async def test_an_address_outside_the_policy_is_never_connected_to(tmp_path, upstream):
    async with running(tmp_path, networks=AddressPolicy.parse("public")) as plane:
        await plane.create("up1", upstream.url.replace("127.0.0.1", "localhost"))
        provider = await plane.becomes("up1", lambda p: "failed" in p.status_message)
    assert "is loopback, which this deployment does not allow" in provider.status_message
    assert upstream.connections == []


async def test_failing_for_longer_than_the_grace_is_error_then_lost_and_heals(tmp_path, upstream):
    upstream.always(Status(503))
    async with running(tmp_path, pace=replace(QUICK, grace=0.3, lost=0.8)) as plane:
        await plane.create("up1", upstream.url)
        await plane.becomes("up1", lambda p: p.status == ERROR)
        await plane.becomes("up1", lambda p: p.status == LOST)
        upstream.always(models("m1"))
        assert (await plane.ready("up1")).status_message == ""


async def test_a_ready_provider_stays_ready_with_its_models_when_the_upstream_fails(plane, upstream):
    upstream.always(models("m1"))
    await plane.create("up1", upstream.url)
    ready = await plane.ready("up1")
    seen = len(upstream.requests)
    upstream.always(Status(500))
    await upstream.request(seen + 4)
    after = await plane.get("up1")
    assert (after.status, after.status_message, served(after)) == (READY, "", [("default/m1", "m1")])
    assert after.resource_version == ready.resource_version


async def test_a_rediscovery_that_changes_nothing_writes_no_change(plane, upstream):
    upstream.always(models("m1"))
    await plane.create("up1", upstream.url)
    ready = await plane.ready("up1")
    later = await plane.becomes("up1", lambda p: p.last_attempt.ToMicroseconds() > ready.last_attempt.ToMicroseconds())
    assert (later.resource_version, later.updated_at) == (ready.resource_version, ready.updated_at)


async def test_models_that_come_and_go_upstream_are_followed(plane, upstream):
    upstream.always(models("m1", "m2"))
    await plane.create("up1", upstream.url)
    await plane.ready("up1")
    upstream.always(models("m2", "m3"))
    await plane.becomes("up1", lambda p: served(p) == [("default/m2", "m2"), ("default/m3", "m3")])
    assert plane.models.served("up1") == [("m2", "m2"), ("m3", "m3")]


async def test_an_update_is_discovered_at_once_and_keeps_the_status(tmp_path, upstream):
    upstream.always(models("m1", "m2"))
    async with running(tmp_path, pace=CALM) as plane:
        await plane.create("up1", upstream.url)
        ready = await plane.ready("up1")
        changed = await plane.update("up1", enabled_models={"values": ["m2"]})
        assert (changed.status, changed.generation) == (READY, ready.generation + 1)
        after = await plane.becomes("up1", lambda p: served(p) == [("default/m2", "m2")])
        assert after.generation == changed.generation


async def test_a_change_while_the_old_upstream_hangs_is_discovered_at_once(tmp_path, upstream):
    upstream.script(Hang("head"))
    async with running(tmp_path, pace=CALM) as plane:
        await plane.create("up1", upstream.url)
        await upstream.request()
        upstream.always(models("m1"))
        await plane.update("up1", host_url=upstream.url + "/v1")
        await plane.ready("up1")


async def test_static_models_are_served_without_asking(plane, upstream):
    await plane.create("up1", upstream.url, static_models={"values": ["sonar", "sonar-pro"]})
    provider = await plane.ready("up1")
    assert served(provider) == [("default/sonar", "sonar"), ("default/sonar-pro", "sonar-pro")]
    assert upstream.requests == []


async def test_a_model_registry_that_is_away_keeps_the_old_state_until_it_is_back(plane, upstream):
    upstream.always(models("m1"))
    await plane.create("up1", upstream.url)
    await plane.ready("up1")
    plane.models.failing = PeerUnavailable("away")
    upstream.always(models("m2"))
    await plane.create("up2", upstream.url)
    await until(lambda: plane.models.refused >= 4)
    assert served(await plane.get("up1")) == [("default/m1", "m1")]
    assert (await plane.get("up2")).status == CREATED
    plane.models.failing = None
    await plane.becomes("up1", lambda p: served(p) == [("default/m2", "m2")])
    await plane.ready("up2")


async def test_a_delete_succeeds_without_the_model_registry_and_is_told_to_it_afterwards(plane, upstream):
    upstream.always(models("m1"))
    created = await plane.create("up1", upstream.url)
    await plane.ready("up1")
    plane.models.failing = PeerUnavailable("away")
    await plane.delete("up1")
    again = await plane.create("up1", upstream.url)
    await until(lambda: plane.models.refused >= 2)
    plane.models.failing = None
    await plane.ready("up1")
    await until(lambda: any(r.provider_id == created.id and not r.models for r in plane.models.requests))
    revisions = [r.provider_revision for r in plane.models.requests if r.provider_id == created.id]
    assert revisions == sorted(set(revisions))
    assert any(r.provider_id == again.id and r.models for r in plane.models.requests)


async def test_a_tombstone_survives_a_restart(tmp_path, upstream):
    upstream.always(models("m1"))
    async with running(tmp_path) as plane:
        created = await plane.create("up1", upstream.url)
        await plane.ready("up1")
        plane.models.failing = PeerUnavailable("away")
        await plane.delete("up1")
    registry = ModelRegistry()
    async with running(tmp_path, models=registry):
        await until(lambda: any(r.provider_id == created.id and not r.models for r in registry.requests))


async def test_a_restart_keeps_ready_and_worsens_nothing(tmp_path, upstream):
    upstream.always(models("m1"))
    async with running(tmp_path) as plane:
        await plane.create("good", upstream.url)
        await plane.ready("good")
        upstream.always(Status(500))
        await plane.create("bad", upstream.url)
        await plane.becomes("bad", lambda p: "failed" in p.status_message)
    seen = len(upstream.requests)
    async with running(tmp_path) as plane:
        await upstream.request(seen + 4)
        assert (await plane.get("good")).status == READY
        assert served(await plane.get("good")) == [("default/m1", "m1")]
        assert (await plane.get("bad")).status == CREATED


async def test_the_model_registry_is_told_the_id_of_the_workspace(plane, upstream):
    upstream.always(models("m1"))
    await plane.create("up1", upstream.url)
    await plane.ready("up1")
    assert plane.models.requests[-1].workspace_id == await plane.workspace_id("default")


async def test_a_status_set_by_hand_holds_until_discovery_succeeds(plane, upstream):
    upstream.always(Status(500))
    await plane.create("up1", upstream.url)
    by_hand = await plane.set_status(
        "up1",
        status=PENDING,
        status_message="by hand",
        served_models={"values": [{"model_entity_id": "default/x1", "served_model_name": "X1"}]},
    )
    assert (by_hand.status, by_hand.status_message, served(by_hand)) == (PENDING, "by hand", [("default/x1", "X1")])
    assert by_hand.generation == 1
    assert plane.models.served("up1") == [("x1", "X1")]
    assert plane.models.requests[-1].workspace_id == await plane.workspace_id("default")
    seen = len(upstream.requests)
    await upstream.request(seen + 2)
    assert (await plane.get("up1")).status_message == "by hand"
    upstream.always(models("m1"))
    assert served(await plane.ready("up1")) == [("default/m1", "m1")]


async def test_served_models_by_hand_need_the_model_registry(plane, upstream):
    upstream.always(Status(500))
    await plane.create("up1", upstream.url)
    plane.models.failing = PeerUnavailable("away")
    mapping = {"model_entity_id": "default/x1", "served_model_name": "X1"}
    with pytest.raises(PeerUnavailable):
        await plane.set_status("up1", served_models={"values": [mapping]})
    plane.models.failing, plane.models.applies = None, False
    with pytest.raises(StaleVersion):
        await plane.set_status("up1", served_models={"values": [mapping]})
    assert served(await plane.get("up1")) == []


async def test_a_missing_secret_is_a_reason_and_its_creation_is_noticed_at_once(tmp_path, upstream):
    upstream.always(models("m1"))
    async with running(tmp_path, pace=replace(CALM, retry=600.0)) as plane:
        await plane.secret("k1", "value-one")
        await plane.create("up1", upstream.url, api_key_secret_name="k1", static_models={"values": []})
        await plane.ready("up1")
        await plane.public.call(plane.secrets.DeleteSecret, spb.DeleteSecretRequest(workspace="default", name="k1"))
        await plane.set_status("up1", status=CREATED)
        await plane.secret("k1", "value-two")
        await plane.ready("up1")


async def test_the_seed_waits_for_its_key_and_is_not_discovered_before(tmp_path):
    async with running(tmp_path, seed=True) as plane:
        provider = await plane.get(seed.NAME, seed.WORKSPACE)
        assert (provider.status, provider.host_url) == (PENDING, "https://integrate.api.nvidia.com")
        assert "junctor secrets create nvidia-api-key --workspace system" in provider.status_message
        again = provider.next_attempt.ToMicroseconds()
        waited = await plane.becomes(
            seed.NAME, lambda p: p.next_attempt.ToMicroseconds() > again, workspace=seed.WORKSPACE
        )
        assert (waited.status, waited.HasField("last_attempt")) == (PENDING, False)
    async with running(tmp_path, seed=True) as plane:
        assert (await plane.get(seed.NAME, seed.WORKSPACE)).id == provider.id


async def test_the_seed_is_discovered_once_its_key_is_there(tmp_path, upstream):
    upstream.always(models("nv/m1"))
    async with running(tmp_path, seed=True, pace=CALM) as plane:
        request = pb.UpdateProviderRequest(
            provider=pb.Provider(
                workspace=seed.WORKSPACE, name=seed.NAME, host_url=upstream.url, api_key_secret_name=seed.SECRET_NAME
            ),
            update_mask={"paths": ["host_url", "api_key_secret_name"]},
        )
        await plane.public.call(plane.providers.UpdateProvider, request)
        await plane.secret(seed.SECRET_NAME, "nvapi-1", workspace=seed.WORKSPACE)
        provider = await plane.ready(seed.NAME, seed.WORKSPACE)
    assert served(provider) == [("system/nv-m1", "nv/m1")]
    assert {r.header("authorization") for r in upstream.requests} == {"Bearer nvapi-1"}  # twice if it was just read


async def test_without_the_switch_there_is_no_seed(plane):
    page = await plane.public.call(plane.providers.ListProviders, pb.ListProvidersRequest(workspace="system"))
    assert page.total_size == 0


async def test_a_new_value_of_the_key_is_tried_at_once(tmp_path, upstream):
    upstream.always(models("m1"))
    async with running(tmp_path, pace=CALM) as plane:
        await plane.secret("k1", "value-one")
        await plane.create("up1", upstream.url, api_key_secret_name="k1")
        await plane.ready("up1")
        request = spb.UpdateSecretRequest(workspace="default", name="k1", value="value-two")
        await plane.public.call(plane.secrets.UpdateSecret, request)
        await upstream.request(2)
    assert [r.header("authorization") for r in upstream.requests] == ["Bearer value-one", "Bearer value-two"]
