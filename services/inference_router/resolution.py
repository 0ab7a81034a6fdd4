"""From the name in a call to the candidates that may serve it: the model resolution of the HTTP contract.

Pure: reads one :class:`~services.inference_router.snapshot.Catalog`, awaits nothing. The order among the
candidates is made by ``routing``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from junctor import names
from junctor.errors import (
    CredentialUnavailable,
    FieldViolation,
    InvalidField,
    NoRoute,
    NotReady,
    ResourceNotFound,
    ResourceRef,
)
from services.inference_router.snapshot import AdminState, Candidate, Catalog, Policy, Provider, Target, VirtualModel
from services.runtime.exchange import Route


@dataclass(frozen=True, slots=True)
class Refused:
    """A candidate that takes no calls, and why."""

    candidate: Candidate
    reason: str
    """For programs: ``disabled``, ``draining``, ``not_ready``, ``no_secret``, ``zero_weight``."""


@dataclass(frozen=True, slots=True)
class Group:
    """Candidates of one virtual model, to be ordered by its policy."""

    virtual_model: VirtualModel
    candidates: tuple[Candidate, ...]

    @property
    def policy(self) -> Policy:
        """How they are ordered."""
        return self.virtual_model.policy


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a name led to. Of ``groups`` the first is the virtual model's own, the others are its fallbacks'."""

    virtual_model: VirtualModel
    groups: tuple[Group, ...]
    refused: tuple[Refused, ...]

    @property
    def single(self) -> bool:
        """There is nothing to choose: one candidate in all."""
        return len(self.groups) == 1 and len(self.groups[0].candidates) == 1


def resolve(catalog: Catalog, route: Route, workspace: str, *, name: str = "", model: str | None = None) -> Resolution:
    """Find what serves a call of the openai, model or plain route; every group has a candidate.

    Raises :class:`InvalidField` for a name that breaks its rule or means several models, :class:`NoRoute` if
    nothing serves it, :class:`CredentialUnavailable` if only a provider's key is missing.
    """
    found = expand(catalog, look_up(catalog, route, workspace, name=name, model=model))
    if not found.groups:
        raise _nothing_usable(found.virtual_model, found.refused)
    return found


def look_up(
    catalog: Catalog, route: Route, workspace: str, *, name: str = "", model: str | None = None
) -> VirtualModel:
    """Find the virtual model that a call means. Raises :class:`InvalidField`, :class:`NoRoute`."""
    _check_name("workspace", workspace)
    if route is Route.MODEL:
        _check_name("name", name)
        found = catalog.virtual_models.get((workspace, name)) or _of_entity(catalog, names.join(workspace, name))
    elif route is Route.PLAIN:
        found = _plain(catalog, workspace, model or "")
    else:
        name = (model or "").removeprefix(f"{workspace}/")
        if not names.is_name(name):
            raise _invalid_model(catalog, workspace, model or "")
        found = catalog.virtual_models.get((workspace, name))
    if found is None:
        raise _no_route(route, workspace, (name if route is not Route.PLAIN else model) or "")
    return found


def provider_of(catalog: Catalog, workspace: str, name: str) -> Provider:
    """Find the provider of the provider route, whatever its status.

    Raises :class:`InvalidField`, :class:`ResourceNotFound`, :class:`NotReady` if an operator took it out of
    service, :class:`CredentialUnavailable` if its key is not at hand.
    """
    _check_name("workspace", workspace)
    _check_name("name", name)
    ref = names.join(workspace, name)
    provider = catalog.providers.get((workspace, name))
    if provider is None:
        raise ResourceNotFound(f"Model provider not found for {ref}", resource=ResourceRef("provider", ref))
    if provider.admin_state is not AdminState.ACTIVE:
        raise NotReady(f"Model provider {ref} takes no calls: {provider.admin_state.value}")
    if provider.lacks_key:
        raise _no_secret(ref)
    return provider


def served_models(catalog: Catalog, workspace: str | None) -> list[VirtualModel]:
    """Return the virtual models that can be called now, by name; ``workspace`` None: of all workspaces."""
    found = (vm for key, vm in catalog.virtual_models.items() if workspace is None or key[0] == workspace)
    return sorted((vm for vm in found if _takes_calls(catalog, vm)), key=lambda vm: (vm.workspace, vm.name))


def _plain(catalog: Catalog, workspace: str, model: str) -> VirtualModel | None:
    key = names.split(model) if "/" in model else (workspace, model)
    if (found := catalog.virtual_models.get(key)) is not None:
        return found
    entities = _vendor_entities(catalog, workspace, model)
    if len(entities) > 1:
        options = " or ".join(f"'{entity}'" for entity in entities)
        text = f"Invalid model: several models are served as '{_shown(model)}'; use {options}."
        raise InvalidField(text, violations=(FieldViolation("model", "must name one model"),))
    return _of_entity(catalog, entities[0]) if entities else None


def _vendor_entities(catalog: Catalog, workspace: str, model: str) -> list[str]:
    """Return the entities served under an upstream's id that can be called now."""
    entities = catalog.vendor_ids.get(workspace, {}).get(model, ())
    return [entity for entity in entities if _of_entity(catalog, entity) is not None]


def _of_entity(catalog: Catalog, entity: str) -> VirtualModel | None:
    """Return the virtual model of an entity's name, or one made for the purpose if something serves it."""
    key = names.split(entity)
    found = catalog.virtual_models.get(key)
    if found is None and any(provider.ready for provider, _ in catalog.by_entity.get(entity, ())):
        found = VirtualModel(*key, default_entity=entity)
    return found


def expand(catalog: Catalog, start: VirtualModel) -> Resolution:
    """Gather the candidates of a virtual model and its fallbacks; no group: every one of them is refused."""
    groups: list[Group] = []
    refused: list[Refused] = []
    seen: set[tuple[str, str]] = set()
    for virtual_model in _with_fallbacks(catalog, start):
        usable = []
        for candidate in _candidates(catalog, virtual_model):
            if candidate.key in seen:
                continue
            seen.add(candidate.key)
            if reason := refusal(candidate):
                refused.append(Refused(candidate, reason))
            else:
                usable.append(candidate)
        if usable:
            groups.append(Group(virtual_model, tuple(usable)))
    return Resolution(start, tuple(groups), tuple(refused))


def _with_fallbacks(catalog: Catalog, start: VirtualModel) -> Iterator[VirtualModel]:
    """Yield it and its fallbacks, theirs behind them; loops are refused at write, and harmless here."""
    pending = [start]
    done: set[tuple[str, str]] = set()
    while pending:
        virtual_model = pending.pop(0)
        key = (virtual_model.workspace, virtual_model.name)
        if key in done:
            continue
        done.add(key)
        yield virtual_model
        fallbacks = (catalog.virtual_models.get((key[0], name)) for name in virtual_model.fallbacks)
        pending += [fallback for fallback in fallbacks if fallback is not None]


def _candidates(catalog: Catalog, virtual_model: VirtualModel) -> Iterator[Candidate]:
    for target in virtual_model.targets or (Target(entity=virtual_model.default_entity),):
        if not target.provider:
            entity = target.entity if "/" in target.entity else names.join(virtual_model.workspace, target.entity)
            for provider, upstream_id in catalog.by_entity.get(entity, ()):
                yield Candidate(provider, upstream_id, entity, target.weight, target.tier)
        elif (one := catalog.providers.get(names.split(target.provider))) is not None:
            entity = _entity_of(one, target.upstream_id) or names.join(virtual_model.workspace, virtual_model.name)
            yield Candidate(one, target.upstream_id, entity, target.weight, target.tier)


def _entity_of(provider: Provider, upstream_id: str) -> str:
    return next((served.entity for served in provider.served if served.upstream_id == upstream_id), "")


def refusal(candidate: Candidate) -> str:
    """Say why a candidate takes no calls, in the words of :class:`Refused`; empty if it does."""
    provider = candidate.provider
    if provider.admin_state is not AdminState.ACTIVE:
        return str(provider.admin_state.value)
    if not provider.ready:
        return "not_ready"
    if provider.lacks_key:
        return "no_secret"
    return "" if candidate.weight > 0 else "zero_weight"


def _takes_calls(catalog: Catalog, virtual_model: VirtualModel) -> bool:
    models = _with_fallbacks(catalog, virtual_model)
    return any(not refusal(candidate) for model in models for candidate in _candidates(catalog, model))


def _check_name(field: str, text: str) -> None:
    if not names.is_name(text):
        raise InvalidField(f"Invalid {field}: {names.NAME_RULE}", violations=(FieldViolation(field, names.NAME_RULE),))


def _invalid_model(catalog: Catalog, workspace: str, model: str) -> InvalidField:
    entities = _vendor_entities(catalog, workspace, model) or _vendor_entities(
        catalog, workspace, model.removeprefix(f"{workspace}/")
    )
    use = f" For this model use {' or '.join(entities)}." if entities else ""
    text = f"Invalid model: {names.NAME_RULE}{use} {_list_hint(Route.OPENAI, workspace)}"
    return InvalidField(text, violations=(FieldViolation("model", names.NAME_RULE),))


def _no_route(route: Route, workspace: str, model: str) -> NoRoute:
    ref = model if route is Route.PLAIN and "/" in model else names.join(workspace, model)
    text = f"No VirtualModel named '{_shown(ref)}' was found. {_list_hint(route, workspace)}"
    return NoRoute(text, resource=ResourceRef("virtual_model", _shown(ref)))


def _nothing_usable(virtual_model: VirtualModel, refused: Sequence[Refused]) -> NoRoute | CredentialUnavailable:
    ref = names.join(virtual_model.workspace, virtual_model.name)
    for each in refused:
        if each.reason == "no_secret":
            return _no_secret(each.candidate.provider.ref)
    why = ", ".join(f"{each.candidate.provider.ref}: {each.reason}" for each in refused)
    text = f"No provider serves VirtualModel '{ref}' now{f' ({why})' if why else ''}."
    return NoRoute(text, resource=ResourceRef("virtual_model", ref))


def _no_secret(ref: str) -> CredentialUnavailable:
    text = f"Could not fetch secret for provider {ref}; check that the secret it names exists and has a value"
    return CredentialUnavailable(text, resource=ResourceRef("provider", ref))


def _list_hint(route: Route, workspace: str) -> str:
    if route is Route.PLAIN:
        return "GET /v1/models lists what can be called."
    return f"'junctor inference models list --workspace {workspace}' lists what can be called."


def _shown(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"
