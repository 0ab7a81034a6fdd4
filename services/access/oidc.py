"""JSON Web Tokens of one OIDC issuer: verified here, by keys that the issuer publishes and this process keeps.

What is checked is RFC 7519 and RFC 8725: an algorithm of the allowlist (asymmetric ones only), the signature by a key
of the issuer, ``iss``, ``aud``, ``exp`` and ``nbf`` with some skew, a subject. An issuer that is away takes nobody out:
its keys stay good until they are a day old.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Mapping
from typing import Any

import httpx
import jwt

from services.access.credentials import invalid
from services.access.identity import Identity, Kind
from services.access.options import ALGORITHMS, OidcOptions
from services.access.roles import SCOPE_PREFIX, narrowed

DISCOVERY = "/.well-known/openid-configuration"
_FETCH_SECONDS = 5.0
_REFRESH_SECONDS = 600.0
"""Age at which the keys are fetched anew: a key that the issuer withdrew is good for no longer."""
_UNKNOWN_SECONDS = 5.0
"""Time between two fetches because of a key id that is not known."""
_KEEP_SECONDS = 24 * 3600.0
"""Age up to which keys of an issuer that cannot be reached are good."""
_MOST_BYTES = 1024 * 1024

_log = logging.getLogger(__name__)


class OidcIssuer:
    """Verifies tokens. :meth:`verify` in the loop that made it; ``authorities``: PEM, empty for the system's."""

    def __init__(self, options: OidcOptions, *, authorities: str = "") -> None:
        self.options = options
        self.endpoints: Mapping[str, str] = {}
        """``authorization_endpoint``, ``token_endpoint`` … as the issuer publishes them, once they were read."""
        self._authorities = authorities
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = 0.0
        self._tried_at = 0.0
        self._fetching: asyncio.Task[None] | None = None

    async def verify(self, token: str) -> Identity:
        """Return whose token it is. Raises Unauthenticated with the one text there is for all that is wrong."""
        try:
            header = jwt.get_unverified_header(token)
            algorithm = str(header.get("alg", ""))
            if algorithm not in self.options.algorithms or algorithm not in ALGORITHMS:
                raise invalid()
            key = await self._key(str(header.get("kid", "")))
            claims = self._decode(token, key, algorithm)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            _log.debug("a token was refused", extra={"why": type(error).__name__})
            raise invalid() from error
        return self._identity(claims)

    async def prepare(self) -> None:
        """Fetch the keys if that has not been done; an issuer that is away is tried again with the first token."""
        if not self._keys:
            await self._refresh()

    def _decode(self, token: str, key: jwt.PyJWK, algorithm: str) -> dict[str, Any]:
        if key.algorithm_name != algorithm:
            raise invalid()
        claims: dict[str, Any] = jwt.decode(
            token,
            key=key,
            algorithms=[algorithm],
            audience=self.options.audience,
            issuer=self.options.issuer,
            leeway=self.options.skew,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
        return claims

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        groups = claims.get(self.options.groups_claim)
        scope = claims.get("scope", claims.get("scp", ""))
        words = scope.split() if isinstance(scope, str) else scope if isinstance(scope, list) else []
        ours = [word.removeprefix(SCOPE_PREFIX) for word in map(str, words) if word.startswith(SCOPE_PREFIX)]
        verified = claims.get("email_verified") is True and isinstance(claims.get("email"), str)
        return Identity(
            Kind.USER,
            str(claims["sub"]),
            email=str(claims["email"]) if verified else "",
            groups=frozenset(map(str, groups)) if isinstance(groups, list) else frozenset(),
            permissions=narrowed(ours),
            expires=float(claims["exp"]) + self.options.skew,
        )

    async def _key(self, key_id: str) -> jwt.PyJWK:
        now = time.monotonic()
        unknown = self._known(key_id) is None
        if unknown and self._fetching is not None and not self._fetching.done():
            await asyncio.shield(self._fetching)  # it may bring the key that this token names
        elif (unknown or now - self._fetched_at > _REFRESH_SECONDS) and self._may_ask(now):
            await self._refresh()
        found = self._known(key_id)
        if found is None or time.monotonic() - self._fetched_at > _KEEP_SECONDS:
            raise invalid()
        return found

    def _may_ask(self, now: float) -> bool:
        return not self._tried_at or now - self._tried_at > _UNKNOWN_SECONDS

    def _known(self, key_id: str) -> jwt.PyJWK | None:
        if key_id or len(self._keys) != 1:
            return self._keys.get(key_id)
        return next(iter(self._keys.values()))  # an issuer with one key need not name it

    async def _refresh(self) -> None:
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.ensure_future(self._fetch())
        await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        self._tried_at = time.monotonic()
        issuer = self.options.issuer
        try:
            async with httpx.AsyncClient(
                verify=ssl.create_default_context(cadata=self._authorities or None),
                timeout=_FETCH_SECONDS,
                trust_env=False,
            ) as client:
                found = await _json(client, issuer.rstrip("/") + DISCOVERY)
                if found.get("issuer") != issuer:
                    raise ValueError("the issuer calls itself otherwise")
                where = str(found["jwks_uri"])
                if issuer.startswith("https:") and not where.startswith("https:"):
                    raise ValueError("the keys are not behind https")
                keys = await _json(client, where)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            _log.warning("cannot fetch the keys of the OIDC issuer", extra={"issuer": issuer, "why": str(error)[:200]})
            return
        self.endpoints = {name: value for name, value in found.items() if isinstance(value, str)}
        self._keys = _usable(keys)
        self._fetched_at = time.monotonic()


async def _json(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    async with client.stream("GET", url) as response:
        response.raise_for_status()
        if not response.is_success:  # a redirect
            raise ValueError(f"status {response.status_code}")
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > _MOST_BYTES:
                raise ValueError("the answer is too large")
    found = httpx.Response(200, content=bytes(body)).json()
    if not isinstance(found, dict):
        raise ValueError("the answer is no JSON object")
    return found


def _usable(keys: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    """Return the signing keys by id; one that is not understood is left out."""
    usable = {}
    listed = keys.get("keys")
    for entry in listed if isinstance(listed, list) else ():
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
            continue
        try:
            usable[str(entry.get("kid", ""))] = jwt.PyJWK.from_dict(entry)
        except (jwt.PyJWTError, ValueError, KeyError, TypeError):
            _log.warning("a key of the OIDC issuer is not understood", extra={"kid": str(entry.get("kid", ""))[:100]})
    return usable
