"""Tokens of an OIDC issuer: a real one on loopback, and one that a test makes say anything."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from junctor.errors import Unauthenticated
from services.access.oidc import OidcIssuer
from services.access.options import OidcOptions
from services.access.roles import Permission
from tests.cluster import until
from tests.doors import doors
from tests.ports import free_port
from tests.upstream import Json, ScriptedUpstream

AUDIENCE = "junctor"


@pytest_asyncio.fixture
async def provider() -> AsyncIterator[str]:
    """A real OIDC provider in a process of its own; gives its issuer."""
    port = free_port()
    issuer = f"http://127.0.0.1:{port}"
    jane = {"sub": "jane", "email": "jane@example.com", "email_verified": True}
    command = (sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port))
    process = await asyncio.create_subprocess_exec(
        *command,
        "--user-claims",
        json.dumps(jane),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )

    async def answers() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(f"{issuer}/jwks")).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        await until(answers)
        yield issuer
    finally:
        process.kill()
        await process.wait()


async def log_in(issuer: str, subject: str) -> str:
    """Go through the code flow as a browser would; returns the ID token."""
    back = "http://localhost/back"
    asked = {"response_type": "code", "client_id": AUDIENCE, "redirect_uri": back, "scope": "openid email"}
    async with httpx.AsyncClient(base_url=issuer, trust_env=False) as client:
        answer = await client.post("/oauth2/authorize", params=asked, data={"sub": subject})
        code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": back}
        made = await client.post("/oauth2/token", data=form, auth=(AUDIENCE, "secret"))
    assert made.status_code == 200, made.text
    return str(made.json()["id_token"])


async def test_users_of_a_real_issuer(provider: str, tmp_path: Path) -> None:
    flags = {"oidc_issuer": provider, "oidc_client_id": AUDIENCE, "platform_admins": "root"}
    async with doors(tmp_path, **flags) as opened:
        told = (await opened.call("GET", "/apis/auth/discovery")).json()
        assert told["auth_enabled"] is True
        assert told["oidc"]["issuer"] == provider
        jane, root = await log_in(provider, "jane"), await log_in(provider, "root")
        nothing = await opened.call("GET", "/apis/models/v2/workspaces/default/models", jane)
        assert nothing.status_code == 404
        members = "/apis/entities/v2/workspaces/default/members"
        body = {"principal": "jane@example.com", "roles": ["Viewer"]}
        assert (await opened.call("POST", members, root, json=body)).status_code in (200, 201)
        assert (await opened.call("GET", "/apis/models/v2/workspaces/default/models", jane)).status_code == 200
        made = await opened.call("POST", "/apis/models/v2/workspaces/default/models", jane, json={"name": "mine"})
        assert made.status_code == 403
        made = await opened.call("POST", "/apis/models/v2/workspaces/default/models", root, json={"name": "mine"})
        assert made.status_code == 201, made.text
        altered = root[:-4] + ("AAAA" if root[-4:] != "AAAA" else "BBBB")
        assert (await opened.call("GET", "/v1/models", altered)).status_code == 401


class Issuer:
    """An issuer whose keys and documents a test decides."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream
        self.keys: dict[str, Any] = {"one": rsa.generate_private_key(public_exponent=65537, key_size=2048)}
        self.publish()

    @property
    def url(self) -> str:
        return self.upstream.url

    def publish(self, **more: Any) -> None:
        """Serve the documents of the moment."""
        document = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks", **more}
        self.upstream.always(Json(200, document), path="/.well-known/openid-configuration")
        keys = []
        for key_id, key in self.keys.items():
            algorithm: Any = jwt.algorithms.ECAlgorithm if hasattr(key, "curve") else jwt.algorithms.RSAAlgorithm
            name = "ES256" if hasattr(key, "curve") else "RS256"
            keys.append(json.loads(algorithm.to_jwk(key.public_key())) | {"kid": key_id, "use": "sig", "alg": name})
        self.upstream.always(Json(200, {"keys": keys}), path="/jwks")

    def token(self, *, key_id: str = "one", algorithm: str = "RS256", key: Any = None, **claims: Any) -> str:
        """Sign a token; a claim of None is left out."""
        now = time.time()
        usual = {"iss": self.url, "aud": AUDIENCE, "sub": "jane", "iat": now, "exp": now + 300}
        content = {name: value for name, value in (usual | claims).items() if value is not None}
        return jwt.encode(content, key or self.keys[key_id], algorithm, headers={"kid": key_id})


@asynccontextmanager
async def issuing(**options: Any) -> AsyncIterator[tuple[Issuer, OidcIssuer]]:
    async with ScriptedUpstream() as upstream:
        issuer = Issuer(upstream)
        yield issuer, OidcIssuer(OidcOptions(issuer.url, (AUDIENCE,), **options))


async def test_what_a_token_says_of_its_user() -> None:
    async with issuing() as (issuer, verifier):
        claims = {"email": "j@example.com", "email_verified": True, "groups": ["ops"], "scope": "openid junctor:read"}
        identity = await verifier.verify(issuer.token(**claims))
        assert (identity.name, identity.email, identity.groups) == ("jane", "j@example.com", frozenset({"ops"}))
        assert identity.permissions == frozenset({Permission.READ})
        unverified = await verifier.verify(issuer.token(email="admin@example.com", email_verified="true"))
        assert unverified.email == ""
        assert (await verifier.verify(issuer.token(scope="openid profile"))).permissions is None


def confused(token: str, public: bytes) -> str:
    """Sign a token's claims with the public key as if it were a secret: the oldest trick of all."""
    header = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "typ": "JWT", "kid": "one"}).encode())
    signed = b".".join((header.rstrip(b"="), token.split(".")[1].encode()))
    signature = base64.urlsafe_b64encode(hmac.digest(public, signed, "sha256")).rstrip(b"=")
    return (signed + b"." + signature).decode()


async def test_what_is_no_good_token() -> None:
    async with issuing() as (issuer, verifier):
        await verifier.verify(issuer.token())
        public = issuer.keys["one"].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        now = time.time()
        bad = {
            "another issuer": issuer.token(iss="https://elsewhere.example"),
            "another audience": issuer.token(aud="others"),
            "no audience": issuer.token(aud=None),
            "no subject": issuer.token(sub=None),
            "expired": issuer.token(exp=now - 61),
            "no end": issuer.token(exp=None),
            "not yet": issuer.token(nbf=now + 120),
            "another key": issuer.token(key=other),
            "unknown key": issuer.token(key=other).replace("b25l", "dHdv"),
            "public key as a secret": confused(issuer.token(), public),
            "no algorithm": jwt.encode({"sub": "jane", "aud": AUDIENCE, "exp": now + 60}, None, "none"),
            "algorithm not allowed": issuer.token(algorithm="PS256"),
            "rubbish": "a.b.c",
            "two parts": "a.b",
            "empty parts": "..",
            "nested deeply": base64.urlsafe_b64encode(b'{"alg":' + b"[" * 5000).decode().rstrip("=") + ".e30.AAAA",
        }
        for name, token in bad.items():
            with pytest.raises(Unauthenticated, match="Invalid or expired token"):
                pytest.fail(f"{name}: {await verifier.verify(token)}")


async def test_skew_is_allowed_for() -> None:
    async with issuing() as (issuer, verifier):
        assert (await verifier.verify(issuer.token(exp=time.time() - 30))).name == "jane"
        assert (await verifier.verify(issuer.token(nbf=time.time() + 30))).name == "jane"


async def test_a_new_key_of_the_issuer_is_fetched() -> None:
    async with issuing() as (issuer, verifier):
        await verifier.verify(issuer.token())
        issuer.keys["two"] = ec.generate_private_key(ec.SECP256R1())
        issuer.publish()
        verifier._tried_at -= 60  # the time between two fetches because of an unknown key has passed
        assert (await verifier.verify(issuer.token(key_id="two", algorithm="ES256"))).name == "jane"
        with pytest.raises(Unauthenticated):
            await verifier.verify(issuer.token(key_id="one", algorithm="ES256", key=issuer.keys["two"]))


async def test_all_who_come_with_a_new_key_wait_for_it() -> None:
    async with issuing() as (issuer, verifier):
        first = asyncio.create_task(verifier.verify(issuer.token()))

        async def asked() -> bool:
            return bool(verifier._tried_at)

        await until(asked)
        found = await asyncio.gather(first, *(verifier.verify(issuer.token()) for _ in range(3)))
        assert [each.name for each in found] == ["jane"] * 4
        assert len(issuer.upstream.requests) == 2


async def test_a_flood_of_unknown_keys_asks_the_issuer_once() -> None:
    async with issuing() as (issuer, verifier):
        await verifier.verify(issuer.token())
        before = len(issuer.upstream.requests)
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        issuer.keys.update({f"forged-{index}": other for index in range(30)})
        tokens = [issuer.token(key_id=f"forged-{index}") for index in range(30)]
        judged = await asyncio.gather(*map(verifier.verify, tokens), return_exceptions=True)
        assert all(isinstance(each, Unauthenticated) for each in judged)
        assert len(issuer.upstream.requests) - before <= 2


async def test_an_issuer_that_is_away_or_calls_itself_otherwise_lets_nobody_in() -> None:
    async with issuing() as (issuer, verifier):
        issuer.publish(issuer="https://elsewhere.example")
        with pytest.raises(Unauthenticated):
            await verifier.verify(issuer.token())
        token = issuer.token()
        issuer.publish()
        verifier._tried_at -= 60
        await verifier.verify(token)
    assert (await verifier.verify(token)).name == "jane"  # its keys are good while it is away
