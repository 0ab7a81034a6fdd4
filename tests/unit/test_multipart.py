"""Forms: the ``model`` part is found and replaced, nothing else changes."""

from __future__ import annotations

import pytest

from junctor.errors import MalformedRequest
from services.inference_router.multipart import boundary_of, read_form, replace_form_model

FILE = b'content-disposition: form-data; name="file"; filename="; name=model"\r\nx: audio/wav\r\n\r\n\0\r\n-\xff--'


def form(*parts: bytes, boundary: bytes = b"B") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"


def field(name: bytes, value: bytes) -> bytes:
    return b'Content-Disposition: form-data; name="' + name + b'"\r\n\r\n' + value


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(form(field(b"model", b"m/1"), FILE), id="first"),
        pytest.param(form(FILE, field(b"a", b""), field(b"model", b"m/1")), id="last"),
        pytest.param(b"preamble\r\n" + form(field(b"model", b"m/1")) + b"epilogue", id="preamble"),
        pytest.param(form(b"content-disposition:form-data;name=model\r\n\r\nm/1"), id="token"),
        pytest.param(
            form(b'X: y\r\nContent-Disposition: form-data; name="mod\\el"\r\nA: b\r\n\r\nm/1'), id="quoted-pair"
        ),
    ],
)
def test_replaces_model_and_nothing_else(body: bytes) -> None:
    facts = read_form(body, b"B")
    assert facts.model == "m/1"
    assert replace_form_model(body, facts, "served é") == body.replace(b"m/1", "served é".encode())


def test_reads_stream() -> None:
    assert read_form(form(field(b"model", b"m"), field(b"stream", b"true")), b"B").stream
    assert not read_form(form(field(b"model", b"m"), field(b"stream", b"false")), b"B").stream


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(b"", "boundary", id="empty"),
        pytest.param(form(field(b"model", b"m"), boundary=b"C"), "boundary", id="other-boundary"),
        pytest.param(form(), "no part named", id="no-parts"),
        pytest.param(form(FILE), "no part named", id="no-model"),
        pytest.param(form(field(b"model", b"a"), field(b"model", b"b")), "more than one", id="two-models"),
        pytest.param(form(field(b"model", b"a"))[:-9], "cut", id="cut"),
        pytest.param(form(field(b"model", b"\xff")), "UTF-8", id="bad-utf8"),
        pytest.param(form(b"\r\nmodel"), "content-disposition", id="no-head"),
        pytest.param(
            form(b'content-disposition: form-data; name="a"; name="model"\r\n\r\nx'), "one name", id="two-names"
        ),
        pytest.param(
            form(b"content-disposition: form-data; name=a; name*=utf-8''model\r\n\r\nx"), "one name", id="second-form"
        ),
        pytest.param(form(field(b"model", b"m")).replace(b"\r\n", b"\n"), "form", id="bare-lf"),
        pytest.param(form(*[field(b"a", b"")] * 1001), "more than 1000", id="too-many"),
    ],
)
def test_refuses_a_bad_form(body: bytes, text: str) -> None:
    with pytest.raises(MalformedRequest, match=text):
        read_form(body, b"B")


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data; charset=utf-8; Boundary="a b:c"; x=y', b"a b:c"),
        (b"multipart/form-data", None),
        (b"multipart/mixed; boundary=abc", None),
        (b"application/json", None),
        (b"multipart/form-data; boundary=" + b"x" * 71, None),
    ],
)
def test_reads_the_boundary(content_type: bytes, boundary: bytes | None) -> None:
    assert boundary_of(content_type) == boundary
