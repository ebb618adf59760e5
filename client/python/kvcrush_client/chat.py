"""Conversations in the form that other servers' APIs take them, as messages of this one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kvcrush.v1 import inference_pb2 as pb

_TEXTS = ("tool_call_id", "name", "reasoning_content")


def _json(value: Any) -> str:
    """The JSON text of an object; a string is taken for one already."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _tool_call(call: Mapping[str, Any]) -> pb.ToolCall:
    function = call.get("function", call)
    return pb.ToolCall(id=call.get("id"), name=function["name"], arguments=_json(function.get("arguments") or {}))


def _part(part: Mapping[str, Any]) -> pb.ContentPart:
    if part.get("type") != "text":
        raise ValueError(f"a part of a message's content is {dict(part)!r}, allowed: type 'text'")
    return pb.ContentPart(text=part["text"])


def _message(message: Mapping[str, Any]) -> pb.ChatMessage:
    rest = dict(message)
    wire = pb.ChatMessage(role=rest.pop("role"), **{key: rest.pop(key) for key in _TEXTS if key in rest})
    content = rest.pop("content", None)
    if isinstance(content, str):
        wire.content = content
    elif content is not None:
        wire.content_parts.extend(map(_part, content))
    wire.tool_calls.extend(map(_tool_call, rest.pop("tool_calls", None) or ()))
    if rest:
        wire.extra_fields = _json(rest)
    return wire


def build_chat(
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any] | str] | None = None,
    template_kwargs: Mapping[str, Any] | str | None = None,
    add_generation_prompt: bool | None = None,
) -> pb.ChatMessages:
    """ChatMessages from messages as other servers take them.

    `content` is a string, None or a list of {"type": "text", "text": ...}, `tool_calls` a list of {"id": ..., "function":
    {"name": ..., "arguments": {...}}}, arguments being an object or its JSON text. Keys that ChatMessage has no field for
    become its `extra_fields`. `tools` are JSON schemas of functions, `template_kwargs` variables of the chat template.
    """
    return pb.ChatMessages(
        messages=map(_message, messages),
        tools=map(_json, tools or ()),
        template_kwargs=None if template_kwargs is None else _json(template_kwargs),
        add_generation_prompt=add_generation_prompt,
    )
