"""What one call is expected to use before it is served, and what it has used when it is over.

Expected go in: a token for every four bytes of the body. Expected come out: what the body's ``max_tokens``,
``max_completion_tokens`` or ``max_output_tokens`` allows, or :data:`OUTPUT_TOKENS`; of embeddings nothing.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

from services.access.identity import Caller
from services.inference_router.attempts import LARGE, Attempts, never_sent
from services.inference_router.limits import Hold, Limiter
from services.inference_router.limits_prices import Prices
from services.inference_router.snapshot import Candidate
from services.runtime.exchange import Call, Outcome, Usage

BYTES_PER_TOKEN: Final = 4
OUTPUT_TOKENS: Final = 1_024
"""Tokens that are expected to come out of a call that does not say how many it wants at most."""
_MOST_OUTPUT = 10**9
_MARK, _BEFORE, _AFTER = b'_tokens"', 16, 64

# Inside of a JSON text the quotes would be escaped, so this is a key, if maybe of a nested object: the largest counts.
_LIMIT = re.compile(rb'"max_(?:completion_|output_)?tokens"\s*:\s*(\d{1,10})')


class CallLimits:
    """Limits as the router applies them to calls. ``prices`` None: nothing has a price."""

    def __init__(self, limiter: Limiter, prices: Prices | None = None) -> None:
        self.limiter = limiter
        self.prices = prices

    def concern(self, caller: Caller) -> bool:
        """Tell whether a call of the caller may count against anything: what is asked of every call."""
        return caller.limits.counted or bool(self.limiter.workspaces)

    async def admit(self, call: Call, caller: Caller, workspace: str, candidate: Candidate) -> Hold | None:
        """Reserve what a call to a model or provider of ``workspace`` may use; None: nothing is limited.

        Raises LimitExceeded, PeerUnavailable.
        """
        limiter = self.limiter
        if not limiter.concerns(caller, workspace):
            return None
        cost = None
        if len(call.body) <= LARGE:
            expected = expected_tokens(call)
        else:
            expected = await asyncio.to_thread(expected_tokens, call)
        if self.prices is not None and limiter.has_budget(caller, workspace):
            cost = self.prices.cost(candidate.provider.ref, candidate.upstream_id, *expected)
        tokens = expected[0] + expected[1]
        hold = limiter.reserve(caller, workspace, tokens, cost)
        if hold is None:
            hold = await limiter.admit(caller, workspace, tokens=tokens, cost=cost)
        hold.tokens = expected
        return hold

    def settle(self, hold: Hold, attempts: Attempts | None, outcome: Outcome | None) -> None:
        """Count what a call has used; ``outcome`` None: it failed, or its caller left."""
        reached, tokens = used_tokens(hold, attempts, outcome)
        cost = 0
        candidate = attempts.candidate if attempts is not None else None
        if self.prices is not None and candidate is not None and hold.has_budget and any(tokens):
            cost = self.prices.cost(candidate.provider.ref, candidate.upstream_id, *tokens) or 0
        self.limiter.settle(hold, requests=int(reached), tokens=tokens[0] + tokens[1], cost=cost)


def expected_tokens(call: Call) -> tuple[int, int]:
    """Return how many tokens a call is expected to take in and to give out."""
    body = call.body
    if not body:
        return 0, 0
    taken = -(-len(body) // BYTES_PER_TOKEN)
    if call.path.endswith(b"embeddings"):
        return taken, 0
    asked = -1
    at = body.find(_MARK)
    while at >= 0:  # a search of the whole body by the pattern would take several times as long
        if (found := _LIMIT.search(body, max(0, at - _BEFORE), at + _AFTER)) is not None:
            asked = max(asked, min(int(found[1]), _MOST_OUTPUT))
        at = body.find(_MARK, at + 1)
    return taken, OUTPUT_TOKENS if asked < 0 else asked


def used_tokens(hold: Hold, attempts: Attempts | None, outcome: Outcome | None) -> tuple[bool, tuple[int, int, int]]:
    """Tell whether a call reached a provider, and the tokens in, out and cached that it used.

    What the provider reported holds. Without a report: a provider's error used nothing, an answer what was expected,
    and a call without an answer what went in.
    """
    if attempts is None:
        return False, (0, 0, 0)
    answer = attempts.answer
    usage = outcome.usage if outcome is not None else answer.usage() if answer is not None else None
    if usage is not None and (counted := _counted(usage, hold)) is not None:
        return True, counted
    done = outcome.attempts if outcome is not None else attempts.done
    if all(never_sent(attempt) for attempt in done):
        return False, (0, 0, 0)
    if answer is not None and answer.status >= 400:
        return True, (0, 0, 0)
    begun = answer is not None and answer.committed
    return True, (hold.tokens[0], hold.tokens[1] if begun else 0, 0)


def _counted(usage: Usage, hold: Hold) -> tuple[int, int, int] | None:
    if usage.input_tokens is None and usage.output_tokens is None:
        return None
    taken = hold.tokens[0] if usage.input_tokens is None else usage.input_tokens
    return taken, usage.output_tokens or 0, usage.cached_tokens or 0
