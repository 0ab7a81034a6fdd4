"""What is counted of requests: names, boundaries, and labels that no caller can grow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from junctor import errors
from services.runtime.exchange import Attempt, Call, Route, Usage
from services.runtime.finished import Finished
from services.runtime.histograms import FIRST_TOKEN, OUTPUT_TOKEN, SECONDS, TOKENS, Histogram
from services.runtime.inference_metrics import MOST_SERIES, OTHER, InferenceMetrics
from services.runtime.metrics import Family, render

LABELS = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "default/p",
    "gen_ai_request_model": "default/chat",
    "gen_ai_response_model": "vendor/m",
}


def ended(**fields: Any) -> Finished:
    """A chat that went well, but for ``fields``."""
    call = Call(Route.PLAIN, "default", "", "POST", fields.pop("path", b"v1/chat/completions"))
    given: dict[str, Any] = {
        "virtual_model": "default/chat",
        "entity": "default/chat",
        "provider": "default/p",
        "upstream_model": "vendor/m",
        "status": 200,
        "verdict": "complete",
        "attempts": (Attempt("default/p", 200, "", 50.0),),
        "usage": Usage(100, 11, 40, 5),
        "upstream_seconds": 0.05,
        "total_seconds": 0.052,
    }
    return Finished(call, **given | fields)


def values(families: Iterable[Family]) -> dict[str, float]:
    """Every line but the buckets, by its name with labels."""
    lines = [line for line in render(families).splitlines() if not line.startswith("#") and "_bucket" not in line]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def series(name: str, labels: Mapping[str, str]) -> str:
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


def counted(*calls: Finished, **options: Any) -> dict[str, float]:
    metrics = InferenceMetrics(**options)
    for call in calls:
        metrics(call)
    return values(metrics.families())


def test_a_good_answer_is_counted_in_the_conventions_words() -> None:
    found = counted(ended(), ended())
    assert found[series("gen_ai_server_request_duration_seconds_count", LABELS)] == 2
    assert found[series("gen_ai_client_token_usage_sum", {**LABELS, "gen_ai_token_type": "input"})] == 200
    assert found[series("gen_ai_client_token_usage_sum", {**LABELS, "gen_ai_token_type": "output"})] == 22
    assert found[series("junctor_tokens_total", {**LABELS, "gen_ai_token_type": "cached"})] == 80
    assert found[series("junctor_tokens_total", {**LABELS, "gen_ai_token_type": "reasoning"})] == 10
    good = {"route": "plain", "provider": "default/p", "verdict": "complete", "status": "200"}
    assert found[series("junctor_requests_total", good)] == 2
    assert found[series("junctor_attempts_total", {"provider": "default/p", "result": "ok"})] == 2
    assert found["junctor_own_seconds_sum"] == pytest.approx(0.004)
    assert not [name for name in found if "time_to_first" in name or "per_output" in name]


def test_a_streams_pace_is_counted_of_whole_streams_only() -> None:
    stream = {"streams": True, "first_byte_seconds": 0.2, "total_seconds": 1.2, "upstream_seconds": 1.2}
    found = counted(ended(**stream), ended(**stream, verdict="truncated", source="provider"))
    assert found[series("gen_ai_server_time_to_first_token_seconds_count", LABELS)] == 1
    assert found[series("gen_ai_server_time_per_output_token_seconds_sum", LABELS)] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"status": 429, "source": "provider"}, "429"),
        ({"verdict": "truncated", "source": "provider", "error": errors.StreamBroken("x")}, "truncated"),
        ({"verdict": "cancelled", "source": "caller"}, "cancelled"),
        ({"verdict": "failed", "status": 0, "source": "gateway", "error": errors.Overloaded("x")}, "overloaded"),
        ({"verdict": "failed", "status": 0, "source": "caller", "error": errors.NoRoute("x")}, "no_route"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_went_wrong_is_the_error_type(fields: dict[str, Any], error: str) -> None:
    found = counted(ended(**fields))
    assert found[series("gen_ai_server_request_duration_seconds_count", {**LABELS, "error_type": error})] == 1
    (line,) = (name for name in found if name.startswith("junctor_requests_total"))
    assert f'error_source="{fields["source"]}"' in line


def test_each_failed_attempt_is_counted_at_its_provider() -> None:
    tries = (Attempt("default/a", 0, "connect", 1.0), Attempt("default/b", 503, "status", 2.0))
    found = counted(ended(attempts=(*tries, Attempt("default/p", 200, "", 3.0))))
    assert {name: value for name, value in found.items() if "attempts" in name} == {
        series("junctor_attempts_total", {"provider": provider, "result": result}): 1
        for provider, result in (("default/a", "connect"), ("default/b", "status"), ("default/p", "ok"))
    }


def test_waiting_and_connecting_are_counted_where_they_happened() -> None:
    found = counted(ended(), ended(queue_seconds=0.5, connect_seconds=0.02))
    assert found[series("junctor_queue_wait_seconds_sum", {"provider": "default/p"})] == 0.5
    assert found[series("junctor_connect_seconds_count", {"provider": "default/p"})] == 1


def test_beyond_the_cap_everything_is_other_and_nothing_is_lost() -> None:
    many = [ended(provider=f"default/p{n}", attempts=(Attempt(f"default/p{n}", 0, "reset", 1.0),)) for n in range(50)]
    found = counted(*many, most=10, known=lambda: {f"default/p{n}" for n in range(50)})
    requests = {name: value for name, value in found.items() if name.startswith("junctor_requests_total")}
    assert len(requests) == 11
    assert sum(requests.values()) == 50
    assert sum(value for name, value in requests.items() if f'provider="{OTHER}"' in name) == 40
    tries = {name: value for name, value in found.items() if name.startswith("junctor_attempts_total")}
    assert len(tries) == 11
    assert sum(tries.values()) == 50


def test_histograms_are_fewer_and_lose_nothing_either() -> None:
    providers = [f"default/p{n}" for n in range(MOST_SERIES + 50)]
    found = counted(*[ended(provider=name) for name in providers], known=lambda: providers)
    durations = {name: value for name, value in found.items() if "request_duration_seconds_count" in name}
    assert len(durations) == MOST_SERIES + 1
    assert sum(durations.values()) == len(providers)
    assert len([name for name in found if name.startswith("junctor_requests_total")]) == len(providers)


def test_providers_that_are_gone_make_room() -> None:
    many = [ended(provider=f"default/p{n}") for n in range(50)]
    found = counted(*many, most=10, known=lambda: {"default/p49"})
    assert [name for name in found if name.startswith("junctor_requests_total") and "p49" in name]
    assert not [name for name in found if f'provider="{OTHER}"' in name]


def test_no_callers_text_is_a_label() -> None:
    strange = 'x"\n{}' * 3
    failed = ended(
        path=strange.encode(), provider="", virtual_model="", upstream_model="", status=0, source="caller",
        verdict="failed", error=errors.NoRoute(f"No virtual model {strange}"), attempts=(), usage=None,
    )  # fmt: skip
    failed.call.name = failed.call.workspace = failed.call.request_id = failed.call.session = strange
    metrics = InferenceMetrics()
    metrics(failed)
    assert "x" not in {part for line in render(metrics.families()).splitlines() for part in line.split('"')[1::2]}
    assert strange[:1] + '\\"' not in render(metrics.families())


@pytest.mark.parametrize(
    ("bounds", "first", "last", "count"),
    [
        (SECONDS, 0.01, 81.92, 14),
        (FIRST_TOKEN, 0.001, 10.0, 16),
        (OUTPUT_TOKEN, 0.01, 2.5, 13),
        (TOKENS, 1, 67108864, 14),
    ],
    ids=["duration", "first token", "per token", "tokens"],
)
def test_boundaries_are_those_of_the_conventions(
    bounds: tuple[float, ...], first: float, last: float, count: int
) -> None:
    assert (bounds[0], bounds[-1], len(bounds)) == (first, last, count)
    assert list(bounds) == sorted(set(bounds))


def test_a_buckets_upper_end_belongs_to_it() -> None:
    histogram = Histogram(TOKENS)
    for tokens in (0, 1, 2, 4, 5, 10**9):
        histogram.observe(tokens)
    lines = {sample.upper: sample.value for sample in histogram.samples({}) if sample.suffix == "_bucket"}
    assert (lines["1"], lines["4"], lines["16"], lines["67108864"], lines["+Inf"]) == (2, 4, 5, 5, 6)
    assert histogram.count == 6
