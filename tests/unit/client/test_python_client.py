"""The Python client's requests, without a server. Needs the build's stubs and client/python on PYTHONPATH."""

import pytest
from kvcrush.v1 import inference_pb2 as pb
from kvcrush_client import build_chat, build_request, build_score_request


def test_prompt_sampling_and_compression_arrive():
    request = build_request("hi", request_id="r", max_tokens=3, stop=["a", "b"], seed=None,
                            compression={"policy": "h2o", "kv_dtype": "int4", "preset": "paper", "value_norm": False,
                                         "pool_shape": "gaussian", "layer_weight": 0.5})
    assert (request.text, request.request_id, request.sampling.max_tokens) == ("hi", "r", 3)
    assert list(request.sampling.stop) == ["a", "b"] and not request.sampling.HasField("seed")
    c = request.compression
    assert (c.policy, c.kv_dtype, c.preset) == (pb.BASE_POLICY_H2O, pb.KV_DTYPE_INT4, pb.PRESET_PAPER)
    assert c.HasField("value_norm") and not c.value_norm
    assert (c.pool_shape, c.layer_weight) == (pb.POOL_SHAPE_GAUSSIAN, 0.5) and not c.HasField("observed_queries")
    assert not build_request("hi").HasField("compression")
    assert build_request("hi", compression={}).HasField("compression")


def test_variants_are_one_compression_each():
    request = build_request([1, 2], variants=[{"policy": "off"}, {}, {"target_compression": 8}])
    assert list(request.token_ids.ids) == [1, 2] and not request.HasField("compression")
    assert [v.policy for v in request.variants] == [pb.BASE_POLICY_OFF, 0, 0]
    assert request.variants[2].target_compression == 8


def test_speculation_arrives():
    assert build_request("hi", speculation={"lookup_tokens": 16}).speculation.lookup_tokens == 16
    assert not build_request("hi").HasField("speculation")
    with pytest.raises(ValueError, match="Speculation has no field 'tokens'"):
        build_request("hi", speculation={"tokens": 1})


def test_score_request():
    request = build_score_request([{"role": "user", "content": "hi"}], "answer", variants=[{"kv_dtype": "f16"}])
    assert request.chat.messages[0].content == "hi" and request.continuation_text == "answer"
    assert request.variants[0].kv_dtype == pb.KV_DTYPE_F16 and not request.HasField("compare_to_full")
    ids = build_score_request("hi", [5, 6], compare_to_full=False, request_id="s")
    assert list(ids.continuation_token_ids.ids) == [5, 6] and ids.HasField("compare_to_full")
    assert ids.request_id == "s" and not ids.variants


@pytest.mark.parametrize("field, value", [("policy", "magic"), ("kv_dtype", "int2"), ("nothing", 1)])
def test_unknown_names_are_told(field, value):
    with pytest.raises(ValueError, match=field):
        build_score_request("a", "bc", variants=[{field: value}])


TOOL = {"type": "function", "function": {"name": "weather", "description": "\u00e4"}}


def test_chat_takes_messages_as_other_servers_do():
    chat = build_chat([
        {"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "tools": ["x"]},
        {"role": "assistant", "content": None, "reasoning_content": "hm",
         "tool_calls": [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"b": 1, "a": "\u00e4"}}},
                        {"id": "2", "function": {"name": "wait", "arguments": '{"c": 2}'}}, {"name": "go"}]},
        {"role": "tool", "content": "5", "tool_call_id": "1", "name": "weather"},
    ], tools=[TOOL, '{"raw": 1}'], template_kwargs={"enable_thinking": False}, add_generation_prompt=False)
    system, call, result = chat.messages
    assert [part.text for part in system.content_parts] == ["a", "b"] and system.extra_fields == '{"tools": ["x"]}'
    assert (call.content, call.reasoning_content, call.extra_fields) == ("", "hm", "")
    assert [(c.id, c.name, c.arguments) for c in call.tool_calls] == [
        ("1", "weather", '{"b": 1, "a": "\u00e4"}'), ("2", "wait", '{"c": 2}'), ("", "go", "{}")]
    assert (result.content, result.tool_call_id, result.name) == ("5", "1", "weather")
    assert list(chat.tools) == ['{"type": "function", "function": {"name": "weather", "description": "\u00e4"}}', '{"raw": 1}']
    assert chat.template_kwargs == '{"enable_thinking": false}'
    assert chat.HasField("add_generation_prompt") and not chat.add_generation_prompt
    assert build_chat([{"role": "user", "content": "hi"}]) == pb.ChatMessages(messages=[pb.ChatMessage(role="user", content="hi")])


def test_chat_settings_reach_every_request():
    messages = [{"role": "user", "content": "hi"}]
    assert build_request(messages, chat={"tools": [TOOL]}).chat.tools
    assert build_score_request(messages, "x", chat={"template_kwargs": {"a": 1}}).chat.template_kwargs == '{"a": 1}'
    with pytest.raises(ValueError, match="not a list of messages"):
        build_request("hi", chat={"tools": [TOOL]})
    with pytest.raises(ValueError, match="type 'text'"):
        build_chat([{"role": "user", "content": [{"type": "image"}]}])
