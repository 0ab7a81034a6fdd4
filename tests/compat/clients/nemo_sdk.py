"""What applications do with the ``nemo_platform`` SDK. Each function is one feature and returns what it saw."""

from __future__ import annotations

import asyncio
import inspect
import json
from typing import Any

from nemo_platform import AsyncNeMoPlatform, NeMoPlatform

PROMPT: Any = [{"role": "user", "content": "Hello"}]


def _client(base_url: str, workspace: str = "default") -> NeMoPlatform:
    return NeMoPlatform(base_url=base_url, workspace=workspace)


def _plain(answer: Any) -> Any:
    return answer.model_dump(mode="json") if hasattr(answer, "model_dump") else answer


def crud(base_url: str, workspace: str, resource: str, create: dict[str, Any], change: dict[str, Any]) -> Any:
    """Create, get, list, update and delete one object; return each answer."""
    client: Any = _client(base_url, workspace)
    methods = client
    for part in resource.split("."):
        methods = getattr(methods, part)
    name = create["name"]
    update = getattr(methods, "update", None) or methods.patch
    seen = {
        "created": _plain(methods.create(**create)),
        "got": _plain(methods.retrieve(name)),
        "listed": [item.name for item in methods.list()],
        "updated": _plain(update(name, **change)),
    }
    if "exist_ok" in inspect.signature(methods.create).parameters:
        seen["again"] = _plain(methods.create(**create, exist_ok=True))
    seen["deleted"] = _plain(methods.delete(name))
    return seen


def members(base_url: str, workspace: str, principal: str) -> Any:
    """Add, list, change and remove one member; return each answer."""
    methods: Any = _client(base_url, workspace).workspaces.members
    return {
        "created": _plain(methods.create(principal=principal, roles=["Editor"], wait_role_propagation=True)),
        "listed": _plain(methods.list()),
        "updated": _plain(methods.update(principal, roles=["Viewer", "Admin"], wait_role_propagation=False)),
        "deleted": _plain(methods.delete(principal)),
        "left": _plain(methods.list()),
    }


def fail(base_url: str, workspace: str, call: str, **args: Any) -> Any:
    """Make one call that is expected to raise: ``call`` is a dotted path below the client."""
    method: Any = _client(base_url, workspace)
    for part in call.split("."):
        method = getattr(method, part)
    return _plain(method(**args))


def pages(base_url: str, workspace: str, names: list[str]) -> Any:
    """Create models, then list them by pages of one, sorted and filtered."""
    client = _client(base_url, workspace)
    for name in names:
        client.models.create(name=name, description=f"about {name}")
    first = client.models.list(page_size=1, sort="name")
    either = json.dumps({"$or": [{"name": names[0]}, {"name": names[2]}]})
    return {
        "all": [model.name for model in client.models.list(page_size=1, sort="name")],
        "backwards": [model.name for model in client.models.list(page_size=2, sort="-name")],
        "first": [model.name for model in first.data],
        "total": first.pagination.total_results,
        "like": [model.name for model in client.models.list(filter={"name": {"$like": names[0][2:]}})],
        "equal": [model.name for model in client.models.list(filter={"name": names[1]})],
        "in": sorted(model.name for model in client.models.list(filter={"name": {"$in": names[:2]}})),
        "not": [m.name for m in client.models.list(sort="name", filter={"$not": {"name": names[0]}})],
        "json": [m.name for m in client.models.list(sort="name", extra_query={"filter": either})],
        "text": [m.name for m in client.models.list(extra_query={"filter": f'name:"{names[2]}"'})],
        "everywhere": [m.name for m in client.models.list(workspace="-", filter={"name": names[0]})],
    }


def typed_filters(base_url: str, workspace: str) -> Any:
    """Ask by the filters whose types only the SDK knows: is there a prompt, a base model, a kind of tuning?"""
    client = _client(base_url, workspace)
    client.models.create(name="typed-plain")
    client.models.create(name="typed-both", prompt={"system_prompt": "Be short."}, base_model="default/base")
    client.models.create(name="typed-tuned", prompt={"system_prompt": "Be brief."}, finetuning_type="lora")

    def found(**chosen: Any) -> list[str]:
        listed = client.models.list(sort="name", filter={**chosen, "name": {"$like": "typed-"}})
        return [model.name.removeprefix("typed-") for model in listed]

    aliases = client.inference.virtual_models
    aliases.create(name="typed-alias", default_model_entity="default/base")
    mine = [virtual.name for virtual in aliases.list(exclude_autoprovisioned=True)]
    cleared: Any = aliases.patch("typed-alias", extra_body={"default_model_entity": None})
    return {
        "prompt": found(prompt=True),
        "no prompt": found(prompt=False),
        "base model": found(base_model=True),
        "name of the base model": found(base_model={"name": {"$like": "BASE"}}),
        "tuned": found(finetuning_type=True),
        "tuned so": found(finetuning_type="lora"),
        "adapters": found(adapters=False),
        "exclude_autoprovisioned": mine,
        "cleared": cleared.default_model_entity,
    }


def lists(base_url: str, workspace: str, resource: str, names: list[str], further: dict[str, Any]) -> Any:
    """Create objects of one resource, then list them sorted, filtered and by pages of one, as far as the SDK can."""
    methods: Any = _client(base_url, workspace)
    for part in resource.split("."):
        methods = getattr(methods, part)
    for name in names:
        methods.create(name=name, **further)
    known = inspect.signature(methods.list).parameters

    def listed(**query: Any) -> list[str]:
        own = {key: value for key, value in query.items() if key in known}
        rest = {key: value for key, value in query.items() if key not in known}
        if isinstance(rest.get("filter"), dict):
            rest["filter"] = json.dumps(rest["filter"])
        return [item.name for item in methods.list(**own, extra_query=rest)]

    return {
        "up": [name for name in listed(sort="name") if name in names],
        "down": [name for name in listed(sort="-name", page_size=1) if name in names],
        "equal": listed(filter={"name": names[1]}),
        "like": listed(filter={"name": {"$like": names[0].upper()}}),
        "in": sorted(listed(filter={"name": {"$in": [names[0], names[2]]}})),
        "since": [n for n in listed(filter={"created_at": {"$gte": "2020-01-01"}}, sort="name") if n in names],
    }


async def pages_async(base_url: str, workspace: str) -> list[str]:
    async with AsyncNeMoPlatform(base_url=base_url, workspace=workspace) as client:
        return [model.name async for model in client.models.list(page_size=1, sort="name")]


def wait(base_url: str, workspace: str, provider: str, host_url: str) -> Any:
    """Create a provider and wait for it, then list what routes."""
    client = _client(base_url, workspace)
    client.inference.providers.create(name=provider, host_url=host_url)
    ready = client.models.wait_for_provider(provider)
    return {"ready": ready, "models": [model.id for model in client.inference.models.list().data]}


def openai(base_url: str, workspace: str, provider: str, entity: str, upstream_id: str) -> Any:
    """Chat through the OpenAI clients that the SDK makes, on each of its routes."""
    import openai as library

    client = _client(base_url, workspace)
    made = client.models.get_openai_client()
    answer = made.chat.completions.create(model=f"{workspace}/{entity}", messages=PROMPT)
    stream = made.chat.completions.create(model=entity, messages=PROMPT, stream=True)
    seen = {
        "content": answer.choices[0].message.content,
        "model": answer.model,
        "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices),
        "base": client.models.get_openai_route_base_url(),
    }
    headers = client.models.get_client_default_headers()
    routes = {
        "provider_route": (
            client.models.get_provider_route_openai_url(client.inference.providers.retrieve(provider)),
            upstream_id,
        ),
        "model_route": (client.models.get_model_entity_route_openai_url(client.models.retrieve(entity)), "x"),
    }
    for name, (url, model) in routes.items():
        with library.OpenAI(base_url=url, api_key="x", default_headers=headers) as direct:
            seen[name] = direct.chat.completions.create(model=model, messages=PROMPT).model
    return seen


def gateway(base_url: str, workspace: str, provider: str, entity: str, upstream_id: str) -> Any:
    """Call the three routes of the gateway by the SDK's own methods."""
    routes = _client(base_url, workspace).inference.gateway
    chat = "v1/chat/completions"
    by_openai: Any = routes.openai.post(chat, body={"model": f"{workspace}/{entity}", "messages": PROMPT})
    by_model: Any = routes.model.post(chat, name=entity, body={"messages": PROMPT})
    by_provider: Any = routes.provider.post(chat, name=provider, body={"model": upstream_id, "messages": PROMPT})
    listed: Any = routes.provider.get("v1/models", name=provider)
    through_model: Any = routes.model.get("v1/models", name=entity)
    named: Any = routes.openai.get("v1/models")
    return {
        "openai": _plain(by_openai)["model"],
        "model": _plain(by_model)["model"],
        "provider": _plain(by_provider)["model"],
        "listed": [model["id"] for model in _plain(listed)["data"]],
        "through_model": [model["id"] for model in _plain(through_model)["data"]],
        "named": [model["id"] for model in _plain(named)["data"]],
    }


def verbs(base_url: str, workspace: str, provider: str, entity: str) -> Any:
    """Send each method through the provider and the model route; the upstream tells what came."""
    routes = _client(base_url, workspace).inference.gateway
    seen: dict[str, Any] = {}
    for route, name in ((routes.provider, provider), (routes.model, entity)):
        for verb in ("put", "patch", "delete"):
            body = {} if verb == "delete" else {"body": {"a": 1}}
            kind = type(route).__name__.removesuffix("Resource").lower()
            seen[f"{kind} {verb}"] = _plain(getattr(route, verb)("v1/things/7", name=name, **body))
    return seen


async def gateway_async(base_url: str, workspace: str, entities: list[str]) -> list[str]:
    """Several requests at a time through the asynchronous twin."""
    async with AsyncNeMoPlatform(base_url=base_url, workspace=workspace) as client:
        asked: Any = [
            client.inference.gateway.model.post("v1/chat/completions", name=name, body={"messages": PROMPT})
            for name in entities
        ]
        return [_plain(answer)["model"] for answer in await asyncio.gather(*asked)]


def with_token(base_url: str, workspace: str, token: str, model: str) -> Any:
    """The same with an access token configured."""
    client = NeMoPlatform(base_url=base_url, workspace=workspace, access_token=token)
    answer: Any = client.models.get_openai_client().chat.completions.create(model=model, messages=PROMPT)
    return {"name": client.models.retrieve(model).name, "chat": answer.model}
