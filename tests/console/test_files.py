"""The files of the console at the edge: what is open, what is not, and with which headers."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from gateway_http import routes_console
from tests.cluster import running
from tests.doors import Doors, doors

STATIC = Path(routes_console.__file__).parent / "console" / "static"
FILES = sorted(path.name for path in STATIC.iterdir())

CLOSED = [
    "/consolex",
    "/console.js",
    "/console/nothing.js",
    "/console/app.jsx",
    "/console//app.js",
    "/console/../v1/models",
    "/console/..%2fv1/models",
    "/console/%2e%2e/v1/models",
    "/console/%2E%2E%2Fapis/auth/v2/keys",
    "/console/../console/../../../etc/passwd",
    "/console/static/../../service.py",
    "/console%00",
    "/console;/v1/models",
    "/%63onsole",
    "//console",
    "/Console",
    "/console/app.js/",
]
"""Request targets that are no file of the console."""


async def status(port: int, method: str, target: str) -> tuple[int, bytes]:
    """Ask with a request target as it is; httpx would tidy it up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    try:
        answer = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    return int(answer.split()[1]), answer


async def test_files_are_open_and_nothing_else_is(tmp_path: Path) -> None:
    async with doors(tmp_path) as guarded:
        port = guarded.cluster.node.http_port
        for name in ("", "/", *(f"/{name}" for name in FILES if name != "index.html"), "?code=1&state=2"):
            for method in ("GET", "HEAD"):
                assert (await status(port, method, f"/console{name}"))[0] == 200, name
        for target in CLOSED:
            assert (await status(port, "GET", target))[0] in (400, 401), target
        for target in ("/console", "/console/app.js"):
            for method in ("POST", "PUT", "DELETE", "OPTIONS"):
                assert (await status(port, method, target))[0] == 405, (method, target)
        await only_what_roles_allow(guarded)


async def only_what_roles_allow(guarded: Doors) -> None:
    """The routes made for the console are no way around the gate."""
    explain, activity = "/apis/inference-gateway/v2/explain", "/apis/inference-gateway/v2/activity"
    assert (await guarded.call("POST", explain, json={"model": "default/x"})).status_code == 401
    assert (await guarded.call("GET", activity)).status_code == 401


async def test_without_auth_the_same_targets_are_no_file(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        for target in sorted({*CLOSED} - {"/%63onsole"}):  # which is the same path, written otherwise
            found, answer = await status(cluster.node.http_port, "GET", target)
            assert found in (400, 404), target
            assert b"root:" not in answer


async def test_headers_of_a_file(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        for name, file in ((name, STATIC / name) for name in FILES):
            path = "/console" if name == "index.html" else f"/console/{name}"
            answer = await cluster.http.get(path)
            assert answer.content == file.read_bytes()
            assert answer.headers["content-type"] == routes_console.TYPES[file.suffix]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] == "no-cache"
            assert answer.headers["content-security-policy"] == (
                "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
                "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
            )
            known = {"if-none-match": f'"other", {answer.headers["etag"]}'}
            again = await cluster.http.get(path, headers=known)
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == answer.headers["etag"]
            changed = await cluster.http.get(path, headers={"if-none-match": '"other"'})
            assert changed.status_code == 200


async def test_the_console_can_be_off(tmp_path: Path) -> None:
    async with doors(tmp_path, console="off") as guarded:
        assert (await guarded.call("GET", "/console")).status_code == 401
        assert (await guarded.call("GET", "/console", guarded.admin)).status_code == 404
        assert (await guarded.call("GET", "/console/app.js", guarded.admin)).status_code == 404


ISSUERS = [
    ({}, "'self';"),
    ({"issuer": "https://id.example/realm"}, "'self' https://id.example;"),
    ({"issuer": "https://id.example", "token_endpoint": "https://t.example:8443/x"}, " https://t.example:8443;"),
    ({"issuer": "https://id.example; script-src *"}, "'self';"),
    ({"issuer": "https://id.example", "token_endpoint": "javascript:alert(1)"}, "'self' https://id.example;"),
    ({"issuer": "https://user:word@id.example", "token_endpoint": None}, "connect-src 'self'"),
    ({"issuer": "http://[::1"}, "'self';"),
]


@pytest.mark.parametrize(("oidc", "part"), ISSUERS, ids=[str(index) for index in range(len(ISSUERS))])
def test_an_issuer_in_the_policy(oidc: dict[str, str], part: str) -> None:
    made = routes_console.policy(oidc)
    assert part in made
    assert made.count(";") == routes_console.policy({}).count(";"), "no issuer writes a directive"
    assert "script-src 'self'; style-src 'self';" in made
    assert "user:word" not in made


FORBIDDEN = {
    "markup": r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|srcdoc",
    "code from text": r"\beval\(|new Function|setTimeout\(\s*[\"']|javascript:",
    "elsewhere": r"https?://(?!…)[a-z]",
    "a credential in storage": r"(localStorage|sessionStorage)\.setItem\((?!KEY)",
    "styles in markup": r"setAttribute\(\"style\"|style=",
}


@pytest.mark.parametrize("name", FILES)
def test_no_file_has_what_the_policy_is_against(name: str) -> None:
    text = (STATIC / name).read_text().replace("http://www.w3.org/2000/svg", "")
    for why, pattern in FORBIDDEN.items():
        assert not re.search(pattern, text), (why, re.search(pattern, text))
    assert not re.search(r"<script(?![^>]*src=)|\son[a-z]+=\"", text), "inline script"
