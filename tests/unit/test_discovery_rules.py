"""Which models are served under which names, and what a failure means."""

import json

import pytest

from junctor.v1 import model_registry_pb2 as models_pb
from junctor.v1 import provider_registry_pb2 as pb
from services.provider_registry.discovery_rules import (
    backend_format,
    entity_name,
    listed_ids,
    retry_seconds,
    serve,
    status_after_failure,
)
from services.provider_registry.validation import MODELS_LIMIT

LONG = "a" * 53 + "/" + "b" * 20


@pytest.mark.parametrize(
    ("upstream_id", "name"),
    [
        ("gpt-4o", "gpt-4o"),
        ("meta/llama-3.2-1b-instruct", "meta-llama-3-2-1b-instruct"),
        ("01-ai/yi-large", "m-01-ai-yi-large"),
        ("Weird__Model:v1.0@x", "weird-model-v1-0-x"),
        ("default/gpt-4o", "gpt-4o"),
        ("other/gpt-4o", "other-gpt-4o"),
        ("--x1--", "x1"),
        (LONG, "a" * 53 + "-44f88cf3"),
        ("default/" + LONG, "a" * 53 + "-44f88cf3"),
        ("x" * 63, "x" * 63),
        ("模型", None),
        ("///", None),
        ("x", None),
        ("", None),
    ],
)
def test_an_upstream_id_becomes_the_entity_name_of_the_contract(upstream_id, name):
    assert entity_name(upstream_id, "default") == name


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        pytest.param(b'{"data": [{"id": "a"}, {"id": "b", "x": 1}]}', ["a", "b"], id="a list"),
        pytest.param(b'{"data": []}', [], id="an empty list"),
        pytest.param(b'{"data": [1, "a", null, {"id": 3}, {}, {"id": ""}, {"id": "a"}]}', ["a"], id="odd entries"),
        pytest.param(b'{"data": [{"id": "\\ud800"}, {"id": "a\\u0000"}, {"id": "a"}]}', ["a"], id="unstorable ids"),
        pytest.param(json.dumps({"data": [{"id": "x" * 513}]}).encode(), [], id="a huge id"),
        pytest.param(b'{"data": {}}', None, id="data is no list"),
        pytest.param(b"[]", None, id="no object"),
        pytest.param(b"<html>", None, id="not JSON"),
        pytest.param(b"\xff\xfe\xfa", None, id="not text"),
        pytest.param(b"[" * 100_000, None, id="nested too deep"),
    ],
)
def test_only_string_ids_of_a_data_list_count(body, ids):
    assert listed_ids(body) == ids


def test_all_models_are_served_in_upstream_order_when_none_are_chosen():
    assert serve(["b/2", "a/1"], workspace="default", enabled=None).models == (("b-2", "b/2"), ("a-1", "a/1"))


@pytest.mark.parametrize(
    ("enabled", "served"),
    [([], ()), (["A/1"], ()), (["a/1"], (("a-1", "a/1"),)), (["a-1"], ()), (["nope"], ())],
    ids=["none", "another case", "exact", "the entity name", "unknown"],
)
def test_enabled_models_are_exact_upstream_ids(enabled, served):
    assert serve(["a/1", "b/2"], workspace="default", enabled=enabled).models == served


def test_the_first_of_two_ids_with_one_name_is_served_and_the_second_is_named():
    result = serve(["a/1", "a.1", "a/1", "c1"], workspace="default", enabled=None)
    assert result.models == (("a-1", "a/1"), ("c1", "c1"))
    assert result.message == "'a.1' is not served: 'a/1' has the same name a-1"


def test_many_collisions_are_counted():
    result = serve([f"a{sign}1" for sign in "./:@#$%&"], workspace="default", enabled=None)
    assert result.message.count("is not served:") == 5
    assert result.message.endswith("2 more are not served for the same reason")


def test_a_list_beyond_the_limit_is_cut_and_says_so():
    result = serve((f"m{number}" for number in range(MODELS_LIMIT + 2)), workspace="default", enabled=None)
    assert len(result.models) == MODELS_LIMIT
    assert result.message == "2 models beyond the first 5000 are not served"


@pytest.mark.parametrize("upstream_id", ["claude-3", "anthropic.claude", "anthropic/claude"])
def test_models_of_anthropic_speak_messages(upstream_id):
    assert backend_format(upstream_id) == models_pb.BACKEND_FORMAT_ANTHROPIC_MESSAGES


@pytest.mark.parametrize("upstream_id", ["gpt-4o", "my-claude-3", "anthropic-x"])
def test_other_models_speak_chat(upstream_id):
    assert backend_format(upstream_id) == models_pb.BACKEND_FORMAT_OPENAI_CHAT


CREATED, READY = pb.PROVIDER_STATUS_CREATED, pb.PROVIDER_STATUS_READY
ERROR, LOST = pb.PROVIDER_STATUS_ERROR, pb.PROVIDER_STATUS_LOST


@pytest.mark.parametrize(
    ("before", "failing", "age", "after"),
    [
        (CREATED, 30, 30, CREATED),
        (CREATED, 30.1, 30.1, ERROR),
        (ERROR, 31, 900, ERROR),
        (ERROR, 31, 901, LOST),
        (ERROR, 5, 5000, ERROR),
        (CREATED, 5, 5000, CREATED),
        (LOST, 31, 5000, LOST),
        (LOST, 1, 5000, LOST),
        (READY, 5000, 5000, READY),
    ],
)
def test_a_failure_worsens_a_status_only_by_the_rules(before, failing, age, after):
    assert status_after_failure(before, failing_seconds=failing, age_seconds=age) == after


def test_retries_begin_after_two_seconds_and_never_wait_more_than_ten():
    waits = [retry_seconds(failures) for failures in range(1, 100)]
    assert waits[0] == 2.0
    assert waits == sorted(waits)
    assert waits[-1] == 10.0
