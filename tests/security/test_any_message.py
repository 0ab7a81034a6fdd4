"""Any message to any write: taken whole and given back equal, or refused by an error of ours. Nothing else happens."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway_http.resources import MODEL, PROVIDER, SECRET, VIRTUAL_MODEL, WORKSPACE
from junctor.errors import BY_REASON
from tests.cluster import Cluster, running
from tests.security.contract import GOOD, Rpc, class_of, filled, messages, reason_of, rpcs

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

EXAMPLES = 40
SETTINGS = settings(
    max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
RPCS = list(rpcs())
BY_NAME = {rpc.name: rpc for rpc in RPCS}
KINDS = sorted(GOOD)
WRITES = [rpc for rpc in RPCS if rpc.name.startswith(("Create", "Update", "Delete", "Reset", "Revoke"))]
WRITES = [rpc for rpc in WRITES if not rpc.service.endswith(".Inference")]
UNARY = [rpc for rpc in RPCS if rpc.streams == (False, False)]


SETTABLE = {
    cast(Descriptor, one.message.DESCRIPTOR).name: {key.name for key in one.settable} | {"name"}
    for one in (MODEL, PROVIDER, SECRET, VIRTUAL_MODEL, WORKSPACE)
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with running(tmp_path_factory.mktemp("any")) as made:
        yield made


def said(resource: Message) -> dict[str, Any]:
    """What a caller said of a resource: all but what the server writes, at any time."""
    return {name: getattr(resource, name) for name in SETTABLE[resource.DESCRIPTOR.name]}


class Calls:
    """Calls RPCs by their name; a refusal that is none of ours, or INTERNAL, fails the test."""

    def __init__(self, cluster: Cluster) -> None:
        self._channel = cluster.channel

    async def __call__(self, rpc: Rpc, request: Message) -> Any:
        """Return the answer, or the reason of the refusal."""
        call = self._channel.unary_unary(
            rpc.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=class_of(rpc.response).FromString,
        )
        try:
            return await call(request, timeout=30)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:  # a service that is not in this process
                return "UNIMPLEMENTED"
            reason = reason_of(error)
            if reason not in BY_REASON or reason == "INTERNAL":
                raise
            return reason


def place(rpc: Rpc, resource: Message) -> Message:
    """A request for one resource."""
    request = class_of(rpc.request)()
    for name in ("workspace", "name"):
        if name in rpc.request.fields_by_name:
            setattr(request, name, getattr(resource, name))
    return request


def resource_field(rpc: Rpc, kind: str) -> str:
    return next(field.name for field in rpc.request.fields if field.message_type and field.message_type.name == kind)


def with_value(request: Any) -> None:
    """A secret is not made without one."""
    if (field := request.DESCRIPTOR.fields_by_name.get("value")) is not None:
        request.value = b"a value" if field.type == field.TYPE_BYTES else "a value"


def good(kind: str) -> Message:
    return class_of(BY_NAME[f"Get{kind}"].response)(**GOOD[kind])


def starting_with(kind: str) -> st.SearchStrategy[tuple[Message, set[str]]]:
    """A good resource with random values in some fields, and which."""
    start = good(kind)
    fields = st.sets(st.sampled_from([field.name for field in start.DESCRIPTOR.fields]), min_size=1, max_size=4)
    return fields.flatmap(lambda chosen: st.tuples(filled(start, chosen), st.just(chosen)))


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_taken_is_kept_as_it_was_sent(cluster: Cluster, kind: str) -> None:
    calls = Calls(cluster)
    create, get, delete = (BY_NAME[f"{verb}{kind}"] for verb in ("Create", "Get", "Delete"))
    every = next(rpc for rpc in RPCS if rpc.name.startswith("List") and rpc.service == get.service)
    taken = refused = 0

    @SETTINGS
    @given(drawn=starting_with(kind))
    async def created(drawn: tuple[Message, set[str]]) -> None:
        nonlocal taken, refused
        request = class_of(create.request)()
        getattr(request, resource_field(create, kind)).CopyFrom(drawn[0])
        with_value(request)
        made = await calls(create, request)
        if isinstance(made, str):
            refused += 1
            return
        taken += 1
        kept = await calls(get, place(get, made))
        assert said(kept) == said(made)
        assert said(made) in [said(one) for one in in_list(await calls(every, listing(every, made)))]
        for name in drawn[1] & SETTABLE[kind]:
            sent, got = getattr(drawn[0], name), getattr(made, name)
            assert got == sent or not sent, name
        await calls(delete, place(delete, made))

    await _run(created)
    assert taken > 0
    assert refused > 0


def listing(rpc: Rpc, made: Message) -> Message:
    request = class_of(rpc.request)()
    if "workspace" in rpc.request.fields_by_name:
        request.workspace = made.workspace  # type: ignore[attr-defined]
    request.page_size = 1000  # type: ignore[attr-defined]
    return request


def in_list(answer: Message) -> list[Any]:
    field = next(field for field in answer.DESCRIPTOR.fields if field.is_repeated)
    return list(getattr(answer, field.name))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Secret"])  # its fields are the request's own
async def test_any_change_is_made_whole_or_refused(cluster: Cluster, kind: str) -> None:
    calls = Calls(cluster)
    create, get, update, delete = (BY_NAME[f"{verb}{kind}"] for verb in ("Create", "Get", "Update", "Delete"))
    request = class_of(create.request)()
    getattr(request, resource_field(create, kind)).CopyFrom(good(kind))
    with_value(request)
    made = await calls(create, request)
    assert not isinstance(made, str)

    @SETTINGS
    @given(drawn=starting_with(kind), more=st.sets(st.sampled_from(["*", "nothing", "name", "id", ""]), max_size=1))
    async def changed(drawn: tuple[Message, set[str]], more: set[str]) -> None:
        before = await calls(get, place(get, made))
        request = class_of(update.request)()
        target = getattr(request, resource_field(update, kind))
        target.CopyFrom(drawn[0])
        for name in ("workspace", "name"):
            if name in target.DESCRIPTOR.fields_by_name:
                setattr(target, name, getattr(made, name))
        request.update_mask.paths.extend(sorted(drawn[1] - {"name", "workspace"} | more))  # type: ignore[attr-defined]
        answer = await calls(update, request)
        after = await calls(get, place(get, made))
        assert said(after) == said(before if isinstance(answer, str) else answer)

    await _run(changed)
    await calls(delete, place(delete, made))


@pytest.mark.parametrize("rpc", UNARY, ids=str)
async def test_any_request_at_all_is_answered_or_refused(
    cluster: Cluster, rpc: Rpc, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Calls(cluster)

    @settings(SETTINGS, max_examples=10)
    @given(request=messages(rpc.request))
    async def called(request: Message) -> None:
        await calls(rpc, request)

    await _run(called)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def _run(test: Any) -> None:
    """Run a Hypothesis test whose body is a coroutine in this very loop, from a thread of its own."""
    loop = asyncio.get_running_loop()
    inner = test.hypothesis.inner_test

    @functools.wraps(inner)
    def in_loop(*args: Any, **kwargs: Any) -> None:
        asyncio.run_coroutine_threadsafe(inner(*args, **kwargs), loop).result(120)

    test.hypothesis.inner_test = in_loop
    await asyncio.to_thread(test)
