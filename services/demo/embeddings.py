"""``POST /v1/embeddings``: unit vectors by feature hashing; texts that share words are near."""

from __future__ import annotations

import base64
import hashlib
import math
import struct

from services.demo import text
from services.demo.completions import read_texts
from services.demo.wire import EMBED_MODEL, Json, Reply, RequestRefused, check_model, positive

DIMENSIONS = 256
MAX_DIMENSIONS = 4096


def embeddings(body: Json) -> Reply:
    """Answer an embeddings request; ``base64`` packs little-endian float32."""
    check_model(body, EMBED_MODEL)
    inputs = read_texts(body.get("input"), "input")
    dimensions = positive(body, "dimensions", at_most=MAX_DIMENSIONS) or DIMENSIONS
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise RequestRefused("encoding_format must be float or base64", param="encoding_format")
    data = []
    for index, said in enumerate(inputs):
        vector = embed(said, dimensions)
        packed = struct.pack(f"<{dimensions}f", *vector)
        embedding = base64.b64encode(packed).decode() if encoding == "base64" else vector
        data.append({"object": "embedding", "index": index, "embedding": embedding})
    tokens = sum(map(text.count, inputs))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Reply({"object": "list", "data": data, "model": EMBED_MODEL, "usage": usage})


def embed(said: str, dimensions: int) -> list[float]:
    """Map ``said`` to a vector of length 1 that depends on its words, not on their order or case."""
    vector = [0.0] * dimensions
    for token in text.tokenize(said.lower()):
        _add(vector, token.strip())
    if not any(vector):
        _add(vector, "\x00" + said)
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    if not any(vector):
        vector[0] = 1.0
    return [value / length for value in vector]


def _add(vector: list[float], token: str) -> None:
    digest = hashlib.blake2b(token.encode("utf-8", "replace"), digest_size=64).digest()
    for (number,) in struct.iter_unpack("<I", digest):
        vector[(number >> 1) % len(vector)] += 1.0 if number & 1 else -1.0
