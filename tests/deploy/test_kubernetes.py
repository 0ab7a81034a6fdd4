"""deploy/kubernetes and deploy/helm: valid, the same, and what each service's owners and callers rely on."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from junctor.channel import channel_options
from services.settings import Settings
from services.settings_table import GATEWAY, PORTS, SETTINGS
from tests.deploy.conftest import Tools
from tests.deploy.image import image
from tests.deploy.manifests import (
    CHART,
    EVERY,
    KINDS,
    KUBERNETES,
    STORES,
    Manifests,
    Object,
    documents,
    plain,
    pod,
    pods,
    target,
)
from tests.pki import Authority

pytestmark = pytest.mark.compat

VERSIONS = ("1.30", "1.37")
"""The oldest Kubernetes that `sleep` before a pod's end is part of, and the newest whose schemas the lock has."""
ALL = ("base", "overlays/dev", "overlays/prod")
SECONDS_TO_END = 10
Render = Callable[[Path], str]


@pytest.fixture(scope="module")
def kustomized(rendered: Render) -> Callable[[str], Manifests]:
    """The objects of a folder; parsed once, and nobody changes them."""
    return cache(lambda folder: Manifests.parse(rendered(KUBERNETES / folder)))


@pytest.fixture(scope="module")
def charted(tools: Tools) -> Callable[..., dict[str, Object]]:
    """The objects of the chart with a file of values and single ones, without what only says who rendered them."""
    return cache(lambda values, *sets: plain(Manifests.parse(_helm(tools, values, *sets))))


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.mark.parametrize("folder", ["overlays/dev", "overlays/prod", "examples/one-service"])
def test_what_kustomize_renders_is_valid(tools: Tools, rendered: Render, tmp_path: Path, folder: str) -> None:
    (tmp_path / "all.yaml").write_text(rendered(KUBERNETES / folder))
    versions = VERSIONS if folder == "overlays/prod" else VERSIONS[-1:]

    lines = _judged(tools, tmp_path / "all.yaml", *versions)

    assert len(lines) >= len(KINDS) * len(versions)
    assert not [line for line in lines if not line.startswith("INFO")]


def test_the_judge_refuses_a_field_that_kubernetes_does_not_know(tools: Tools, tmp_path: Path) -> None:
    right = (KUBERNETES / "base" / "gateway" / "deployment.yaml").read_text()
    (tmp_path / "wrong.yaml").write_text(right.replace("terminationGracePeriodSeconds", "terminationGraceSeconds"))

    (line,) = _judged(tools, tmp_path / "wrong.yaml", VERSIONS[-1])

    assert line.startswith("ERROR")
    assert "terminationGraceSeconds" in line


def test_helm_finds_nothing_wrong_with_the_chart(tools: Tools) -> None:
    tools.run("helm", "lint", "--strict", CHART, "--values", CHART / "values-prod.yaml")


@pytest.mark.parametrize(
    ("folder", "values"),
    [
        pytest.param("base", "values", id="base"),
        pytest.param("overlays/dev", "values-dev", id="dev"),
        pytest.param("overlays/prod", "values-prod", id="prod"),
    ],
)
def test_the_chart_is_the_same_manifests(
    kustomized: Callable[[str], Manifests], charted: Callable[..., dict[str, Object]], folder: str, values: str
) -> None:
    by_kustomize = {
        name: one
        for name, one in plain(kustomized(folder)).items()
        if not name.startswith("Namespace/") and not name.endswith("/postgres")
    }
    by_helm = charted(values)
    if folder == "base":  # which leaves the images to overlays
        by_helm, by_kustomize = (_without_images(one) for one in (by_helm, by_kustomize))

    assert set(by_helm) == set(by_kustomize)
    for name, one in by_helm.items():
        assert one == by_kustomize[name], name


def test_the_operator_of_prometheus_finds_every_service(
    charted: Callable[..., dict[str, Object]], kustomized: Callable[[str], Manifests]
) -> None:
    (monitor,) = documents(KUBERNETES / "components" / "servicemonitor")

    assert charted("values", "serviceMonitor.enabled=true")["ServiceMonitor/junctor"] == monitor
    for name in EVERY:
        service = kustomized("base").get("Service", name)
        assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


@pytest.mark.parametrize("name", EVERY)
def test_a_service_is_whole_by_itself(kustomized: Callable[[str], Manifests], name: str) -> None:
    alone = kustomized(f"base/{name}")

    expected = {(kind, f"junctor-{name}") for kind in KINDS}
    if name in STORES:
        expected.add(("Job", f"junctor-{name}-migrate"))
    assert set(alone.objects) == expected
    assert alone.container(name)["args"] == [name]
    for one in alone.objects.values():
        assert one["metadata"]["labels"]["app.kubernetes.io/component"].startswith(name)


@pytest.mark.parametrize("name", EVERY)
def test_a_service_is_switched_tagged_and_set_by_itself(charted: Callable[..., dict[str, Object]], name: str) -> None:
    usual = charted("values")
    without = charted("values", f"services.{name}.enabled=false")
    tag, level = f"services.{name}.image.tag=9.9", f"services.{name}.settings.JUNCTOR_LOG_LEVEL=debug"
    own = charted("values", tag, level)

    names = {f"{kind}/junctor-{name}" for kind in KINDS} | (
        {f"Job/junctor-{name}-migrate"} if name in STORES else set()
    )
    assert set(usual) - set(without) == names
    changed = {key for key in usual if own[key] != usual[key]}
    assert changed == {key for key in names if key.split("/")[0] in {"Deployment", "ConfigMap", "Job"}}


def test_one_service_can_be_anothers(kustomized: Callable[[str], Manifests]) -> None:
    example = kustomized("examples/one-service")

    (name,) = example.services()
    assert {one["metadata"]["namespace"] for one in example.objects.values()} == {"models-team"}
    assert example.container(name)["image"] == pod(example.of("Job")[0])["containers"][0]["image"]
    host, port = target(example.settings(name)["JUNCTOR_ACCESS_CONTROL"])
    assert (host, port) == ("junctor-access-control.junctor", PORTS["access-control"])


@pytest.mark.parametrize("folder", ALL)
@pytest.mark.parametrize("name", EVERY)
def test_every_setting_is_one_and_all_together_are_accepted(
    kustomized: Callable[[str], Manifests], authority: Authority, tmp_path: Path, folder: str, name: str
) -> None:
    environ = kustomized(folder).settings(name)
    certificate = authority.issue(f"junctor-{name}")
    for file, text in (("tls.crt", certificate.certificate), ("tls.key", certificate.key), ("ca.crt", authority.pem)):
        (tmp_path / file).write_text(text)
        (tmp_path / file).chmod(0o600)
    placed = {key: value.replace("/run/secrets/tls", str(tmp_path)) for key, value in environ.items()}

    settings = Settings.load({}, {**placed, "HOME": "/nonexistent"}, services=[name])

    assert settings.unknown == ()
    assert {key for key in environ if key.startswith("JUNCTOR_")} <= {row.env for row in SETTINGS}
    for key, value in environ.items():
        if key.endswith("_FILE") and value.startswith("/"):
            assert _mounted(kustomized(folder), name, value), f"{key}: no volume has {value}"


@pytest.mark.parametrize("folder", ALL)
def test_a_pod_has_the_time_that_its_calls_and_its_drain_take(
    kustomized: Callable[[str], Manifests], folder: str
) -> None:
    for name in EVERY:
        settings, spec = kustomized(folder).settings(name), pod(kustomized(folder).get("Deployment", name))
        (container,) = spec["containers"]
        drain = float(settings["JUNCTOR_DRAIN_TIMEOUT"])
        before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert spec["terminationGracePeriodSeconds"] == before + drain + SECONDS_TO_END, name
        if name in {"inference-router", GATEWAY}:
            assert drain >= float(settings["JUNCTOR_TOTAL_TIMEOUT"]) + 5, "the longest call and its status"
        ready = container["readinessProbe"]
        assert before >= ready["periodSeconds"] * ready["failureThreshold"]


@pytest.mark.parametrize("folder", ALL)
def test_callers_see_every_pod_and_take_turns(kustomized: Callable[[str], Manifests], folder: str) -> None:
    manifests = kustomized(folder)
    for name in EVERY:
        for key, value in manifests.settings(name).items():
            if not value.startswith("dns:///"):
                continue
            host, port = target(value)
            callee = host.removeprefix("junctor-")
            service = manifests.objects["Service", host]["spec"]
            assert service["clusterIP"] == "None", key
            assert port in {PORTS[callee], int(manifests.settings(callee).get("JUNCTOR_PEER_PORT", 0))}
            assert "JUNCTOR_GRPC_MAX_CONNECTION_AGE" in manifests.settings(callee), "new pods get calls"
            assert _may_call(manifests, name, callee, port), f"{name} may not call {callee}"
    config = json.loads(str(dict(channel_options())["grpc.service_config"]))
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]


def test_a_network_policy_lets_nobody_else_in(kustomized: Callable[[str], Manifests]) -> None:
    manifests = kustomized("base")

    assert not _may_call(manifests, GATEWAY, GATEWAY, 8080)
    assert not _may_call(manifests, "access-control", "provider-registry", PORTS["provider-registry"])
    for name in EVERY:
        policy = manifests.get("NetworkPolicy", name)["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert all(rule.get("from") for rule in policy["ingress"])


@pytest.mark.parametrize("folder", ALL)
def test_every_pod_keeps_to_the_restricted_standard(kustomized: Callable[[str], Manifests], folder: str) -> None:
    for spec in pods(kustomized(folder)):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}" == image().user
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert container["resources"]["limits"]["memory"]
        assert not any("hostPath" in volume for volume in spec["volumes"])


@pytest.mark.parametrize("folder", ALL)
def test_secrets_are_named_and_never_there(kustomized: Callable[[str], Manifests], folder: str) -> None:
    manifests = kustomized(folder)

    assert not manifests.of("Secret")
    for name in STORES:
        for container in (
            manifests.container(name),
            pod(manifests.objects["Job", f"junctor-{name}-migrate"])["containers"][0],
        ):
            (variable,) = container["env"]
            assert variable["valueFrom"]["secretKeyRef"] == {"name": f"junctor-{name}-database", "key": "uri"}
    for name in EVERY:
        assert not any("://" in value and "@" in value for value in manifests.settings(name).values())
        for volume in pod(manifests.get("Deployment", name))["volumes"]:
            mode = volume.get("projected", volume.get("secret", {})).get("defaultMode")
            assert mode in {None, 0o400}


@pytest.mark.parametrize("folder", ALL)
@pytest.mark.parametrize("name", EVERY)
def test_probes_ask_what_they_should(kustomized: Callable[[str], Manifests], folder: str, name: str) -> None:
    container = kustomized(folder).container(name)
    tls = "JUNCTOR_TLS_CERT_FILE" in kustomized(folder).settings(name)

    asked = {kind: _asked(container[kind]) for kind in ("startupProbe", "livenessProbe", "readinessProbe")}

    live, ready = "grpc.health.v1.Health", ""
    if tls or name == GATEWAY:
        live, ready = "/health/live", "/health/ready"
    assert asked == {"startupProbe": live, "livenessProbe": live, "readinessProbe": ready}
    if name == GATEWAY:
        assert container["readinessProbe"]["httpGet"].get("scheme", "HTTP") == ("HTTPS" if tls else "HTTP")


@pytest.mark.parametrize("name", STORES)
def test_a_migration_is_the_command_and_the_image_of_its_service(
    kustomized: Callable[[str], Manifests], name: str
) -> None:
    (container,) = pod(kustomized("overlays/prod").objects["Job", f"junctor-{name}-migrate"])["containers"]

    assert container["args"] == [name, "migrate"]
    assert container["image"] == kustomized("overlays/prod").container(name)["image"]


def test_the_routes_wait_longer_than_the_longest_call(kustomized: Callable[[str], Manifests]) -> None:
    found = {one["kind"]: one for one in documents(KUBERNETES / "examples" / "gateway-api")}
    base = kustomized("base")
    longest = float(base.settings(GATEWAY)["JUNCTOR_TOTAL_TIMEOUT"])

    (http,) = found["HTTPRoute"]["spec"]["rules"]
    assert http["timeouts"]["request"] == http["timeouts"]["backendRequest"]
    assert float(http["timeouts"]["request"].removesuffix("s")) > longest
    (typed,) = found["GRPCRoute"]["spec"]["rules"]
    assert typed["matches"] == [{"method": {"type": "Exact", "service": "junctor.v1.Inference"}}]
    policy = found["BackendTrafficPolicy"]["spec"]
    assert policy["targetRefs"][0]["name"] == found["GRPCRoute"]["metadata"]["name"]
    assert float(policy["timeout"]["http"]["requestTimeout"].removesuffix("s")) > longest
    for rule in (http, typed):
        for backend in rule["backendRefs"]:
            ports = {port["port"] for port in base.objects["Service", backend["name"]]["spec"]["ports"]}
            assert backend["port"] in ports
    for kind in ("HTTPRoute", "GRPCRoute"):
        spec = found[kind]["spec"]
        assert found[kind]["apiVersion"] == "gateway.networking.k8s.io/v1"
        assert spec["hostnames"]
        assert all(parent["name"] for parent in spec["parentRefs"])


def test_each_service_has_a_certificate_for_the_name_that_it_is_called_by(
    kustomized: Callable[[str], Manifests],
) -> None:
    made = {
        one["spec"]["secretName"]: one["spec"]["dnsNames"]
        for one in documents(KUBERNETES / "examples" / "cert-manager")
        if one["kind"] == "Certificate" and "dnsNames" in one["spec"]
    }
    prod = kustomized("overlays/prod")
    for name in EVERY:
        wanted = [volume["secret"] for volume in pod(prod.get("Deployment", name))["volumes"] if "secret" in volume]
        assert [one["secretName"] for one in wanted] == [f"junctor-{name}-tls"]
        assert f"junctor-{name}" in made[f"junctor-{name}-tls"]


def _judged(tools: Tools, path: Path, *versions: str) -> list[str]:
    """What the schemas of these versions say, a line for each object and version."""
    options = [part for version in versions for part in ("-k", version)]
    command = [tools.python, "-m", "kubernetes_validate", "--strict", *options, path]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout.splitlines()


def _without_images(objects: dict[str, Object]) -> dict[str, Object]:
    text = re.sub(r'"image": "[^"]+"', '"image": ""', json.dumps(objects))
    without: dict[str, Object] = json.loads(text)
    return without


def _helm(tools: Tools, values: str, *sets: str) -> str:
    options = [part for one in sets for part in ("--set", one)]
    return tools.run(
        "helm", "template", "junctor", CHART, "--namespace", "junctor", "--values", CHART / f"{values}.yaml", *options
    )


def _mounted(manifests: Manifests, name: str, path: str) -> bool:
    spec = pod(manifests.get("Deployment", name))
    folder, _, file = path.rpartition("/")
    (mount,) = [one for one in spec["containers"][0]["volumeMounts"] if one["mountPath"] == folder]
    (volume,) = [one for one in spec["volumes"] if one["name"] == mount["name"]]
    if "secret" in volume:
        return file in {"tls.crt", "tls.key", "ca.crt"}
    items = [item for source in volume["projected"]["sources"] for item in source["secret"]["items"]]
    return file in {item["path"] for item in items}


def _asked(probe: dict[str, dict[str, str]]) -> str:
    return probe["grpc"]["service"] if "grpc" in probe else probe["httpGet"]["path"]


def _may_call(manifests: Manifests, caller: str, callee: str, port: int) -> bool:
    out = manifests.get("NetworkPolicy", caller)["spec"]["egress"]
    into = manifests.get("NetworkPolicy", callee)["spec"]["ingress"]
    return _matches(out, "to", manifests, callee, port) and _matches(into, "from", manifests, caller, port)


def _matches(rules: list[dict[str, list[dict]]], side: str, manifests: Manifests, other: str, port: int) -> bool:
    labels = manifests.get("Deployment", other)["spec"]["template"]["metadata"]["labels"]
    return any(
        port in {one["port"] for one in rule.get("ports", [])}
        and any(
            "podSelector" in peer and peer["podSelector"]["matchLabels"].items() <= labels.items()
            for peer in rule.get(side, [])
        )
        for rule in rules
    )
