"""LiteLLM's ``config.yaml`` as documents: secrets, providers, and a virtual model for each ``model_name``.

Deployments with the same address, key and parameters become one provider, whose models are named and not discovered
(as LiteLLM has it); a group becomes a virtual model with a target for each deployment. Grammar: LiteLLM's
documentation of its proxy's settings. Nothing is looked up but environment variables, by the function given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from junctor import names
from junctor.declare.imported import Imported, Report, as_name
from junctor.declare.litellm_params import Deployment, Key, Variables, provider_name, read
from junctor.declare.litellm_routing import Groups, aliases, fallbacks, routing, strategy
from junctor.declare.litellm_settings import OFF, report_rest

Json = Mapping[str, Any]

_SECTIONS: Final = ("litellm_settings", "router_settings", "general_settings")


@dataclass(slots=True)
class _Providers:
    """Providers as they are found, by what their deployments have in common."""

    workspace: str
    inline: bool
    names: dict[str, str] = field(default_factory=dict)
    bodies: dict[str, dict[str, Any]] = field(default_factory=dict)
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)
    secret_names: dict[tuple[str, str], str] = field(default_factory=dict)

    def of(self, deployment: Deployment, report: Report) -> str:
        """Return the name of a deployment's provider, making it if it is the first; adds the model to it."""
        name = self.names.get(deployment.identity)
        if name is None:
            name = _free(provider_name(deployment.prefix), self.bodies)
            self.names[deployment.identity] = name
            secret = self._secret(deployment, report)
            self.bodies[name] = {**deployment.provider, **({"api_key_secret_name": secret} if secret else {})}
        body = self.bodies[name]
        if deployment.wildcard:
            body.pop("static_models", None)
            body["_all"] = True
        elif "_all" not in body:
            models = body.setdefault("static_models", [])
            if deployment.upstream_id not in models:
                models.append(deployment.upstream_id)
        return name

    def _secret(self, deployment: Deployment, report: Report) -> str:
        key = deployment.key
        if key is None:
            return ""
        known = self.secret_names.get((key.variable, key.literal))
        if known is not None:
            return known
        name = _free(_secret_name(key, deployment), self.secrets)
        self.secret_names[key.variable, key.literal] = name
        variable = key.variable or name.replace("-", "_").replace(".", "_").upper()
        source: dict[str, Any] = {"value_from": {"env": variable}}
        if key.literal:
            if self.inline:
                source = {"value": key.literal}
            told = "stays text" if self.inline else f"is not copied: put it into the variable {variable}"
            report.changed(f"{deployment.place}: api_key", f"Secret {name}", f"the key {told}")
        self.secrets[name] = {"kind": "Secret", "name": name, "workspace": self.workspace, **source}
        return name

    def documents(self) -> list[dict[str, Any]]:
        """Return secrets and providers."""
        about = {"kind": "Provider", "workspace": self.workspace}
        bodies = {name: {k: v for k, v in body.items() if k != "_all"} for name, body in self.bodies.items()}
        return [*self.secrets.values(), *({**about, "name": name, **body} for name, body in bodies.items())]


def convert(config: Any, *, workspace: str, variables: Variables, inline: bool = False) -> Imported:
    """Convert a configuration. ``inline``: keys that the file holds go into the documents. Never raises."""
    report = Report()
    root: Json = config if isinstance(config, dict) else {}
    if not isinstance(config, dict):
        report.lost("the file", "is no mapping with a model_list")
    settings = {section: _section(root, section, report) for section in _SECTIONS}
    deployments = _deployments(root, report, variables)
    providers = _Providers(workspace, inline)
    groups = _groups(deployments, providers, report)
    documents = [*_virtual_models(groups, settings, report, workspace)]
    documents = [*providers.documents(), *_models(deployments, report, workspace, root), *documents]
    report_rest(report, "config", {key: value for key, value in root.items() if key not in (*_KNOWN, *_SECTIONS)})
    for section in _SECTIONS:
        left = {key: value for key, value in settings[section].items() if key not in _USED[section]}
        report_rest(report, section, left)
    return Imported(documents, report.entries)


_KNOWN = ("model_list", "credential_list")
_ROUTER = ("fallbacks", "default_fallbacks", "model_group_alias", "routing_strategy", "num_retries", "timeout")
_USED: Mapping[str, tuple[str, ...]] = {
    "router_settings": _ROUTER,
    "litellm_settings": ("fallbacks", "default_fallbacks", "model_group_alias", "num_retries"),
    "general_settings": (),
}


def _mapping(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _section(root: Json, name: str, report: Report) -> Json:
    found = root.get(name)
    if not isinstance(found, dict) and found not in OFF and found != []:
        report.lost(name, "is no mapping")
    return _mapping(found)


def _deployments(root: Json, report: Report, variables: Variables) -> list[Deployment]:
    listed = root.get("model_list")
    if not isinstance(listed, list):
        if listed not in OFF:
            report.lost("model_list", "is no list")
        return []
    credentials = _credentials(root, report)
    timeout = _timeout(root, report)
    found = []
    for index, entry in enumerate(listed):
        whole = _with_credential(entry, credentials, timeout)
        deployment = read(whole, f"model_list[{index}]", report, variables)
        if deployment is not None:
            found.append(deployment)
            _beside(entry, deployment.place, report)
    return found


def _timeout(root: Json, report: Report) -> Any:
    """Return the router's timeout if it is one; it is every deployment's that has none of its own."""
    given = _mapping(root.get("router_settings")).get("timeout")
    if given is None or (isinstance(given, int | float) and not isinstance(given, bool) and given > 0):
        if given is not None:
            report.taken("router_settings.timeout", "the timeouts of every provider")
        return given
    report.lost("router_settings.timeout", "must be a number of seconds")
    return None


def _credentials(root: Json, report: Report) -> dict[str, Json]:
    given = root.get("credential_list")
    if not isinstance(given, list) and given not in OFF:
        report.lost("credential_list", "is no list")
    found: dict[str, Json] = {}
    for index, each in enumerate(_list(given)):
        name = each.get("credential_name") if isinstance(each, dict) else None
        values = each.get("credential_values") if isinstance(each, dict) else None
        if not isinstance(name, str) or not isinstance(values, dict):
            report.lost(f"credential_list[{index}]", "has no credential_name, or no credential_values")
            continue
        found[name] = values
        report.taken(f"credential_list {name}", why="in the providers that use it")
        if each.get("credential_info"):
            report.lost(f"credential_list {name}: credential_info", "a secret has no fields of one's own")
    return found


_ENTRY: Final = ("model_name", "litellm_params", "model_info", "rpm", "tpm", "weight")


def _beside(entry: Json, place: str, report: Report) -> None:
    """Report what an entry has beside its name, parameters and information."""
    for name in entry:
        if name not in _ENTRY:
            report.lost(f"{place}: {name}", "junctor has no such field of a deployment")


def _with_credential(entry: Any, credentials: Mapping[str, Json], timeout: Any) -> Any:
    """Return an entry with what it says by reference or leaves to the router."""
    params = entry.get("litellm_params") if isinstance(entry, dict) else None
    if not isinstance(params, dict):
        return entry
    limits = {"timeout": timeout} if timeout is not None else {}
    moved = {key: entry[key] for key in ("rpm", "tpm", "weight") if key in entry}  # both places are in use
    name = params.get("litellm_credential_name")
    if isinstance(name, str) and name in credentials:
        params = {key: value for key, value in params.items() if key != "litellm_credential_name"}
        limits |= credentials[name]
    return {**entry, "litellm_params": {**limits, **moved, **params}}


def _groups(deployments: Sequence[Deployment], providers: _Providers, report: Report) -> Groups:
    groups = Groups()
    for deployment in deployments:
        provider = providers.of(deployment, report)
        if deployment.wildcard or "*" in deployment.group:
            why = "every model of the provider, by its entity's name, and by the vendor's id on plain /v1"
            report.changed(deployment.place, f"Provider {provider}", why)
            for param in ("weight", "order", "rpm", "tpm"):
                if deployment.params.get(param) is not None:
                    report.lost(
                        f"{deployment.place}: {param}", "a provider as a whole has none; make its models targets"
                    )
            continue
        name = groups.name_of(deployment.group)
        if not name:
            report.lost(deployment.place, f"no name can be made of '{deployment.group}'")
            continue
        groups.members.setdefault(name, []).append((deployment, provider))
        into = f"Provider {provider}, VirtualModel {name}"
        why = "; ".join(part for part in (deployment.why, _renamed(deployment.group, name)) if part)
        if why:
            report.changed(deployment.place, into, why)
        else:
            report.taken(deployment.place, into)
    return groups


def _renamed(group: str, name: str) -> str:
    return "" if group == name else f"'{group}' is no name here: callers say '{name}'"


def _virtual_models(
    groups: Groups, settings: Mapping[str, Json], report: Report, workspace: str
) -> list[dict[str, Any]]:
    router, library = settings["router_settings"], settings["litellm_settings"]
    plan = strategy(settings, report)
    made = {name: routing(members, plan, workspace, report) for name, members in groups.members.items()}
    for section, table in (("litellm_settings", library), ("router_settings", router)):
        aliases(table, section, groups=groups, made=made, report=report)
    for section, table in (("litellm_settings", library), ("router_settings", router)):
        fallbacks(table, section, groups=groups, made=made, report=report)
    about = {"kind": "VirtualModel", "workspace": workspace}
    return [{**about, "name": name, "routing": body} for name, body in made.items()]


def _models(deployments: Sequence[Deployment], report: Report, workspace: str, root: Json) -> list[dict[str, Any]]:
    """Keep what ``model_info`` says as fields of the model entities."""
    infos = {
        f"model_list[{index}] {entry.get('model_name')}": entry["model_info"]
        for index, entry in enumerate(_list(root.get("model_list")))
        if isinstance(entry, dict) and isinstance(entry.get("model_info"), dict) and entry["model_info"]
    }
    made: dict[str, dict[str, Any]] = {}
    for deployment in deployments:
        info = infos.get(deployment.place)
        name = as_name(deployment.upstream_id)
        if info is None:
            continue
        if not name:
            report.lost(f"{deployment.place}: model_info", "there is no one model that it is of")
            continue
        if name in made:
            report.lost(f"{deployment.place}: model_info", f"another deployment of '{name}' has said it already")
            continue
        made[name] = {"kind": "Model", "name": name, "workspace": workspace, "custom_fields": {"model_info": info}}
        report.changed(f"{deployment.place}: model_info", f"Model {name}", "kept as custom_fields; nothing acts on it")
    return list(made.values())


def _secret_name(key: Key, deployment: Deployment) -> str:
    text = key.variable or f"{provider_name(deployment.prefix)}-key"
    return as_name(text) or "key"


def _free(name: str, taken: Mapping[str, Any]) -> str:
    """Return the name, with a number where it is taken."""
    if name not in taken:
        return name
    number = 2
    while f"{name[:56]}-{number}" in taken:
        number += 1
    found = f"{name[:56]}-{number}"
    return found if names.is_name(found) else f"p-{number}"
