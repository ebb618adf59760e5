"""Tools and the template's variables in a chat, with the template that a tool-aware model family publishes."""

import json
import subprocess
import sys

import grpc
import pytest

import harness
from harness import generate, pb

sys.path.insert(0, str(harness.ROOT / "tests" / "oracle"))
import real_templates  # noqa: E402
from reference_chat import reference_text  # noqa: E402

TEMPLATE = real_templates.FOLDER / "Qwen-Qwen3-0.6B@a55ee1.jinja"  # its special tokens are SmolLM2's too
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "Looks it up. <|im_end|>", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
    for name in ("weather_now", "find_ferry")
]  # fmt: skip
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How warm is it in Oslo?"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "weather_now", "arguments": {"city": "Oslo", "days": 1.0}}}]},
    {"role": "tool", "content": "{\"celsius\": -3}", "tool_call_id": "1", "name": "weather_now"},
    {"role": "user", "content": "And tomorrow?"},
]  # fmt: skip


@pytest.fixture(scope="module")
def tool_server():
    with harness.running_server("--kv-memory", str(256 << 20), "--chat-template", str(TEMPLATE)) as running:
        yield running


def expected(messages=MESSAGES, **chat):
    return reference_text(TEMPLATE.read_text(), {"messages": messages} | chat, "<|im_start|>", "<|im_end|>")


@pytest.mark.parametrize("chat", [
    {}, {"tools": TOOLS}, {"tools": TOOLS, "add_generation_prompt": False},
    {"tools": TOOLS, "template_kwargs": {"enable_thinking": False}},
])  # fmt: skip
def test_prompt_is_what_transformers_makes(tool_server, chat):
    answer = tool_server.client.tokenize(MESSAGES, chat=chat)
    assert answer.rendered_prompt == expected(**chat)
    assert ("weather_now\", \"description" in answer.rendered_prompt) == ("tools" in chat)
    # What a tool spells is text, and what the template spells special: one end of turn for each message, at most.
    [end_of_turn] = tool_server.client.tokenize("<|im_end|>").token_ids
    assert list(answer.token_ids).count(end_of_turn) <= len(MESSAGES)


def test_generate_runs_on_that_prompt(tool_server):
    ids = list(tool_server.client.tokenize(MESSAGES, chat={"tools": TOOLS}).token_ids)
    from_chat = generate(tool_server, MESSAGES, max_tokens=16, chat={"tools": TOOLS})
    assert from_chat.text == generate(tool_server, ids, max_tokens=16).text
    assert from_chat.finish.usage.prompt_tokens == len(ids)


def refusal(server, chat) -> str:
    with pytest.raises(grpc.RpcError) as error:
        list(server.stub.Generate(pb.GenerateRequest(chat=chat)))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    return error.value.details()


def test_bad_json_is_named(tool_server):
    chat = harness.build_request(MESSAGES, chat={"tools": TOOLS}).chat
    chat.tools[1] = "{\"type\": function}"
    assert refusal(tool_server, chat) == "chat.tools[1] stops being JSON at byte 10, allowed: a JSON object"
    assert "function}" not in tool_server.log()
    chat.tools[1] = "7"
    assert refusal(tool_server, chat) == "chat.tools[1] is an integer, allowed: a JSON object"
    chat.tools[1] = "{}"
    chat.messages[2].tool_calls[0].arguments = "{"
    assert refusal(tool_server, chat).startswith("chat.messages[2].tool_calls[0].arguments stops being JSON at byte 1")


def test_model_info_tells_what_the_template_takes(server, tool_server):
    own, other = server.client.model_info(), tool_server.client.model_info()
    assert (own.chat_takes_system, own.chat_takes_tools) == (True, False)
    assert (other.chat_takes_system, other.chat_takes_tools) == (True, True)
    assert other.chat_template == TEMPLATE.read_text() != own.chat_template


def test_tools_are_refused_where_the_template_ignores_them(server):
    chat = harness.build_request(MESSAGES, chat={"tools": TOOLS}).chat
    assert refusal(server, chat).startswith("chat.tools has 2 entries, allowed: none")


def test_command_line(tool_server, tmp_path):
    tools, messages = tmp_path / "tools.json", tmp_path / "messages.json"
    tools.write_text(json.dumps(TOOLS))
    messages.write_text(json.dumps(MESSAGES))
    command = [str(harness.CLI), "tokenize", "--server", tool_server.target, "--tools", str(tools), "--messages", str(messages),
               "--template-kwargs", '{"enable_thinking": false}']
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    ids = [int(line.split("\t")[0]) for line in done.stdout.splitlines()]
    chat = {"tools": TOOLS, "template_kwargs": {"enable_thinking": False}}
    assert ids == list(tool_server.client.tokenize(MESSAGES, chat=chat).token_ids)


def start_and_fail(*options: str) -> str:
    done = subprocess.run(harness.server_command(harness.MODEL, *options), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    return done.stderr


def test_template_that_is_not_understood(tmp_path):
    path = tmp_path / "bad.jinja"
    path.write_text("{{ bos_token }}\n{% for m in messages %}\n{{ m.content|shout }}{% endfor %}")
    error = start_and_fail("--chat-template", str(path))
    assert str(path) in error and "line 3: unknown filter" in error and "shout" in error
    assert "reading model file" not in error
    assert "--chat-template" in start_and_fail("--chat-template", str(tmp_path / "nothing.jinja"))
