"""Vendors' keys of the environment: each becomes a secret, and a provider that sends it to its vendor only.

What detection made is known by its description. A user's provider or secret of the same name is never touched.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from services.up.edge import Edge, EdgeRefused, Json
from services.up.findings import Finding, State
from services.up.vendors import VENDORS, Vendor

MAX_KEY_BYTES = 65_536


async def add_keys(edge: Edge, environment: Mapping[str, str], vendors: Sequence[Vendor] = VENDORS) -> list[Finding]:
    """Register a provider for every vendor whose key is in ``environment``; never raises for a refusal."""
    present = [vendor for vendor in vendors if environment.get(vendor.variable, "").strip()]
    return list(await asyncio.gather(*(_add(edge, vendor, environment) for vendor in present)))


async def _add(edge: Edge, vendor: Vendor, environment: Mapping[str, str]) -> Finding:
    try:
        state, note = await _register(edge, vendor, environment)
    except EdgeRefused as refused:
        state, note = State.FAILED, str(refused)
    return Finding(vendor.variable, f"{vendor.workspace}/{vendor.provider}", state, note)


async def _register(edge: Edge, vendor: Vendor, environment: Mapping[str, str]) -> tuple[State, str]:
    key = environment[vendor.variable].strip()
    for variable in vendor.base_url_variables:
        if environment.get(variable) and not _same_host(environment[variable], vendor.host_url):
            return State.LEFT_ALONE, f"{variable} points elsewhere"
    if not (key.isascii() and key.isprintable()) or len(key) > MAX_KEY_BYTES:
        return State.LEFT_ALONE, "not a key"
    providers = await edge.providers(vendor.workspace)
    existing = next((entry for entry in providers if entry["name"] == vendor.provider), None)
    if existing is not None:
        return await _refresh(edge, vendor, existing, key)
    if vendor.seeded:  # made by the registry, once: its absence is somebody's decision
        return State.LEFT_ALONE, f"there is no {vendor.workspace}/{vendor.provider}"
    for entry in providers:
        if _same_host(str(entry.get("host_url")), vendor.host_url):
            return State.LEFT_ALONE, f"there is {vendor.workspace}/{entry['name']}"
    return await _create(edge, vendor, key)


async def _create(edge: Edge, vendor: Vendor, key: str) -> tuple[State, str]:
    if await _store(edge, vendor, key) is State.LEFT_ALONE:
        return State.LEFT_ALONE, f"secret {vendor.secret_name} is yours"
    body: Json = {
        "name": vendor.provider,
        "host_url": vendor.host_url,
        "description": _mark(vendor),
        "api_key_secret_name": vendor.secret_name,
    }
    optional = {
        "auth_header_format": vendor.auth_header_format,
        "default_extra_headers": vendor.headers or None,
        "api_base_path": vendor.api_base_path,
    }
    body |= {name: value for name, value in optional.items() if value is not None}
    made = await edge.create_provider(vendor.workspace, body)
    return (State.ADDED, "") if made else (State.LEFT_ALONE, "the name is taken")


async def _refresh(edge: Edge, vendor: Vendor, existing: Json, key: str) -> tuple[State, str]:
    ours = vendor.seeded or existing.get("description") == _mark(vendor)
    sends_there = existing.get("host_url") == vendor.host_url
    if not (ours and sends_there and existing.get("api_key_secret_name") == vendor.secret_name):
        return State.LEFT_ALONE, "the provider is yours"
    state = await _store(edge, vendor, key)
    return state, "secret is yours" if state is State.LEFT_ALONE else ""


async def _store(edge: Edge, vendor: Vendor, key: str) -> State:
    """Create the secret, or change the one that detection made if the key of the environment changed."""
    description = f"{_mark(vendor)}, key {await _fingerprint(vendor, key)}"
    body = {"name": vendor.secret_name, "value": key, "description": description}
    if await edge.create_secret(vendor.workspace, body):
        return State.ADDED
    stored = await edge.secret(vendor.workspace, vendor.secret_name) or {}
    held = str(stored.get("description") or "")
    if not held.startswith(f"{_mark(vendor)}, key "):
        return State.LEFT_ALONE
    if held == description:
        return State.KEPT
    change = {"value": key, "description": description}
    await edge.update_secret(vendor.workspace, vendor.secret_name, change)
    return State.UPDATED


def _mark(vendor: Vendor) -> str:
    return f"Made by junctor up from {vendor.variable}"


async def _fingerprint(vendor: Vendor, key: str) -> str:
    """Tell keys apart without telling anything about them: 32 bits of a slow salted hash."""
    salt = f"{vendor.workspace}/{vendor.secret_name}".encode()
    digest = await asyncio.to_thread(hashlib.scrypt, key.encode(), salt=salt, n=4096, r=8, p=1, dklen=4)
    return digest.hex()


def _same_host(url: str, other: str) -> bool:
    try:
        return urlsplit(url).hostname == urlsplit(other).hostname
    except ValueError:
        return False
