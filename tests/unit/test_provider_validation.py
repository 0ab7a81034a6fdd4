"""What a provider may be written with."""

import pytest

from junctor.errors import InvalidField, MalformedRequest
from junctor.v1 import provider_registry_pb2 as pb
from services.provider_registry.store import PROVIDER_WRITABLE
from services.provider_registry.validation import check_provider, check_status
from services.runtime.addresses import AddressPolicy

POLICY = AddressPolicy.parse("public,private")


def violations(policy=POLICY, **fields):
    provider = pb.Provider(**({"workspace": "default", "name": "up1", "host_url": "http://h"} | fields))
    try:
        check_provider(provider, PROVIDER_WRITABLE, new=True, policy=policy)
    except InvalidField as error:
        return [violation.field for violation in error.violations]
    return []


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "https://h",
        "HTTPS://Example.COM/v1/",
        "http://h:1",
        "http://h:65535/a/b",
        "http://10.0.0.1:8000/v1",
        "http://[2606:4700::1111]/v1",
        "https://integrate.api.nvidia.com",
        "http://does-not-resolve.example",
        "http://under_score.svc.cluster.local",
        "http://h/%20/a~b",
        "http://h/" + "a" * 2039,
    ],
)
def test_a_base_url_that_calls_can_go_to_is_taken(url):
    assert violations(host_url=url) == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "not-a-url",
        "h:8000",
        "//h",
        "ftp://h",
        "file:///etc/passwd",
        "http://",
        "http:///v1",
        "http://:80",
        "http://h:0",
        "http://h:65536",
        "http://h:x",
        "http://h:-1",
        "http://user@h",
        "http://user:pass@h",
        "http://@h",
        "http://h?",
        "http://h?a=b",
        "http://h#",
        "http://h#f",
        "http://h /",
        " http://h",
        "http://h\n",
        "http://h\t/x",
        "http://h\0",
        "http://h\\@evil",
        "http://h/..",
        "http://h/a/%2e%2E/b",
        "http://h//a",
        "http://h/a%2Fb",
        "http://h/%0d%0a",
        "http://h/%zz",
        "http://h/a|b",
        "http://%31%36%39.254.169.254",
        "http://höst",
        "http://[::1",
        "http://[fe80::1%25eth0]",
        "http://h/" + "a" * 2040,
    ],
)
def test_a_base_url_that_is_none_is_refused(url):
    assert violations(host_url=url) == ["host_url"]


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0xA9.254.0xa9.254",
        "0251.0376.0251.0376",
        "169.254.43518",
        "169.254.1.1",
        "[::ffff:169.254.169.254]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[64:ff9b::a9fe:a9fe]",
        "100.100.100.200",
        "0.0.0.0",
        "224.0.0.1",
        "metadata.google.internal",
        "Metadata.Google.Internal.",
        "169.254.169.254.nip.io",
        "a9fea9fe.nip.io",
        "x.169-254-169-254.sslip.io",
    ],
)
def test_a_metadata_or_link_local_address_is_refused_in_every_spelling(host):
    everything = AddressPolicy.parse("public,private,loopback")
    assert violations(host_url=f"http://{host}/v1", policy=everything) == ["host_url"]


def test_loopback_is_a_matter_of_the_setting():
    assert violations(host_url="http://127.0.0.1:8000") == ["host_url"]
    assert violations(host_url="http://127.1:8000", policy=AddressPolicy.parse("loopback")) == []


@pytest.mark.parametrize("field", ["default_extra_headers", "required_extra_headers"])
@pytest.mark.parametrize(("name", "shown"), [("authorization", "Authorization"), ("COOKIE", "Cookie")])
def test_a_credential_among_the_extra_headers_is_refused_with_the_text_of_the_contract(field, name, shown):
    with pytest.raises(MalformedRequest) as caught:
        violations(**{field: {"values": {name: "x"}}})
    expected = f"{shown} header is not allowed in {field}. Use api_key_secret_name for authentication."
    assert caught.value.message == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Host", "h"),
        ("content-length", "1"),
        ("Transfer-Encoding", "chunked"),
        ("connection", "close"),
        ("TE", "trailers"),
        ("upgrade", "h2c"),
        ("proxy-authorization", "x"),
        ("keep-alive", "1"),
        ("X-NMP-Principal", "me"),
        ("x-junctor-hop", "1"),
        ("a b", "x"),
        ("a:b", "x"),
        ("", "x"),
        ("a\n", "x"),
        ("ü", "x"),
        ("x-a", "a\r\nb: c"),
        ("x-a", "a\nb"),
        ("x-a", "a\0"),
        ("x-a", " a"),
        ("x-a", "a\x7f"),
        ("x-a", "ü"),
        ("x-a", "a" * 8193),
    ],
)
def test_a_header_that_would_break_or_frame_a_request_is_refused(name, value):
    assert violations(default_extra_headers={"values": {name: value}}) == [f"default_extra_headers.{name}"]


def test_ordinary_headers_are_taken():
    headers = {"User-Agent": "a b (c)", "x-title": "", "HTTP-Referer": "https://x?y=1", "x-long": "a" * 8192}
    assert violations(required_extra_headers={"values": headers}) == []


def test_headers_are_bounded_in_number_and_named_once():
    assert violations(default_extra_headers={"values": {f"x-{n}": "1" for n in range(64)}}) == []
    assert violations(default_extra_headers={"values": {f"x-{n}": "1" for n in range(65)}}) == ["default_extra_headers"]
    assert violations(default_extra_headers={"values": {"X-A": "1", "x-a": "2"}}) == ["default_extra_headers.x-a"]


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("Authorization: Bearer {{ auth_secret }}", True),
        ("x-api-key: {{auth_secret}}", True),
        ("Authorization: Token a={{ auth_secret }};b", True),
        ("x-api-key: nothing", False),
        ("x-api-key: {{ auth_secret }}{{ auth_secret }}", False),
        ("x-api-key: {{ other }}", False),
        ("x-api-key: {{ auth_secret.__class__ }}", False),
        ("x-api-key: {% for x in y %}{{ auth_secret }}", False),
        ("{{ auth_secret }}", False),
        ("Host: {{ auth_secret }}", False),
        ("Content-Length: {{ auth_secret }}", False),
        ("x-junctor-a: {{ auth_secret }}", False),
        ("x-a: a\r\nb: {{ auth_secret }}", False),
    ],
)
def test_the_form_of_the_credential_is_literal_text_with_one_variable(text, good):
    assert violations(auth_header_format=text) == ([] if good else ["auth_header_format"])


@pytest.mark.parametrize("field", ["default_extra_body", "required_extra_body"])
@pytest.mark.parametrize(
    ("body", "good"),
    [
        (b"{}", True),
        (b'{"a": {"b": [1]}}', True),
        (b"[]", False),
        (b"1", False),
        (b"{", False),
        (b"[" * 100_000, False),
        (b'{"a": "' + b"x" * (1 << 20) + b'"}', False),
    ],
    ids=["empty", "object", "array", "number", "cut", "deep", "large"],
)
def test_extra_bodies_are_json_objects_of_at_most_a_mebibyte(field, body, good):
    assert violations(**{field: body}) == ([] if good else [field])


@pytest.mark.parametrize(
    ("fields", "bad"),
    [
        ({"description": "d" * 1000}, []),
        ({"description": "d" * 1001}, ["description"]),
        ({"api_base_path": ""}, []),
        ({"api_base_path": "/v1beta/openai"}, []),
        ({"api_base_path": "v1beta"}, ["api_base_path"]),
        ({"api_base_path": "/a?b"}, ["api_base_path"]),
        ({"api_base_path": "/a/../b"}, ["api_base_path"]),
        ({"models_path": "models"}, []),
        ({"models_path": "/"}, ["models_path"]),
        ({"models_path": "../admin"}, ["models_path"]),
        ({"models_path": "models?x=1"}, ["models_path"]),
        ({"enabled_models": {"values": []}}, []),
        ({"enabled_models": {"values": ["meta/llama"]}}, []),
        ({"enabled_models": {"values": [""]}}, ["enabled_models"]),
        ({"static_models": {"values": ["x" * 513]}}, ["static_models"]),
        ({"timeouts": {"connect_ms": 1, "total_ms": 86_400_000}}, []),
        ({"timeouts": {"connect_ms": 0}}, ["timeouts.connect_ms"]),
        ({"timeouts": {"idle_ms": -5, "total_ms": 86_400_001}}, ["timeouts.idle_ms", "timeouts.total_ms"]),
        ({"tls": {"ca_bundle_pem": "no PEM"}}, ["tls.ca_bundle_pem"]),
        ({"tls": {"server_name": "a b"}}, ["tls.server_name"]),
        ({"tls": {"server_name": "api.example.com"}}, []),
        ({"proxy": ""}, []),
        ({"proxy": "http://proxy:3128"}, []),
        ({"proxy": "http://user:pass@proxy:3128"}, ["proxy"]),
        ({"proxy": "http://169.254.169.254"}, ["proxy"]),
        ({"admin_state": 2}, []),
        ({"admin_state": 77}, ["admin_state"]),
        ({"name": "Up1"}, ["name"]),
        ({"name": "up1\n"}, ["name"]),
    ],
    ids=str,
)
def test_the_other_fields_keep_their_rules(fields, bad):
    assert violations(**fields) == bad


def test_every_bad_field_is_named_at_once():
    bad = violations(
        name="X",
        host_url="nope",
        description="d" * 1001,
        auth_header_format="x",
        default_extra_body=b"[]",
        required_extra_headers={"values": {"host": "h", "a b": "c"}},
        models_path="?",
    )
    assert bad == [
        "name",
        "host_url",
        "description",
        "auth_header_format",
        "default_extra_body",
        "required_extra_headers.a b",
        "required_extra_headers.host",
        "models_path",
    ]


def test_only_the_fields_that_are_written_are_checked():
    provider = pb.Provider(workspace="default", name="up1", host_url="nope", description="fine")
    check_provider(provider, ["description"], new=False, policy=POLICY)


@pytest.mark.parametrize(
    ("entity", "served", "good"),
    [
        ("default/m1", "M1", True),
        ("other/m1", "M1", False),
        ("m1", "M1", False),
        ("default/", "M1", False),
        ("default/M1", "M1", False),
        ("default/m1", "", False),
        ("default/m1", "x" * 513, False),
    ],
)
def test_models_served_by_hand_are_entities_of_the_providers_workspace(entity, served, good):
    mapping = pb.ServedModelMapping(model_entity_id=entity, served_model_name=served)
    request = pb.UpdateProviderStatusRequest(workspace="default", name="up1", served_models={"values": [mapping]})
    if good:
        check_status(request)
    else:
        with pytest.raises(InvalidField, match=r"served_models\[0\]"):
            check_status(request)
