from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

import pytest

from services.runtime.addresses import Network
from services.settings import Settings, SettingsError, add_flags, is_loopback, markdown_table
from services.settings_table import SETTINGS

HOME = {"HOME": "/home/u"}


def load(flags: dict[str, Any] | None = None, services: tuple[str, ...] = ("up",), **env: str) -> Settings:
    return Settings.load(flags or {}, {**HOME, **env}, services=services)


def problems(flags: dict[str, Any] | None = None, services: tuple[str, ...] = ("up",), **env: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(flags, services, **env)
    return caught.value.problems


def test_the_defaults_of_up() -> None:
    s = load()
    assert (s.edge.host, s.edge.port, s.grpc.host, s.grpc.port, s.admin_port) == (
        "127.0.0.1",
        8080,
        "127.0.0.1",
        50051,
        None,
    )
    assert (s.data_dir, s.database_url, s.demo, s.detect, s.workers) == (Path("junctor-data"), None, True, True, 1)
    assert s.secret_key_file == Path("/home/u/.config/junctor/secret.key")
    assert s.service_token_file == Path("/home/u/.config/junctor/service.token")
    assert (s.max_body, s.drain_timeout, s.discovery_interval) == (64 * 1024 * 1024, 60, 10)
    assert (s.timeouts.connect, s.timeouts.first_byte, s.timeouts.idle, s.timeouts.total) == (5, 300, 120, 1800)
    assert s.upstream_networks == {Network.PUBLIC, Network.PRIVATE, Network.LOOPBACK}
    assert (s.default_workspace, s.auth.mode, s.log.level, s.log.format) == ("default", "off", "info", "auto")
    assert (s.hop, s.seed) == ("direct", True)
    assert (s.peers.access_control, s.peers.inference_router) == (None, None)


@pytest.mark.parametrize(
    ("services", "port"),
    [
        (("access-control",), 50051),
        (("model-registry",), 50052),
        (("provider-registry",), 50053),
        (("inference-router",), 50054),
        (("inference-router", "gateway"), 50054),
        (("provider-registry", "model-registry"), 50052),
    ],
    ids=str,
)
def test_a_service_alone_has_its_own_port_and_knows_its_peers(services: tuple[str, ...], port: int) -> None:
    s = load(services=services)
    assert s.grpc.port == port
    assert (s.demo, s.detect, s.upstream_networks) == (False, False, {Network.PUBLIC, Network.PRIVATE})
    expected = None if "access-control" in services else "127.0.0.1:50051"
    assert s.peers.access_control == expected


@pytest.mark.parametrize(
    ("services", "flags", "given", "key"),
    [
        (("provider-registry",), {}, " nvapi-1 ", "nvapi-1"),
        (("provider-registry",), {}, " ", None),
        (("up",), {}, "nvapi-1", None),
        (("up",), {"detect": False}, "nvapi-1", "nvapi-1"),
    ],
    ids=["set", "blank", "up detects it", "up without detection"],
)
def test_the_key_of_the_seed_is_the_vendors_variable(
    services: tuple[str, ...], flags: dict[str, bool], given: str, key: str | None
) -> None:
    s = Settings.load(flags, {**HOME, "NVIDIA_API_KEY": given}, services=services)
    assert (s.seed_key and s.seed_key.reveal()) == key
    assert "nvapi-1" not in s.render(redact=False) + repr(s)


def test_flags_win_over_variables_over_the_file_over_defaults(tmp_path: Path) -> None:
    config = tmp_path / "junctor.toml"
    config.write_text('port = 1\ngrpc_port = 2\nmax_body_mb = 3\nupstream_networks = ["public"]\n')
    env = {**HOME, "JUNCTOR_CONFIG": str(config), "JUNCTOR_PORT": "11", "JUNCTOR_GRPC_PORT": "12"}
    s = Settings.load({"port": "21"}, env)
    assert (s.edge.port, s.grpc.port, s.max_body, s.upstream_networks) == (21, 12, 3 * 1024 * 1024, {Network.PUBLIC})
    names = ("port", "grpc_port", "max_body_mb", "host")
    assert [s.origins[name] for name in names] == ["flag", "env", "file", "default"]


def test_a_false_flag_is_a_given_flag() -> None:
    assert load({"demo": False}, JUNCTOR_DEMO="true").demo is False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JUNCTOR_HOST", "127.0.0.1:80"),
        ("JUNCTOR_HOST", "http://x"),
        ("JUNCTOR_PORT", "65536"),
        ("JUNCTOR_PORT", "-1"),
        ("JUNCTOR_PORT", "eight"),
        ("JUNCTOR_ADMIN_PORT", "on"),
        ("JUNCTOR_DATABASE_URL", "mysql://h/db"),
        ("JUNCTOR_DATABASE_URL", "postgresql://h"),
        ("JUNCTOR_DEMO", "maybe"),
        ("JUNCTOR_WORKERS", "0"),
        ("JUNCTOR_WORKERS", "1.5"),
        ("JUNCTOR_MAX_BODY_MB", "0"),
        ("JUNCTOR_MAX_BODY_MB", "4000"),
        ("JUNCTOR_CONNECT_TIMEOUT", "0"),
        ("JUNCTOR_IDLE_TIMEOUT", "nan"),
        ("JUNCTOR_TOTAL_TIMEOUT", "inf"),
        ("JUNCTOR_UPSTREAM_NETWORKS", "public,metadata"),
        ("JUNCTOR_UPSTREAM_NETWORKS", ","),
        ("JUNCTOR_DEFAULT_WORKSPACE", "Not A Name"),
        ("JUNCTOR_AUTH", "perhaps"),
        ("JUNCTOR_HOP", "pigeon"),
        ("JUNCTOR_LOG_LEVEL", "loud"),
        ("JUNCTOR_LOG_FORMAT", "xml"),
    ],
)
def test_a_bad_value_is_named_with_its_rule(name: str, value: str) -> None:
    [problem] = problems(**{name: value})
    assert problem.startswith(f"{name}: must be ")


def test_every_problem_is_told_at_once_under_the_name_it_was_given_by(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('workers = "many"\nprot = 1\n')
    found = problems({"port": "x", "config": str(config)}, JUNCTOR_DEMO="x", JUNCTOR_IDLE_TIMEOUT="x")
    starts = [problem.partition(":")[0] for problem in found]
    assert starts == [
        "prot in c.toml",
        "--port",
        "JUNCTOR_DEMO",
        "workers in the config file",
        "JUNCTOR_IDLE_TIMEOUT",
    ]


@pytest.mark.parametrize(
    ("content", "says"), [(None, "No such file"), ("port = ", "not TOML")], ids=["missing", "malformed"]
)
def test_a_config_file_that_cannot_be_read_is_a_problem(tmp_path: Path, content: str | None, says: str) -> None:
    config = tmp_path / "c.toml"
    if content is not None:
        config.write_text(content)
    assert says in problems({"config": str(config)})[0]


def test_a_problem_never_quotes_a_credential() -> None:
    found = problems(JUNCTOR_DATABASE_URL="mysql://u:hunter2@h/db", JUNCTOR_ADMIN_KEY="hunter2\x07")
    assert len(found) == 2
    assert "hunter2" not in "".join(found)


@pytest.mark.parametrize(
    ("services", "env", "named"),
    [
        (("up",), {"JUNCTOR_HOST": "0.0.0.0"}, ["JUNCTOR_HOST"]),
        (("up",), {"JUNCTOR_HOST": "::", "JUNCTOR_GRPC_HOST": "10.0.0.1"}, ["JUNCTOR_HOST", "JUNCTOR_GRPC_HOST"]),
        (("gateway",), {"JUNCTOR_HOST": "example.org", "JUNCTOR_GRPC_HOST": "0.0.0.0"}, ["JUNCTOR_HOST"]),
        (("model-registry",), {"JUNCTOR_HOST": "0.0.0.0", "JUNCTOR_GRPC_HOST": "0.0.0.0"}, ["JUNCTOR_GRPC_HOST"]),
    ],
    ids=["edge", "both", "gateway has no gRPC listener", "a service has no edge"],
)
def test_auth_off_beyond_loopback_needs_insecure(
    services: tuple[str, ...], env: dict[str, str], named: list[str]
) -> None:
    found = problems(None, services, **env)
    assert [problem.partition(":")[0] for problem in found] == named
    assert all("JUNCTOR_INSECURE=true" in problem for problem in found)
    assert load(None, services, **env, JUNCTOR_INSECURE="true").auth.insecure


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("LocalHost", True), ("0.0.0.0", False), ("h", False)],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_an_unknown_service_is_a_problem() -> None:
    assert problems(services=("model-registri",)) == ("model-registri: no such service",)


def test_links_of_kubernetes_are_no_settings_and_typos_are_told() -> None:
    s = load(
        JUNCTOR_PORT="tcp://10.0.0.1:80",
        JUNCTOR_PORT_80_TCP="tcp://10.0.0.1:80",
        JUNCTOR_SERVICE_HOST="10.0.0.1",
        JUNCTOR_DRIAN_TIMEOUT="3",
        JUNCTOR_BASE_URL="http://x",
    )
    assert s.edge.port == 8080
    assert s.unknown == ("JUNCTOR_DRIAN_TIMEOUT",)


@pytest.mark.parametrize(
    ("xdg", "folder"), [("/xdg", "/xdg"), ("relative", "/home/u/.config"), ("", "/home/u/.config")]
)
def test_key_files_follow_xdg_config_home(xdg: str, folder: str) -> None:
    assert load(XDG_CONFIG_HOME=xdg).service_token_file == Path(folder) / "junctor" / "service.token"


def test_what_is_printed_is_a_config_file_without_secrets() -> None:
    s = load({"port": "81"}, JUNCTOR_DATABASE_URL="postgresql://u:hunter2@h/db", JUNCTOR_ADMIN_KEY="hunter22")
    shown = s.render()
    assert "hunter2" not in shown
    assert "hunter2" not in repr(s.auth)
    parsed = tomllib.loads(shown)
    assert parsed["port"] == 81
    assert {row.name for row in SETTINGS} == set(parsed) | {name for name, value in s.values.items() if value is None}
    assert "# flag" in next(line for line in shown.splitlines() if line.startswith("port ="))
    assert tomllib.loads(s.render(redact=False))["admin_key"] == "hunter22"


def test_what_is_printed_loads_again(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(load({"hop": "grpc"}, JUNCTOR_DEMO="no").render())
    again = Settings.load({}, HOME, config)
    assert (again.hop, again.demo) == ("grpc", False)
    assert dict(again.values) == dict(load({"hop": "grpc"}, JUNCTOR_DEMO="no").values)


def test_flags_of_the_table_are_parsed() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    given = vars(parser.parse_args(["--grpc-port", "7", "--no-demo", "--data-dir", "/x", "--admin-port", "9"]))
    s = Settings.load(given, HOME)
    assert (s.grpc.port, s.demo, s.data_dir, s.admin_port, s.detect) == (7, False, Path("/x"), 9, True)
    assert s.origins["detect"] == "default"


def test_the_table_of_the_readme_has_every_row() -> None:
    table = markdown_table()
    for row in SETTINGS:
        assert f"`{row.env}`" in table
        if row.flag:
            assert f"`{row.flag}`" in table
