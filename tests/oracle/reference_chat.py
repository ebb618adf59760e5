"""jinja2, set up as transformers sets it up for chat templates."""

import datetime
import functools
import json

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _Generation(jinja2.ext.Extension):
    """{% generation %}: marks what the assistant wrote; its body is rendered as it stands."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def _raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _strftime_now(form):
    return datetime.datetime.now().strftime(form)


@functools.lru_cache(maxsize=None)
def reference_template(source):
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def as_transformers_takes_it(messages):
    return [
        {key: value for key, value in message.items() if key != "extra_fields"}
        | message.get("extra_fields", {})
        for message in messages
    ]


def reference_text(source, conversation, bos, eos):
    """What transformers makes of a conversation; raises where it refuses."""
    return reference_template(source).render(
        messages=as_transformers_takes_it(conversation["messages"]),
        tools=conversation.get("tools") or None,
        documents=conversation.get("template_kwargs", {}).get("documents"),
        add_generation_prompt=conversation.get("add_generation_prompt", True),
        bos_token=bos,
        eos_token=eos,
        **{key: value for key, value in conversation.get("template_kwargs", {}).items() if key != "documents"},
    )
