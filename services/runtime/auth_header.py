"""The form of a provider's credential: ``Name: prefix{{ auth_secret }}suffix``.

Parsed, never evaluated: there is no template engine, so a form cannot run anything. The registry validates
with :func:`parse`; the router renders.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from junctor.errors import CredentialUnavailable, FieldViolation, InvalidField
from services.runtime.header_names import is_reserved

DEFAULT_FORMAT = "Authorization: Bearer {{ auth_secret }}"
FIELD = "auth_header_format"

LENGTH_LIMIT = 8 * 1024
"""Characters of a form, as of the value of any header."""

_FORM = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+): (.*?)\{\{\s*auth_secret\s*\}\}(.*)", re.ASCII)
_LEFT_OVER = re.compile(r"\{\{|\}\}|\{%|%\}|\{#|#\}")
_LITERAL = re.compile(r"[\x20-\x7e\t]*")
_UNFIT = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_UNFIT_NAMES = frozenset({"cookie", "content-type", "forwarded"})
"""Beside the reserved ones: headers that mean something else than a key."""


@dataclass(frozen=True, slots=True)
class AuthTemplate:
    """A parsed form; :meth:`render` puts the secret in."""

    name: bytes
    """Field name in lower case."""
    prefix: bytes
    suffix: bytes

    def render(self, secret: str | bytes) -> tuple[bytes, bytes]:
        """Return name and value of the header. No escaping: the secret's bytes (UTF-8) are sent as they are.

        Raises :class:`CredentialUnavailable` for an empty secret or one with control characters, which could
        end the header; its text does not show the secret.
        """
        value = secret.encode() if isinstance(secret, str) else secret
        if not value or _UNFIT.search(value):
            raise CredentialUnavailable("The provider's secret is empty or has characters that no header can carry")
        return self.name, b"".join((self.prefix, value, self.suffix))


def parse(text: str | None) -> AuthTemplate:
    """Parse a form; None and the empty text mean :data:`DEFAULT_FORMAT`.

    Raises :class:`InvalidField` (``auth_header_format``) unless it is a header name, ``": "`` and a value with
    exactly one ``{{ auth_secret }}``; names that :mod:`services.runtime.header_names` reserves
    are refused.
    """
    if text and len(text) > LENGTH_LIMIT:
        raise _invalid(f"must be at most {LENGTH_LIMIT} characters")
    form = _FORM.fullmatch(text or DEFAULT_FORMAT)
    if form is None:
        raise _invalid("must have the form 'Name: value' with exactly one variable, {{ auth_secret }}")
    name, prefix, suffix = form.groups()
    if _LEFT_OVER.search(prefix) or _LEFT_OVER.search(suffix):
        raise _invalid("must have exactly one variable, {{ auth_secret }}, and no other template syntax")
    if _LITERAL.fullmatch(prefix) is None or _LITERAL.fullmatch(suffix) is None:
        raise _invalid("must have only printable ASCII characters around the variable")
    if is_reserved(name) or name.lower() in _UNFIT_NAMES:
        raise _invalid(f"must not set the header '{name.lower()}'")
    return AuthTemplate(name.lower().encode(), prefix.encode(), suffix.encode())


def _invalid(rule: str) -> InvalidField:
    return InvalidField.of(FieldViolation(FIELD, rule))
