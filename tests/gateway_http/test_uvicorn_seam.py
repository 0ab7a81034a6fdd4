"""What the edge's protocol leans on inside uvicorn, which uvicorn does not promise to keep.

When this fails after an update: read ``uvicorn/protocols/http/httptools_impl.py`` beside
``gateway_http/protocol.py``, mend that file, then this list.
"""

from __future__ import annotations

import hashlib
import inspect

import uvicorn
from uvicorn.protocols.http import flow_control, httptools_impl
from uvicorn.server import ServerState

from gateway_http.cycle import InferenceCycle
from gateway_http.protocol import EdgeProtocol

PINNED = "0.54.0"
SOURCES = {
    httptools_impl: "1d4e1c579df4168433a61a01f10c628b31c1790e72dd9769d2b8633b22214033",
    flow_control: "d39d16560df512f3ce907c329c2a0c3f5cd7165fef3b753876eae5739bf2a785",
}


def test_uvicorn_is_the_version_that_was_read() -> None:
    assert uvicorn.__version__ == PINNED


def test_sources_are_those_that_were_read() -> None:
    found = {module: hashlib.sha256(inspect.getsource(module).encode()).hexdigest() for module in SOURCES}
    assert found == SOURCES


def test_cycle_has_all_that_uvicorn_reads_on_one() -> None:
    read = {"body", "message_event", "more_body", "response_complete", "keep_alive", "disconnected"}
    slots = {name for cls in InferenceCycle.__mro__ for name in getattr(cls, "__slots__", ())}
    assert read <= slots


def test_protocol_overrides_and_uses_only_what_exists() -> None:
    base = httptools_impl.HttpToolsProtocol
    overridden = {
        "connection_made",
        "connection_lost",
        "data_received",
        "on_response_complete",
        "pause_writing",
        "resume_writing",
        "send_400_response",
        "shutdown",
    }
    assert overridden == {name for name in vars(EdgeProtocol) if name in vars(base)} - {
        "__init__",
        "__module__",
        "__doc__",
        "__firstlineno__",  # Python 3.13 and later
        "__static_attributes__",
    }
    assert hasattr(base, "_unset_keepalive_if_required")
    assert {"connections", "tasks", "total_requests", "default_headers"} <= vars(ServerState()).keys()
    source = inspect.getsource(base.__init__)
    for name in ("loop", "config", "tasks", "server_state", "transport", "flow", "cycle"):
        assert f"self.{name}" in source
