"""``/apis/usage/v2``: records of what was used, sums of them, and prices, over the services ``Usage`` and ``Prices``.

Records and sums are JSON, or CSV for ``accept: text/csv`` or ``format=csv``: records then all that there are, streamed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway_http import queries, usage_csv
from gateway_http.collection import Collection, Rpc
from gateway_http.endpoint import Answer, Call, Endpoint, route
from gateway_http.queries import Listing
from gateway_http.rendering import render
from gateway_http.resources import Key, Resource
from gateway_http.stubs import Service
from gateway_http.translate import BadBody, Reader
from junctor.errors import MalformedRequest
from junctor.filters import as_time, from_query, to_json
from junctor.v1 import usage_pb2 as pb

if TYPE_CHECKING:
    from junctor.v1.usage_pb2_grpc import PricesAsyncStub, UsageAsyncStub

USAGE, SUMMARY, PRICES = "/apis/usage/v2/usage", "/apis/usage/v2/summary", "/apis/usage/v2/prices"
_SUM_SECONDS = 30.0
"""As the proto says."""
_MICROS = ("input_micros", "output_micros")

RECORD = Resource(
    title="UsageRecord",
    message=pb.UsageRecord,
    store="metering",
    keys=(
        *(Key(name) for name in ("id", "time")),
        *(Key(name, unset="") for name in ("request_id", "workspace", "model", "provider", "upstream_model")),
        Key("principal", unset=""),
        Key("tags", unset={}),
        Key("kind", unset=""),
        Key("stream", unset=False),
        Key("status", unset=0),
        *(Key(name, unset="") for name in ("verdict", "error_source")),
        Key("attempts", unset=0),
        *(Key(name) for name in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")),
        *(Key(name) for name in ("token_source", "cost_micros")),
        *(Key(name, unset=0) for name in ("price_version", "queue_seconds")),
        Key("first_byte_seconds"),
        Key("total_seconds", unset=0),
    ),
    page_size=100,
    sorts=("time",),
    default_sort="-time",
)
PRICE = Resource(
    title="Price",
    message=pb.Price,
    store="metering",
    keys=(
        Key("model", settable=True, required=True),
        Key("provider", settable=True, unset="*"),
        *(Key(name, settable=True, required=True, unset=0) for name in _MICROS),
        *(Key(name, settable=True) for name in ("cached_input_micros", "valid_from")),
        Key("version", unset=0),
        Key("created_by", unset=""),
    ),
    page_size=100,
)
SUM = Resource(
    title="UsageSum",
    message=pb.UsageSum,
    store="metering",
    keys=(
        Key("group", unset=[]),
        *(Key(name, unset=0) for name in ("requests", "failed", "input_tokens", "output_tokens", "cached_tokens")),
        *(Key(name, unset=0) for name in ("reasoning_tokens", "estimated", "cost_micros", "unpriced")),
    ),
    page_size=100,
)


def routes(usage: Service[UsageAsyncStub], prices: Service[PricesAsyncStub]) -> list[Route]:
    """Return the routes."""
    of_usage, of_prices = _Usage(usage), _Prices(prices)
    return [
        Route(USAGE, endpoint=_Either(Endpoint({"GET": of_usage.list}, echoes=True), of_usage.list_csv)),
        Route(SUMMARY, endpoint=_Either(Endpoint({"GET": of_usage.sum}, echoes=True), of_usage.sum_csv)),
        route(PRICES, GET=of_prices.list, POST=of_prices.set),
    ]


@dataclass(frozen=True, slots=True)
class _Usage:
    service: Service[UsageAsyncStub]

    async def list(self, call: Call) -> Answer:
        since, until = between(call)

        def request(listing: Listing) -> pb.ListUsageRequest:
            if listing.sort != RECORD.default_sort:
                raise BadBody([("query.sort", "enum", "Input should be '-time': the newest come first")])
            return pb.ListUsageRequest(
                workspace=call.parameter("workspace"),
                page_size=listing.page_size,
                skip=listing.skip,
                filter=listing.filter,
                since=since,
                until=until,
                with_total=True,
            )

        rpc = Rpc(self.service.stub.ListUsage, request)
        records = Collection(RECORD, self.service.peer, rpc, rpc, items="records", create_rpc=rpc, delete_rpc=rpc)  # type: ignore[arg-type]
        return await records.list(call)

    async def list_csv(self, call: Call) -> StreamingResponse:
        since, until = between(call)
        request = pb.ListUsageRequest(
            workspace=call.parameter("workspace"),
            page_size=queries.MAX_PAGE_SIZE,
            filter=wanted(call),
            since=since,
            until=until,
        )
        first = await self._page(request)  # a refusal is told before the answer begins
        return StreamingResponse(usage_csv.records(self._pages(request, first)), media_type=usage_csv.TYPE)

    async def _pages(
        self, request: pb.ListUsageRequest, page: pb.ListUsageResponse
    ) -> AsyncIterator[pb.ListUsageResponse]:
        yield page
        while page.next_page_token:
            request.page_token = page.next_page_token
            page = await self._page(request)
            yield page

    async def _page(self, request: pb.ListUsageRequest) -> pb.ListUsageResponse:
        return await self.service.peer.call(self.service.stub.ListUsage, request)

    async def sum(self, call: Call) -> Answer:
        by, found = await self._summary(call)
        sums = [render(SUM, each) for each in found.sums]
        return Answer(200, {"by": by, "sums": sums, "total": render(SUM, found.total)})

    async def sum_csv(self, call: Call) -> StreamingResponse:
        by, found = await self._summary(call)
        return StreamingResponse(usage_csv.sums(by, found), media_type=usage_csv.TYPE)

    async def _summary(self, call: Call) -> tuple[Sequence[str], pb.SummarizeUsageResponse]:
        since, until = between(call)
        given = (value for name, values in call.query if name == "by" for value in values.split(","))
        by = [value for value in given if value]
        request = pb.SummarizeUsageRequest(
            workspace=call.parameter("workspace"), by=by, filter=wanted(call), since=since, until=until
        )
        return by, await self.service.peer.call(self.service.stub.SummarizeUsage, request, timeout=_SUM_SECONDS)


@dataclass(frozen=True, slots=True)
class _Prices:
    service: Service[PricesAsyncStub]

    async def list(self, call: Call) -> Answer:
        request = pb.ListPricesRequest(all_versions=queries.flag(call.query, "all_versions"))
        found = await self.service.peer.call(self.service.stub.ListPrices, request)
        return Answer(200, {"data": [render(PRICE, each) for each in found.prices]})

    async def set(self, call: Call) -> Answer:
        reader = Reader(await call.content())
        price: Any = reader.read(pb.Price(), PRICE.settable)
        reader.done()
        set_ = await self.service.peer.call(self.service.stub.SetPrice, pb.SetPriceRequest(price=price))
        return Answer(200, render(PRICE, set_))


def wanted(call: Call) -> str:
    """Return the filter of a query as JSON; empty for none. Raises MalformedRequest."""
    node = from_query(call.query)
    return to_json(node) if node is not None else ""


def between(call: Call) -> tuple[Timestamp | None, Timestamp | None]:
    """Read ``since`` and ``until``. Raises BadBody for what is no time."""
    found: list[Timestamp | None] = []
    for name in ("since", "until"):
        stamp = None
        if text := call.parameter(name):
            try:
                stamp = Timestamp()
                stamp.FromDatetime(as_time(text))
            except (MalformedRequest, ValueError):
                rule = "Input should be a valid datetime, such as 2030-01-31T12:00:00Z"
                raise BadBody([(f"query.{name}", "datetime_parsing", rule)]) from None
        found.append(stamp)
    return found[0], found[1]


class _Either:
    """The ASGI application of a path that is CSV for who asks for it, and JSON else; refusals are JSON always."""

    def __init__(self, endpoint: Endpoint, csv: Callable[[Call], Awaitable[ASGIApp]]) -> None:
        self._endpoint = endpoint
        self._csv = csv

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        form, accepts = request.query_params.get("format"), request.headers.get("accept", "")
        if request.method != "GET" or not (form == "csv" or (form is None and "text/csv" in accepts)):
            await self._endpoint(scope, receive, send)
            return
        answers: list[ASGIApp] = []

        async def get(call: Call) -> Answer:
            answers.append(await self._csv(call))
            return Answer(200)

        held: list[Any] = []

        async def hold(message: Any) -> None:
            held.append(message)

        await Endpoint({"GET": get}, echoes=True)(scope, receive, hold)
        if answers:
            await answers[0](scope, receive, send)
            return
        for message in held:
            await send(message)
