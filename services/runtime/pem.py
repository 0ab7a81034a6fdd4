"""PEM in the value of a secret, which is one line: how a client certificate and its key are kept there.

Two forms are taken: PEM whose line ends are written ``\\n`` (as in a JSON or ``.env`` file), and the base64 of the
PEM file (``base64 -w0 client.pem``). Whether the keys and certificates in it are any good, OpenSSL says.
"""

from __future__ import annotations

import base64
import binascii
import re

from junctor.errors import CredentialUnavailable

RULE = r"must be PEM with its line ends written as \n, or the base64 of a PEM file"

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----[ \t]*\n[A-Za-z0-9+/= \t\n]+\n-----END \1-----(?![^\n])")
_BEGIN = re.compile(r"-----BEGIN ")
_ESCAPED_LINE_END = re.compile(r"\\r\\n|\\n|\\r")


def decode_pem(value: str) -> bytes:
    """Return the PEM text that a secret's value holds: ASCII, lines ended by LF, the last one too.

    Raises CredentialUnavailable, whose text never shows the value, unless it is one of the two forms and every
    block that begins also ends.
    """
    text = value.strip()
    if not _BEGIN.search(text):
        text = _from_base64(text)
    text = _ESCAPED_LINE_END.sub("\n", text).replace("\r\n", "\n").replace("\r", "\n").strip()
    blocks = len(_BLOCK.findall(text))
    if blocks == 0 or blocks != len(_BEGIN.findall(text)) or not text.isascii():
        raise _unfit()
    return f"{text}\n".encode("ascii")


def _from_base64(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode("ascii")
    except (binascii.Error, ValueError):  # ValueError: characters beyond ASCII, on either side
        raise _unfit() from None


def _unfit() -> CredentialUnavailable:
    return CredentialUnavailable(f"The secret of the client certificate {RULE}")
