"""What settings say of access: whose tokens are taken, who may do everything, how stale the book may be."""

from __future__ import annotations

from dataclasses import dataclass

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""What may be allowed: with a symmetric algorithm the issuer's public key would be a signing key."""


@dataclass(frozen=True, slots=True)
class OidcOptions:
    """Whose tokens are taken, and what they have to say."""

    issuer: str
    """URL, exactly as tokens have it in ``iss``."""
    audience: tuple[str, ...]
    """Values of ``aud`` of which a token needs one."""
    client_id: str = ""
    """What browsers and command lines log in as; told by the discovery of auth."""
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    groups_claim: str = "groups"
    skew: float = 60.0
    """Seconds that the issuer's clock may differ."""


@dataclass(frozen=True, slots=True)
class AccessOptions:
    """Who is let in, and for how long without access_control. Times in seconds."""

    max_stale: float = 24 * 3600.0
    """For how long the book is good without hearing from access_control."""
    admins: frozenset[str] = frozenset()
    """Users and groups of the issuer that may do everything."""
    oidc: OidcOptions | None = None
    """None: keys only."""
