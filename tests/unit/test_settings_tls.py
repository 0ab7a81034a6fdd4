"""The settings of TLS: what does not go together is refused with its name, what is exposed is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.runtime.auth import PeerRule, Proof
from services.settings import Settings, SettingsError
from tests.mount import Mount
from tests.pki import Authority

CA = Authority()


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    made = Mount(tmp_path / "pki")
    made.put_pair(CA.issue("one.test"), CA)
    return made


def load(mount: Mount, services: tuple[str, ...] = ("inference-router", "gateway"), **values: str) -> Settings:
    """``CRT``, ``KEY`` and ``CA`` stand for the files of the mount."""
    names = {"CRT": str(mount.certificate), "KEY": str(mount.key), "CA": str(mount.authority)}
    environ = {f"JUNCTOR_{name.upper()}": names.get(value, value) for name, value in values.items()}
    return Settings.load({}, {"HOME": str(mount.folder), **environ}, services=services)


def test_without_files_there_is_no_tls(mount: Mount) -> None:
    tls = load(mount).tls
    assert (tls.edge, tls.grpc, tls.peer_authorities, tls.own, tls.client_authorities) == (None,) * 5
    assert tls.peers == PeerRule()


def test_one_certificate_serves_edge_and_grpc(mount: Mount) -> None:
    tls = load(mount, tls_cert_file="CRT", tls_key_file="KEY").tls
    assert tls.edge is not None
    assert tls.grpc == tls.edge


def test_grpc_may_have_its_own_and_peers_their_names(mount: Mount) -> None:
    names = "router.test, spiffe://test/gateway"
    more = {"peer_client_ca_file": "CA", "peer_names": names, "peer_proof": "both", "peer_port": "50061"}
    tls = load(mount, grpc_tls_cert_file="CRT", grpc_tls_key_file="KEY", **more).tls
    assert tls.edge is None
    assert tls.grpc is not None
    assert tls.peer_port == 50061
    assert tls.peers == PeerRule(frozenset(("router.test", "spiffe://test/gateway")), Proof.BOTH)


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "no key": ({"tls_cert_file": "CRT"}, "JUNCTOR_TLS_KEY_FILE: is needed as well"),
    "no certificate": ({"grpc_tls_key_file": "KEY"}, "JUNCTOR_GRPC_TLS_CERT_FILE: is needed as well"),
    "unfit": ({"tls_cert_file": "CA", "tls_key_file": "KEY"}, "JUNCTOR_TLS_CERT_FILE: .*is not the key of"),
    "absent": ({"peer_ca_file": "/nowhere"}, "JUNCTOR_PEER_CA_FILE: /nowhere: No such file"),
    "clients without a server": ({"peer_client_ca_file": "CA"}, "needs a certificate of our own"),
    "own certificate without TLS": (
        {"peer_cert_file": "CRT", "peer_key_file": "KEY"},
        "JUNCTOR_PEER_CERT_FILE: is only shown over TLS",
    ),
    "names without authorities": ({"peer_names": "a"}, "JUNCTOR_PEER_NAMES: needs JUNCTOR_PEER_CLIENT_CA_FILE"),
    "port without authorities": ({"peer_port": "1"}, "JUNCTOR_PEER_PORT: needs JUNCTOR_PEER_CLIENT_CA_FILE"),
    "proof without authorities": ({"peer_proof": "both"}, "JUNCTOR_PEER_PROOF: needs JUNCTOR_PEER_CLIENT_CA_FILE"),
    "proof without names": (
        {"tls_cert_file": "CRT", "tls_key_file": "KEY", "peer_client_ca_file": "CA", "peer_proof": "certificate"},
        "JUNCTOR_PEER_NAMES: is needed",
    ),
    "a name with a blank": ({"peer_names": "a b"}, "JUNCTOR_PEER_NAMES: must be DNS names or URIs"),
}


@pytest.mark.parametrize(("values", "why"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_go_together_is_refused(mount: Mount, values: dict[str, str], why: str) -> None:
    with pytest.raises(SettingsError, match=why) as caught:
        load(mount, **values)
    assert "BEGIN" not in str(caught.value)


AUTH_OFF = "JUNCTOR_AUTH is off"
EXPOSED: dict[str, tuple[dict[str, str], int]] = {
    "edge, auth off": ({"host": "0.0.0.0"}, 1),
    "edge, auth off, with TLS": ({"host": "0.0.0.0", "tls_cert_file": "CRT", "tls_key_file": "KEY"}, 1),
    "both": ({"host": "::", "grpc_host": "10.0.0.1"}, 2),
}


@pytest.mark.parametrize(("values", "count"), EXPOSED.values(), ids=EXPOSED)
def test_auth_off_elsewhere_needs_a_word_whatever_tls_there_is(
    mount: Mount, values: dict[str, str], count: int
) -> None:
    values = {"auth": "off", **values}
    with pytest.raises(SettingsError, match=AUTH_OFF) as caught:
        load(mount, **values)
    assert len(caught.value.problems) == count
    assert all("JUNCTOR_INSECURE=true" in line for line in caught.value.problems)
    assert sum(AUTH_OFF in line for line in load(mount, insecure="true", **values).exposures) == count


NO_TLS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "edge": ({"host": "0.0.0.0"}, ("JUNCTOR_HOST",)),
    "gRPC": ({"grpc_host": "::"}, ("JUNCTOR_GRPC_HOST",)),
    "both": ({"host": "10.0.0.1", "grpc_host": "::"}, ("JUNCTOR_HOST", "JUNCTOR_GRPC_HOST")),
    "TLS of gRPC alone": (
        {"host": "::", "grpc_host": "::", "grpc_tls_cert_file": "CRT", "grpc_tls_key_file": "KEY"},
        ("JUNCTOR_HOST",),
    ),
    "TLS": ({"host": "::", "grpc_host": "::", "tls_cert_file": "CRT", "tls_key_file": "KEY"}, ()),
}


@pytest.mark.parametrize(("values", "named"), NO_TLS.values(), ids=NO_TLS)
def test_tokens_without_tls_elsewhere_need_a_word(mount: Mount, values: dict[str, str], named: tuple[str, ...]) -> None:
    values = {"auth": "on", **values}
    if named:
        with pytest.raises(SettingsError, match="has no TLS") as caught:
            load(mount, **values)
        assert [line.partition(":")[0] for line in caught.value.problems] == list(named)
        assert all("JUNCTOR_INSECURE=true" in line for line in caught.value.problems)
    assert [line.partition(":")[0] for line in load(mount, insecure="true", **values).exposures] == list(named)
    if not named:
        assert load(mount, **values).exposures == ()


def test_loopback_exposes_nothing(mount: Mount) -> None:
    assert load(mount).exposures == ()
    assert load(mount, insecure="true").exposures == ()


def test_the_files_are_shown_and_names_can_be_printed(mount: Mount) -> None:
    more = {"peer_client_ca_file": "CA", "peer_names": "b,a"}
    shown = load(mount, tls_cert_file="CRT", tls_key_file="KEY", **more).render()
    assert f'tls_cert_file = "{mount.certificate}"' in shown
    assert 'peer_names = ["a", "b"]' in shown
