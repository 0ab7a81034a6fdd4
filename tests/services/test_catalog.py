"""The router's catalog: its indexes, what Watch does to it, the copy on disk, and what is told of it."""

from __future__ import annotations

import asyncio
import random
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from junctor import errors
from junctor.channel import open_peer
from junctor.v1 import inference_router_pb2 as rpb
from junctor.v1 import provider_registry_pb2 as pb
from junctor.v1 import virtual_models_pb2 as vpb
from junctor.v1.receipt_pb2 import Receipt
from services.access.identity import NOBODY
from services.inference_router.catalog import CatalogKeeper
from services.inference_router.catalog_file import CatalogFile, SavedCatalog
from services.inference_router.explaining import explain
from services.inference_router.replaying import replay
from services.inference_router.router import ATTEMPT_CAP
from services.inference_router.service import InferenceRouterService, RouterOptions
from services.inference_router.servicer import RouterServicer
from services.runtime.addresses import AddressPolicy
from services.runtime.exchange import Route
from services.runtime.keyring import Keyring
from tests.router_bench import NOWHERE, Bench, Recorder, benches, by_model, by_provider, fill_at_random, openai
from tests.scripted_registries import Registries
from tests.upstream import PATIENCE, Json, ScriptedUpstream, Status

OK = Json(200, {"model": "vendor/m"})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


# -- indexes

NAMES = st.sampled_from(["p0", "p1", "p2"])
WORKSPACES = st.sampled_from(["default", "other"])
SERVED = st.lists(
    st.tuples(st.sampled_from(["default/aa", "default/bb", "other/aa"]), st.sampled_from(["up/1", "up/2"])), max_size=4
)
PUT = st.tuples(st.just("put"), WORKSPACES, NAMES, SERVED, st.booleans())
REMOVE = st.tuples(st.just("remove"), WORKSPACES, NAMES)
REPLACE = st.tuples(st.just("replace"), st.lists(st.tuples(WORKSPACES, NAMES, SERVED), max_size=3))


def message(workspace: str, name: str, served: list[tuple[str, str]], *, usable: bool = True) -> pb.Provider:
    return pb.Provider(
        workspace=workspace,
        name=name,
        host_url="http://h" if usable else "nonsense",
        status=pb.PROVIDER_STATUS_READY,
        served_models=[pb.ServedModelMapping(model_entity_id=e, served_model_name=u) for e, u in served],
    )


def indexes(keeper: CatalogKeeper) -> object:
    catalog = keeper.catalog
    return (
        dict(catalog.providers),
        {entity: {(p.ref, upstream) for p, upstream in ways} for entity, ways in catalog.by_entity.items()},
        {ws: {upstream: set(entities) for upstream, entities in ids.items()} for ws, ids in catalog.vendor_ids.items()},
        dict(catalog.virtual_models),
    )


async def test_the_indexes_equal_those_made_from_scratch_after_any_changes() -> None:
    peers = [open_peer(NOWHERE, name=name) for name in ("provider_registry", "model_registry")]

    @settings(max_examples=200, deadline=None)
    @given(st.lists(PUT | REMOVE | REPLACE, max_size=12))
    def check(changes: list[tuple]) -> None:  # type: ignore[type-arg]
        keeper = CatalogKeeper(provider_registry=peers[0], model_registry=peers[1])
        rows: dict[tuple[str, str], pb.Provider] = {}
        for kind, *what in changes:
            if kind == "put":
                row = message(*what[:3], usable=what[3])
                rows[(row.workspace, row.name)] = row
                keeper.put_provider(row)
            elif kind == "remove":
                rows.pop((what[0], what[1]), None)
                keeper.remove_provider((what[0], what[1]))
            else:
                rows = {(ws, name): message(ws, name, served) for ws, name, served in what[0]}
                keeper.replace_providers(rows.values())
        scratch = CatalogKeeper(provider_registry=peers[0], model_registry=peers[1])
        scratch.replace_providers(rows.values())
        assert indexes(keeper) == indexes(scratch)

    check()
    for peer in peers:
        await peer.close()


async def test_of_two_ids_for_one_entity_the_first_listed_routes() -> None:
    async with benches() as bench:
        bench.keeper.put_provider(message("default", "p0", [("default/aa", "up/1"), ("default/aa", "up/2")]))
        assert [upstream for _, upstream in bench.keeper.catalog.by_entity["default/aa"]] == ["up/1"]


async def test_a_snapshot_of_virtual_models_replaces_all() -> None:
    async with benches() as bench:
        bench.model("aa")
        bench.keeper.replace_virtual_models([vpb.VirtualModel(workspace="default", name="bb")])
        assert list(bench.keeper.catalog.virtual_models) == [("default", "bb")]


# -- following


def options(**more: object) -> RouterOptions:
    return RouterOptions(
        access=None,
        networks=AddressPolicy.parse("loopback"),
        connect_timeout=5,
        first_byte_timeout=20,
        idle_timeout=20,
        total_timeout=60,
        default_workspace="default",
        **more,  # type: ignore[arg-type]
    )


@asynccontextmanager
async def serving(port: int, **more: object) -> AsyncIterator[InferenceRouterService]:
    peers = {name: open_peer(f"127.0.0.1:{port}", name=name) for name in ("provider-registry", "model-registry")}
    service = InferenceRouterService(peers, options(**more))
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
        for peer in peers.values():
            await peer.close()


@pytest.fixture
async def registries() -> AsyncIterator[Registries]:
    async with Registries() as running:
        yield running


async def ready(service: InferenceRouterService) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await service.ready():
            await asyncio.sleep(0.005)


async def test_before_there_is_a_catalog_nothing_is_said_not_to_exist() -> None:
    async with serving(1) as service:
        for call in (openai(), by_provider(), by_model()):
            with pytest.raises(errors.NotReady, match="no catalog yet"):
                await service.invoker.invoke(call, Recorder())


async def key_of(service: InferenceRouterService, upstream: ScriptedUpstream) -> str | None:
    """Make a call by provider; return the key that the provider saw."""
    await service.invoker.invoke(by_provider(), Recorder())
    return upstream.requests[-1].header("authorization")


async def becomes(service: InferenceRouterService, upstream: ScriptedUpstream, wanted: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while await key_of(service, upstream) != wanted:
            await asyncio.sleep(0.005)


async def refuses(service: InferenceRouterService) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await service.invoker.invoke(by_provider(), Recorder())
            except errors.CredentialUnavailable:
                return
            await asyncio.sleep(0.005)


async def test_a_changed_secret_is_used_and_a_deleted_one_is_not(
    registries: Registries, upstream: ScriptedUpstream
) -> None:
    upstream.always(OK)
    registries.secret("key", "sk-1")
    registries.provider("p0", upstream.url, secret="key")
    async with serving(registries.port) as service:
        await ready(service)
        assert await key_of(service, upstream) == "Bearer sk-1"
        registries.secret("key", "sk-2", version=2)
        await becomes(service, upstream, "Bearer sk-2")
        registries.drop_secret("key")
        await refuses(service)
        registries.secret("key", "sk-3")
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    assert await key_of(service, upstream) == "Bearer sk-3"
                    break
                except errors.CredentialUnavailable:
                    await asyncio.sleep(0.005)


async def test_a_value_read_before_its_secret_was_deleted_is_not_used(
    registries: Registries, upstream: ScriptedUpstream
) -> None:
    upstream.always(OK)
    registries.secret("key", "sk-1")
    registries.provider("p0", upstream.url, secret="key")
    async with serving(registries.port) as service:
        await ready(service)
        registries.gate.clear()
        reads = registries.reads
        registries.secret("key", "sk-2", version=2)
        await until(lambda: registries.reads > reads)
        registries.drop_secret("key")
        await refuses(service)
        registries.gate.set()
        await service._keeper.secrets.settle()
        with pytest.raises(errors.CredentialUnavailable):
            await service.invoker.invoke(by_provider(), Recorder())
        assert service._keeper.secrets.known() == {}


async def test_min_revision_waits_for_the_key_of_a_new_provider(
    registries: Registries, upstream: ScriptedUpstream
) -> None:
    upstream.always(OK)
    async with serving(registries.port) as service:
        await ready(service)
        registries.gate.clear()
        registries.secret("key", "sk-1")
        revision = registries.provider("p0", upstream.url, secret="key")
        call = by_provider(min_revision=f"provider_registry:{revision}")
        task = asyncio.create_task(service.invoker.invoke(call, Recorder()))
        await until(lambda: registries.reads > 0)
        assert upstream.requests == []
        registries.gate.set()
        async with asyncio.timeout(PATIENCE):
            await task
        assert upstream.requests[0].header("authorization") == "Bearer sk-1"


async def test_a_registry_that_is_away_changes_nothing_and_staleness_shows(
    registries: Registries, upstream: ScriptedUpstream
) -> None:
    upstream.always(OK)
    registries.secret("key", "sk-1")
    registries.provider("p0", upstream.url, secret="key")
    registries.model()
    async with serving(registries.port) as service:
        await ready(service)
        await registries.stop()
        before = service.stale_seconds()
        await until(lambda: not service._keeper.providers.connected)
        await service.invoker.invoke(openai(), Recorder())
        assert await service.ready()
        await until(lambda: service.stale_seconds() > before)
        registries.values[("default", "key")] = "sk-9"  # changed while nobody watched, with the old version
        await registries.start()
        await becomes(service, upstream, "Bearer sk-9")


async def test_it_stays_ready_while_a_changed_secret_cannot_be_fetched(
    registries: Registries, upstream: ScriptedUpstream
) -> None:
    registries.secret("key", "sk-1")
    registries.provider("p0", upstream.url, secret="key")
    async with serving(registries.port) as service:
        await ready(service)
        registries.gate.clear()
        reads = registries.reads
        registries.secret("key", "sk-2", version=2)
        await until(lambda: registries.reads > reads)
        assert await service.ready()
        registries.gate.set()


# -- on disk


async def saved(folder: Path, registries: Registries, upstream: ScriptedUpstream) -> dict[str, object]:
    """Run a router until it has saved its catalog; return the options to run it again."""
    upstream.always(OK)
    registries.secret("key", "sk-very-secret")
    registries.provider("p0", upstream.url, secret="key")
    registries.model()
    path = folder / "data" / "catalog.bin"
    where = {
        "catalog_file": path,
        "keyring": Keyring.load_or_create(folder / "config" / "secret.key"),
        "save_seconds": 0.01,
    }
    async with serving(registries.port, **where) as service:
        await ready(service)
        await until(path.exists)
    return where


async def test_a_restarted_router_serves_with_every_registry_down(
    tmp_path: Path, registries: Registries, upstream: ScriptedUpstream
) -> None:
    where = await saved(tmp_path, registries, upstream)
    port = registries.port
    await registries.stop()
    async with serving(port, **where) as service:
        assert await service.ready()
        await service.invoker.invoke(openai(), Recorder())
        assert upstream.requests[-1].header("authorization") == "Bearer sk-very-secret"
        assert service.stale_seconds() > 0
        registries.secret("key", "sk-2")  # same version, another secret
        registries.provider("p9", upstream.url)
        await registries.start()
        await becomes(service, upstream, "Bearer sk-2")
        await until(lambda: ("default", "p9") in service._keeper.catalog.providers)


async def test_what_was_deleted_while_the_router_was_down_is_gone_after_the_first_word(
    tmp_path: Path, registries: Registries, upstream: ScriptedUpstream
) -> None:
    where = await saved(tmp_path, registries, upstream)
    registries.drop_secret("key")
    registries.models.remove("default", "chat")
    async with serving(registries.port, **where) as service:
        await refuses(service)
        await until(lambda: not service._keeper.catalog.virtual_models)


async def test_the_file_is_private_and_holds_no_readable_secret(
    tmp_path: Path, registries: Registries, upstream: ScriptedUpstream
) -> None:
    await saved(tmp_path, registries, upstream)
    path = tmp_path / "data" / "catalog.bin"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_bytes()
    assert b"sk-very-secret" not in content
    assert upstream.url.encode() not in content
    assert [entry.name for entry in path.parent.iterdir()] == ["catalog.bin"]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:-5],
    "a byte changed": lambda content: content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
    "something else": lambda content: b"SQLite format 3\0" + content,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = CatalogFile(tmp_path / "catalog.bin", Keyring.load_or_create(tmp_path / "secret.key"))
    assert file.load() is None
    catalog = SavedCatalog(1.0, {"model_registry": 2}, [b"p"], [b"v"], [("default", "key", "sk")])
    file.save(catalog)
    assert file.load() == catalog
    (tmp_path / "catalog.bin").write_bytes(damage((tmp_path / "catalog.bin").read_bytes()))
    assert file.load() is None


def test_with_another_key_file_there_is_no_catalog(tmp_path: Path) -> None:
    catalog = SavedCatalog(1.0, {}, [], [], [])
    CatalogFile(tmp_path / "catalog.bin", Keyring.load_or_create(tmp_path / "one.key")).save(catalog)
    assert CatalogFile(tmp_path / "catalog.bin", Keyring.load_or_create(tmp_path / "other.key")).load() is None


def test_what_a_log_shows_of_a_saved_catalog_has_no_secret() -> None:
    assert "sk-1" not in repr(SavedCatalog(1.0, {}, [], [], [("default", "key", "sk-1")]))


# -- what is told


async def told(bench: Bench, *, plain: bool = False) -> list[str]:
    servicer = RouterServicer(bench.router, bench.keeper, default_workspace="default")
    request = rpb.ListServedModelsRequest(workspace="default", plain=plain)
    return [model.id for model in (await servicer.ListServedModels(request, None)).models]


async def test_models_are_listed_if_they_can_be_called() -> None:
    async with benches() as bench:
        bench.provider("p0", "http://h", {"aa": "up/1", "bb": "up/2"})
        bench.provider("p1", "http://h", {"cc": "up/3"}, status=pb.PROVIDER_STATUS_ERROR)
        for name in ("aa", "cc", "zz"):
            bench.model(name)
        bench.model("yy", fallbacks=["aa"])
        assert await told(bench) == ["default/aa", "default/yy"]
        assert await told(bench, plain=True) == ["default/aa", "default/yy", "up/1", "up/2"]


NOT_READY: dict[str, tuple[dict[str, object], str]] = {
    "ready": ({}, ""),
    "discovery has not succeeded": ({"status": pb.PROVIDER_STATUS_PENDING}, "discovery has not made it READY"),
    "no key": ({"api_key_secret_name": "key"}, "its secret key is not at hand"),
    "drained": ({"admin_state": pb.ADMIN_STATE_DRAINING}, "it is draining"),
    "a model without a name": ({"served": {"zz": "up/1"}}, "default/zz has no virtual model yet"),
}


@pytest.mark.parametrize(("fields", "reason"), NOT_READY.values(), ids=NOT_READY.keys())
async def test_a_provider_is_ready_when_its_models_route(fields: dict[str, object], reason: str) -> None:
    async with benches() as bench:
        bench.provider("p0", "http://h:81/v1", **fields)  # type: ignore[arg-type]
        bench.model()
        servicer = RouterServicer(bench.router, bench.keeper, default_workspace="default")
        answer = await servicer.ProviderReady(rpb.ProviderReadyRequest(workspace="default", name="p0"), None)
        assert (answer.ready, answer.reason, answer.host_url) == (not reason, reason, "http://h:81/v1")
        with pytest.raises(errors.ResourceNotFound, match="Model provider not found for default/p1"):
            await servicer.ProviderReady(rpb.ProviderReadyRequest(workspace="default", name="p1"), None)


async def test_an_explanation_equals_what_then_happens_in_1000_random_cases(
    upstream: ScriptedUpstream,
) -> None:
    upstream.always(Status(500))
    chance = random.Random(7)
    async with ScriptedUpstream(default=OK) as good, benches() as bench:
        seed, now = 0, 1000.0
        bench.router._seed = lambda: seed
        bench.router.ledger.clock = lambda: now
        for case in range(1000):
            if case % 20 == 0:
                fill_at_random(bench, chance, [upstream.url, good.url])
            seed, now = chance.getrandbits(64), now + chance.random()  # candidates return and are probed
            name, session = chance.choice(("aa", "bb", "cc")), chance.choice(("", "s1", "s2"))
            request = rpb.ExplainRouteRequest(model=rpb.ModelTarget(workspace="default", name=name))
            request.options.session_id = session
            sink = Recorder()
            try:
                answer = await explain(bench.router, bench.keeper, request, NOBODY)
            except errors.NoRoute:
                with pytest.raises(errors.NoRoute):
                    await bench.router.invoke(by_model(name=name, session=session), sink)
                continue
            said = [each.provider for each in sorted(answer.candidates, key=lambda c: c.position) if each.position]
            if not said:
                with pytest.raises(errors.NoRoute):
                    await bench.router.invoke(by_model(name=name, session=session), sink)
                continue
            outcome = await bench.router.invoke(by_model(name=name, session=session, want_receipt=True), sink)
            again = replay(Receipt.FromString(outcome.receipt))
            assert again.same, case
            assert [provider for provider, _ in again.order] == said, case
            tried = [attempt.provider for attempt in outcome.attempts]
            assert tried == said[: len(tried)], case
            assert len(tried) == min(len(said), ATTEMPT_CAP) or sink.got is not None
        assert len(good.requests) > 100
        assert len(upstream.requests) > 100


async def test_an_explanation_lists_candidates_that_are_all_refused(upstream: ScriptedUpstream) -> None:
    async with benches() as bench:
        bench.in_turn(upstream.url)
        bench.provider("p0", upstream.url, admin_state=pb.ADMIN_STATE_DRAINING)
        request = rpb.ExplainRouteRequest(model=rpb.ModelTarget(workspace="default", name="chat"))
        answer = await explain(bench.router, bench.keeper, request, NOBODY)
        assert [(each.provider, each.position, each.reason) for each in answer.candidates] == [
            ("default/p0", 0, "draining")
        ]


async def test_an_explanation_gives_a_reason_for_every_candidate(upstream: ScriptedUpstream) -> None:
    upstream.always(Status(429, retry_after=30))
    async with benches() as bench:
        bench.in_turn(*[upstream.url] * 5)
        bench.provider("p1", upstream.url, admin_state=pb.ADMIN_STATE_DISABLED)
        await bench.ask(by_model())
        request = rpb.ExplainRouteRequest(model=rpb.ModelTarget(workspace="default", name="chat"))
        answer = await explain(bench.router, bench.keeper, request, NOBODY)
        reasons = {each.provider: each.reason for each in answer.candidates}
        assert reasons == {
            "default/p0": "resting",
            "default/p1": "disabled",
            "default/p2": "resting",
            "default/p3": "resting",
            "default/p4": "policy",
        }
        assert [each.position for each in answer.candidates if each.provider == "default/p4"] == [1]
        assert all(each.detail for each in answer.candidates)
        assert request.WhichOneof("target") == Route.MODEL.value
