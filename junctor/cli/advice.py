"""What to try next, for every kind of failure that a command can tell. Pure."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from junctor import urls
from junctor.errors import JunctorError

_NEXT = {
    "UNAUTHENTICATED": "set JUNCTOR_ACCESS_TOKEN, or: junctor config set --access-token -",
    "PERMISSION_DENIED": "ask for a role that may do this",
    "STALE_VERSION": "somebody changed it meanwhile; read it again, then try again",
    "WORKSPACE_MISSING": "create it with: junctor workspaces create NAME",
    "SECRET_MISSING": "create it with: junctor secrets create NAME --from-file -",
    "CREDENTIAL_UNAVAILABLE": "look at the secret with: junctor secrets list",
    "NOT_READY": "wait a moment, or look at: junctor status",
    "OVERLOADED": "wait a moment, then try again",
    "PEER_UNAVAILABLE": "look at: junctor status",
    "REVISION_NOT_REACHED": "wait a moment, then try again",
    "PROVIDER_NOT_READY": "look at: junctor inference providers list",
    "UPSTREAM_UNREACHABLE": "look at: junctor inference providers list",
    "NO_ROUTE": "see what can be called: junctor inference models list",
}


def line(error: JunctorError, command: str) -> str:
    """Write a failure as one line: what happened; what to do."""
    said = " ".join(str(error).split()).rstrip(".")
    following = _next(error, command)
    return f"{said}; {following}" if following and "junctor " not in said else said


def _next(error: JunctorError, command: str) -> str:
    if error.reason == "PEER_UNAVAILABLE" and "status" not in error.metadata:
        return _unreachable(error)
    if error.reason == "RESOURCE_NOT_FOUND" and "provider" in str(error).lower():
        return "see what there is: junctor inference providers list"
    if error.reason == "RESOURCE_NOT_FOUND" and " " in command:
        group = command.rpartition(" ")[0]
        return f"see what there is: {group} list" if group.rpartition(" ")[2] in _LISTED else ""
    if error.reason == "RESOURCE_EXISTS" and command.endswith(" create"):
        keeps = "secrets" not in command
        return "take another name" + (
            ", or accept it as it is with --exist-ok"
            if keeps
            else f", or change it: {command.removesuffix('create')}update NAME"
        )
    return _NEXT.get(error.reason, "")


def _unreachable(error: JunctorError) -> str:
    if "by gRPC" in str(error):
        return "name its address with --grpc-target HOST:PORT"
    found = _CANNOT_CONNECT.match(str(error))
    if found is None:
        return "try again"
    if "not trusted" in str(error):
        return "name its authority's file in JUNCTOR_TLS_CA_FILE, or: junctor config set --ca-file FILE"
    here = urls.is_loopback(urlsplit(found["url"]).hostname) and not found["why"]
    return "start a server with: junctor up" if here else "is the address right? see: junctor config view"


_CANNOT_CONNECT = re.compile(r"cannot connect to (?P<url>\S+?)(?P<why>: .*)?$")


_LISTED = frozenset(("workspaces", "models", "secrets", "providers", "virtual-models"))
