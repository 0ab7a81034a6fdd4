"""A word planted wherever a secret can be given is found nowhere but where it belongs: raw, in base64 or in hex."""

from __future__ import annotations

import base64
import gzip
import re
import signal
import ssl
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import httpx
import pytest

from junctor.channel import open_channel
from junctor.v1 import secrets_pb2, secrets_pb2_grpc
from tests.cluster import until
from tests.e2e.processes import PATIENCE, Process, process, status_is
from tests.pki import Authority
from tests.ports import free_port
from tests.upstream import Json, ScriptedUpstream

SERVICES = ("access-control", "model-registry", "provider-registry", "inference-router", "gateway")
WORKSPACE = "/apis/models/v2/workspaces/default"
CHAT = "/v1/chat/completions"


def word(name: str) -> str:
    return f"CaNaRy{name}q7Xz93kLw0pV5tRd8"


CANARIES = {
    name: word(name.title().replace("-", ""))
    for name in (
        *("admin-key", "service-token", "secret-rest", "secret-grpc", "secret-update", "secret-refused"),
        *("extra-header", "extra-body", "form-prefix", "proxy-password", "database-password", "otlp-header"),
        *(
            "prompt",
            "answer",
            "stranger-key",
            "stranger-token",
            "query-key",
            "proxy-refused",
            "broken-body",
            "metadata",
        ),
    )
}
STORED = ("extra-header", "extra-body", "form-prefix")
"""Settings of a provider, which its readers may read: they belong to its row and to the catalog."""


def forms(canary: str) -> Iterator[bytes]:
    """Yield how a word may stand in a file: as it is, in hex, in base64 at each of its three offsets."""
    raw = canary.encode()
    yield from (raw, raw.hex().encode(), raw.hex().upper().encode(), quote(canary).encode())
    for shift in range(3):
        whole = base64.b64encode(b"\0" * shift + raw).rstrip(b"=")
        yield whole[4 if shift else 0 : -4]
    yield raw[::-1]


def found(canaries: Mapping[str, str], places: Mapping[str, bytes]) -> list[tuple[str, str]]:
    return [
        (name, place)
        for name, canary in canaries.items()
        for place, content in places.items()
        if any(form in content for form in forms(canary))
    ]


def test_the_search_finds_what_is_there() -> None:
    canary = word("Own")
    raw = canary.encode()
    hidden = (raw, raw.hex().encode(), *(base64.b64encode(b"x" * shift + raw + b"yz") for shift in range(3)))
    assert found({"own": canary}, {str(index): b"--" + each for index, each in enumerate(hidden)}) == [
        ("own", str(index)) for index in range(len(hidden))
    ]


class Site:
    """A junctor with everything in it, and all that it says."""

    def __init__(self, folder: Path, one: Process, http: httpx.AsyncClient, channel: grpc.aio.Channel) -> None:
        self.folder, self.process, self.http, self.channel = folder, one, http, channel
        self.answers: dict[str, bytes] = {}
        self.shown = {"authorization": f"Bearer {CANARIES['admin-key']}"}

    async def call(self, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any) -> int:
        answer = await self.http.request(method, path, headers=self.shown if headers is None else headers, **more)
        self.answers[f"{len(self.answers)} {method} {path.partition('?')[0]}"] = answer.content
        return answer.status_code

    async def rpc(self, call: Any, request: Any, **metadata: str) -> None:
        shown = tuple((key.replace("_", "-"), value) for key, value in (metadata or self.shown).items())
        try:
            await call(request, metadata=shown, timeout=30)
        except grpc.aio.AioRpcError as error:
            self.answers[f"{len(self.answers)} rpc"] = f"{error.details()} {error.trailing_metadata()}".encode()


async def fill(site: Site, upstream: ScriptedUpstream) -> None:
    """Give every secret in every way."""
    secrets = "/apis/secrets/v2/workspaces/default/secrets"
    assert await site.call("POST", secrets, json={"name": "rest", "value": CANARIES["secret-rest"]}) == 201
    stub = secrets_pb2_grpc.SecretStoreStub(site.channel)
    create = secrets_pb2.CreateSecretRequest(value=CANARIES["secret-grpc"])
    create.secret.workspace, create.secret.name = "default", "grpc"
    await site.rpc(stub.CreateSecret, create)
    assert await site.call("PATCH", f"{secrets}/grpc", json={"value": CANARIES["secret-update"]}) == 200
    provider = {
        "name": "scripted",
        "host_url": upstream.url,
        "api_key_secret_name": "rest",
        "auth_header_format": f"X-Key: {CANARIES['form-prefix']}" + "{{ auth_secret }}",
        "required_extra_headers": {"x-own": CANARIES["extra-header"]},
        "default_extra_body": {"user": CANARIES["extra-body"]},
    }
    assert await site.call("POST", f"{WORKSPACE}/providers", json=provider) == 201
    proxied = {"proxy": f"http://user:{CANARIES['proxy-refused']}@127.0.0.1:9", "host_url": upstream.url}
    assert await site.call("POST", f"{WORKSPACE}/providers", json={"name": "proxied", **proxied}) >= 400

    async def ready() -> bool:
        path = "/apis/inference-gateway/v2/workspaces/default/provider/scripted/ready"
        return await site.call("GET", path) == 200

    await until(ready, seconds=PATIENCE)


async def provoke(site: Site) -> None:
    """Use it well, and then in every wrong way that has a secret in it."""
    asked = {"model": "default/test-model", "messages": [{"role": "user", "content": CANARIES["prompt"]}]}
    for body in (asked, asked | {"stream": True}, asked | {"model": "default/none"}, asked | {"messages": 7}):
        await site.call("POST", CHAT, json=body)
    secrets = "/apis/secrets/v2/workspaces/default/secrets"
    refused = CANARIES["secret-refused"]
    for body in ({"name": "BAD NAME", "value": refused}, {"name": "rest", "value": refused}, {"value": [refused]}):
        assert await site.call("POST", secrets, json=body) >= 400
    assert await site.call("POST", secrets, content=b'{"value": "' + CANARIES["broken-body"].encode()) >= 400
    for name, value in (
        ("authorization", f"Bearer {CANARIES['stranger-key']}"),
        ("x-api-key", CANARIES["stranger-key"]),
        ("authorization", f"Bearer e30.{CANARIES['stranger-token']}.AAAA"),
        ("authorization", f"Basic {CANARIES['stranger-token']}"),
    ):
        for path in (CHAT, "/v1/models", f"/nowhere?api_key={CANARIES['query-key']}"):
            assert await site.call("POST", path, headers={name: value}) == 401
    assert await site.call("GET", f"/v1/models?api_key={CANARIES['query-key']}") == 200
    stub = secrets_pb2_grpc.SecretAccessStub(site.channel)
    request = secrets_pb2.AccessSecretRequest(workspace="default", name="rest")
    await site.rpc(stub.AccessSecret, request, x_junctor_service_token=CANARIES["metadata"])
    await site.rpc(stub.AccessSecret, request, authorization=f"Bearer {CANARIES['metadata']}")
    await site.rpc(stub.AccessSecret, request)
    public = secrets_pb2_grpc.SecretStoreStub(site.channel)
    bad = secrets_pb2.CreateSecretRequest(value=refused)
    bad.secret.workspace, bad.secret.name = "default", "BAD NAME"
    await site.rpc(public.CreateSecret, bad)


async def command(site: Site, script: str, *arguments: str, **environ: str) -> bytes:
    """Run a command of an operator; returns all that it said."""
    one = Process(script, *arguments, folder=site.folder / f"command-{len(site.answers)}", environ=environ)
    code = await one.run()
    assert code == 0, one.stderr
    return f"{one.stdout}{one.stderr}".encode()


async def ask_operators(site: Site, admin: str, environ: Mapping[str, str]) -> None:
    """Read everything that can be read, as an administrator."""
    for kind in ("providers", "models"):
        await site.call("GET", f"{WORKSPACE}/{kind}")
    for path in ("/apis/secrets/v2/workspaces/-/secrets", "/apis/auth/v2/keys", "/apis/auth/v2/audit?page_size=1000"):
        assert await site.call("GET", path) == 200
    async with httpx.AsyncClient(trust_env=False) as http:
        site.answers["metrics"] = (await http.get(f"{admin}/metrics")).content
    bundle = site.folder / "bundle.tar.gz"
    token = environ["JUNCTOR_SERVICE_TOKEN_FILE"]
    flags = ("debug", "bundle", "--admin", admin, "--token-file", token, "--out", str(bundle))
    own = {"JUNCTOR_BASE_URL": str(site.http.base_url), "JUNCTOR_ACCESS_TOKEN": CANARIES["admin-key"]}
    own["SSL_CERT_FILE"] = str(site.folder / "ca.pem")
    site.answers["bundle command"] = await command(site, "junctor", *flags, **own)
    with tarfile.open(bundle) as archive:
        for name in archive.getnames():
            site.answers[f"bundle {name}"] = archive.extractfile(name).read()  # type: ignore[union-attr]
    database = f"postgresql://u:{CANARIES['database-password']}@db.example/junctor"
    told = await command(site, "junctord", *SERVICES, "--print-config", **environ, JUNCTOR_DATABASE_URL=database)
    site.answers["print-config"] = told
    backup, data = site.folder / "backup", site.process.folder / "data"
    flags = ("admin", "backup", str(backup), "--data-dir", str(data))
    site.answers["backup command"] = await command(
        site, "junctor", *flags, JUNCTOR_SECRET_KEY_FILE=environ["JUNCTOR_SECRET_KEY_FILE"]
    )


def told_to_collector(collector: ScriptedUpstream) -> bytes:
    bodies = (
        gzip.decompress(each.body) if each.header("content-encoding") == "gzip" else each.body
        for each in collector.requests
    )
    return b"\n".join(bodies)


@pytest.mark.skipif(sys.platform != "linux", reason="SIGABRT's output is the system's")
async def test_no_secret_is_anywhere_but_where_it_belongs(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    (tmp_path / "service.token").write_text(CANARIES["service-token"] + "x" * 20)
    (tmp_path / "service.token").chmod(0o600)
    authority = Authority("ca")
    issued = authority.issue("localhost")
    for name, content in (("tls.pem", issued.certificate), ("tls.key", issued.key), ("ca.pem", authority.pem)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600)
    upstream.always(Json(200, {"choices": [{"message": {"content": CANARIES["answer"]}}]}), path=CHAT)
    credentials = grpc.ssl_channel_credentials(authority.pem.encode())
    port, grpc_port, admin_port = free_port(), free_port(), free_port()
    async with ScriptedUpstream() as collector:
        collector.always(Json(200, {}), path="/v1/traces")
        environ = {
            "JUNCTOR_AUTH": "on",
            "JUNCTOR_ADMIN_KEY": CANARIES["admin-key"],
            "JUNCTOR_SERVICE_TOKEN_FILE": str(tmp_path / "service.token"),
            "JUNCTOR_SECRET_KEY_FILE": str(tmp_path / "secret.key"),
            "JUNCTOR_TLS_CERT_FILE": str(tmp_path / "tls.pem"),
            "JUNCTOR_TLS_KEY_FILE": str(tmp_path / "tls.key"),
            "JUNCTOR_UPSTREAM_NETWORKS": "public,private,loopback",
            "JUNCTOR_LOG_LEVEL": "debug",
            "JUNCTOR_SEED": "false",
            "JUNCTOR_OTLP_ENDPOINT": collector.url,
            "JUNCTOR_OTLP_PROTOCOL": "http/protobuf",
            "JUNCTOR_OTLP_HEADERS": f"x-collector-key={CANARIES['otlp-header']}",
            "JUNCTOR_TRACE_SAMPLE": "1",
            "HTTPS_PROXY": f"http://user:{CANARIES['proxy-password']}@127.0.0.1:9",
        }
        ports = ("--port", str(port), "--grpc-port", str(grpc_port), "--admin-port", str(admin_port))
        folder = tmp_path / "server"
        async with (
            process("junctord", *SERVICES, *ports, "--data-dir", "data", folder=folder, **environ) as one,
            httpx.AsyncClient(
                base_url=f"https://localhost:{port}",
                verify=ssl.create_default_context(cadata=authority.pem),
                trust_env=False,
                timeout=60,
            ) as http,
            open_channel(f"localhost:{grpc_port}", credentials=credentials) as channel,
        ):

            async def ready() -> bool:
                assert one.running(), one.stderr
                return await status_is(http, "/health/ready", 200)

            await until(ready, seconds=PATIENCE)
            site = Site(tmp_path, one, http, channel)
            await fill(site, upstream)
            await provoke(site)
            await ask_operators(site, f"http://127.0.0.1:{admin_port}", environ)

            async def traced() -> bool:
                return bool(collector.requests)

            await until(traced, seconds=PATIENCE)
            one.send(signal.SIGABRT)
            assert await one.ended() != 0
        told = told_to_collector(collector)
    judge(site, told, issued.key, (tmp_path / "secret.key").read_text().strip())


def judge(site: Site, told: bytes, tls_key: str, secret_key: str) -> None:
    """Search every file, answer and trace."""
    said = {f"answer {name}": content for name, content in site.answers.items()}
    files = {
        str(file.relative_to(site.folder)): file.read_bytes()
        for folder in ("server", "backup")
        for file in (site.folder / folder).rglob("*")
        if file.is_file()
    }
    places = {**files, **said, "traces": told}
    assert any(name.endswith("catalog.bin") for name in files), files.keys()
    assert any(name.endswith("access.bin") for name in files), files.keys()
    assert len([name for name in files if name.startswith("backup")]) >= 3
    key_line = max(tls_key.splitlines(), key=len)
    [store_key] = re.findall(r'"key": "([^"]{40,})"', secret_key)
    others = {"tls-key": key_line, "store-key": store_key}
    hidden = {name: value for name, value in CANARIES.items() if name not in (*STORED, "prompt", "answer")}
    # Who sent a proxy's credentials is told what was wrong with them, and nobody else.
    at = [(n, at) for n, at in found({**hidden, **others}, places) if n != "proxy-refused" or "answer" not in at]
    assert not at, "\n".join(map(str, at))
    asked = {name: CANARIES[name] for name in ("prompt", "answer")}
    assert [each for each in found(asked, places) if CHAT not in each[1]] == []
    stored = found({name: CANARIES[name] for name in STORED}, {**files, "traces": told})
    belongs = re.compile(r"(server/data|backup)/\S*(provider|catalog|junctor)\S*")
    astray = [each for each in stored if not belongs.fullmatch(each[1])]
    assert not astray, "\n".join(map(str, astray))
