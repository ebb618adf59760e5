"""Rendered chat templates against jinja2, set up the way transformers does."""

import json

import jinja2
import jinja2.ext
import pytest
from chat_templates import CHATML, FAMILIES, message_lists
from gguf_vocabulary import read_vocabulary
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenize_tool import MODEL, TokenizeTool, ToolError

BOS = "<bos>"
EOS = "</eos>"


def _raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def reference_template(source):
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment.from_string(source)


@pytest.fixture(scope="module")
def tool():
    tool = TokenizeTool()
    yield tool
    tool.close()


def render(tool, source, messages, add_generation_prompt):
    return tool.ask(
        "render",
        template=source,
        messages=messages,
        bos_token=BOS,
        eos_token=EOS,
        add_generation_prompt=add_generation_prompt,
    )["pieces"]


def expect_same(tool, source, messages, add_generation_prompt=True):
    """Same text, or a refusal by both."""
    variables = {"messages": messages, "add_generation_prompt": add_generation_prompt}
    variables |= {"bos_token": BOS, "eos_token": EOS, "tools": None, "documents": None}
    try:
        expected = reference_template(source).render(variables)
    except (jinja2.exceptions.TemplateError, TypeError, ZeroDivisionError) as error:
        with pytest.raises(ToolError) as refusal:
            render(tool, source, messages, add_generation_prompt)
        if type(error) is jinja2.exceptions.TemplateError:
            assert str(error) in str(refusal.value)
        return None
    pieces = render(tool, source, messages, add_generation_prompt)
    assert "".join(piece["text"] for piece in pieces) == expected
    return pieces


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("name", ["model", *FAMILIES])
def test_families(tool, name, add_generation_prompt):
    source = read_vocabulary(MODEL)["chat_template"] if name == "model" else FAMILIES[name]
    rendered = [expect_same(tool, source, messages, add_generation_prompt) for messages in message_lists()]
    assert sum(pieces is not None for pieces in rendered) > len(rendered) // 4


def test_whole_contents_are_marked(tool):
    """What is marked is the messages' text, all of it and nothing else."""
    for messages in message_lists():
        pieces = expect_same(tool, CHATML, messages)
        marked = [piece["text"] for piece in pieces if piece["from_message"]]
        assert marked == [text for message in messages if (text := message["content"].strip())]


SNIPPETS = [
    "{{ 'a' ~ 1 + 2 }}", "{{ 1 + 2 ~ 'a' }}", "{{ -2 ** 2 }}", "{{ 2 ** 3 ** 2 }}", "{{ not 1 == 2 }}", "{{ 1 if 0 }}|",
    "{{ -1 | abs }}", "{{ (1, 2) }} {{ 1, 2 }} {{ () }} {{ (1,) }}", "{{ [] or 'x' }} {{ 0 and y }}", "{{ 1 == 1.0 == true }}",
    "{{ 'x' if messages is defined and not foo is defined else 'y' }}", "{{ foo.bar }}", "{{ foo }}|", "{{ foo + 'a' }}", "{{ foo() }}",
    "{{ messages[0].nothing }}|{{ messages[0].nothing.more }}", "{{ 1 / 0 }}", "{{ 'a' + 1 }}", "{{ 'a' < 1 }}", "{{ {'a': 1}.a }}",
    "{{ 'abc'[5] }}|{{ 'abc'[-1] }}{{ 'abc'[0:-1] }}{{ 'abcdef'[4:1:-1] }}{{ 'abc'[:100] }}{{ 'abcdef'[::2] }}{{ [1,2,3][-100:2] }}",
    "{% for i in range(3) %}{{ i }}{% if not loop.last %},{% endif %}{% endfor %}", "{% for a in [] %}x{% else %}none{% endfor %}",
    "{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}", "{% set a, b = 1, 2 %}{{ b }}{{ a }}",
    "{% set ns = namespace(x=1, y='q') %}{% for i in [1, 2] %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns.z }}|",
    "{% for i in [1,2,3] if i != 2 %}{{ loop.index }}{{ i }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}",
    "{% for i in [1,2] %}{% for j in 'ab' %}{{ loop.depth }}{{ i }}{{ j }}{{ loop.cycle('x', 'y') }} {% endfor %}{% endfor %}",
    "{% macro f(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}|{% endmacro %}{{ f(1) }}{{ f(1, c=3) }}{{ f(b=5) }}", "{{ 'it\\'s' }} {{ \"\\n\" }}|",
    "a\n{% if true %}\nb\n{% endif %}\nc\n", "a\n  {% if true %}\n  b\n  {% endif %}\nc\n\n", "  {{ 1 }}\n  {{- 2 }}\n  {{ 3 -}}  \n 4",
    "a  {%- if true %}  b  {% endif -%}  c", "a\n   {#- comment -#}   \nb", "a\n {# comment #}\nb", "x {% if true +%}\ny{% endif %}", "\n  {%+ if true %}y{% endif %}",
    "\r\na\r\n{% if true %}\r\nb{% endif %}\r", "{{ {'a': {'b': 1}} }}", "{{ {'a': {'b': 1}}}}", "{{ 'a}}b' }}", "{{ '%}' }}", "} }} %} {", "{ {",
    "{{ 'aXbX'.replace('X', '-', 1) }}{{ 'ab'.replace('', '.') }}{{ 'aaa'|replace('a', 'b', 2) }}", "{{ ' a b '.split(' ') }}{{ ' a  b '.split() }}",
    "{{ 'a,b,c'.split(',', 1) }}{{ ' x y z '.split(none, 1) }}", "{{ 'xxaxx'.strip('x') }}{{ 'xxaxx'.lstrip('x') }}{{ 'xxaxx'.rstrip('x') }}|",
    "{{ \"they're bill's\".title() }} {{ \"they're bill's (x)\"|title }} {{ 'aBC dEF'|capitalize }}", "{{ 'ÀÉ ж'.lower() }}{{ 'àé ж'|upper }}",
    "{{ 'abc'|length }}{{ 'äö👩‍🚀'|length }}{{ {'a': 1}|length }}", "{{ [1, 'a', none]|string }}", "{{ ['\\n', '\\x01', \"'\", '\"', '\\'\"', 'é', '\\\\'] }}",
    "{{ '5'|int + 1 }}{{ 'x'|int }}{{ 'x'|int(7) }}{{ 3.9|int }}{{ '2.5'|float }}{{ ' 12 '|int }}", "{{ 1.0 }} {{ 1.5e300 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1e16 }} {{ 123456789.125 }}",
    "{{ 7 // -2 }} {{ 7 % -2 }} {{ -7.5 // 2 }} {{ -7.5 % 2 }} {{ 2 ** -1 }} {{ 10 % 3.5 }}", "{{ [3, 1] < [3, 2] }}{{ 'a' < 'b' }}{{ 1 < 2.5 }}{{ (1,) == [1] }}",
    "{{ {'b': 1, 'a': [1.5, none, 'é\\\"']}|tojson }}", "{{ {'b': [], 'a': [1, {}]}|tojson(indent=4) }}", "{{ []|first }}|{{ [1]|last }}{{ 'abc'|last }}",
    "{{ x|default('d') }}{{ none|default('d') }}{{ none|default('d', true) }}{{ ''|d('d', boolean=true) }}", "{{ [1, 2]|join }}{{ [1, 2]|join('-') }}{{ 'abc'|join(',') }}",
    "{{ messages|map(attribute='content')|join('/') }}", "{{ messages|map('length')|list }}", "{{ [1, 0, 2]|select|list }}{{ [1, 2, 3]|reject('odd')|list }}",
    "{{ [1, 2]|reverse|list }}{{ 'abc'|reverse }}", "{{ {'a': 1}.keys()|list }}{{ {'a': 1}.values()|list }}{{ {'a': 1}|items|list }}", "{{ 'a\nb\n'.splitlines() }}",
    "{{ 1 is number }}{{ 'a' is string }}{{ [] is sequence }}{{ {} is mapping }}{{ none is none }}{{ true is boolean }}{{ 1 is integer }}{{ 1.0 is float }}{{ foo is iterable }}",
    "{{ 2 is even }}{{ 2 is odd }}{{ 4 is divisibleby(2) }}{{ 1 is eq 1 }}{{ 1 is in [1, 2] }}{{ 1 is not in [1] }}{{ 'a' is lower }}", "{{ 'abc' is not none and true }}",
    "{{ 'a' 'b' }}{{ 1_000 }}{{ 'abc'.startswith(('x', 'a')) }}{{ 'abc'.endswith('c') }}{{ 'abcabc'.count('b') }}{{ 'abc'.find('c') }}", "{{ 'a'.join(['x', 'y']) }}",
    "{{ 'ab'.removeprefix('a') }}{{ 'ab'.removesuffix('b') }}{{ 'a.b'.split('.')[1] }}", "{{ messages[0]['role'] }}{{ messages[0].get('x') }}{{ messages[0].get('x', 1) }}",
    "{% set x %}a{{ 1 }}{% endset %}{{ x ~ x }}", "{% if false %}a{% elif 0 %}b{% elif 1 %}c{% else %}d{% endif %}", "{{ true and 'x' or 'y' }}{{ True }}{{ None }}",
    "{{ raise_exception('no ' ~ 'way') }}", "{{ range(3, 0, -1)|list }}{{ range(0)|list }}", "{{ dict(a=1, b='x') }}{{ 'x' in dict(x=1) }}", "{{ [1, 2][0] }}{{ [[1]][0][0] }}",
    "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}", "{% for x in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ x.role }}{% endfor %}",
    "{{ 'é'|tojson }}{{ '\\u2028<>&'|tojson }}", "{{ '\\q\\'' }}", "{{ 'a\\\nb' }}", "{{ 1 if true else 2 if true else 3 }}",
    "{{ messages[1:]|length }}{{ messages[:-1]|length }}{{ messages[-1].role }}{{ messages[5:] }}", "{{ ''.join([]) }}|{{ [] }}{{ {} }}", "{{ 'x' ~ none ~ foo ~ [1] }}",
]  # fmt: skip
MESSAGES = [{"role": "user", "content": " Hi there "}, {"role": "assistant", "content": "Yes?\n"}]


@pytest.mark.parametrize("source", SNIPPETS)
def test_language(tool, source):
    expect_same(tool, source, MESSAGES)


BROKEN = [
    "{{", "{%", "{# x", "{{ 'a", "{% if x %}", "{% endif %}", "{% for %}", "{% for x in %}{% endfor %}", "{{ 1 + }}", "{{ (1 }}", "{{ 1) }}", "{{ [1, }}", "{{ {1: } }}",
    "{{ a b }}", "{{ a | }}", "{{ a | nosuchfilter }}", "{{ a is nosuchtest }}", "{% nosuchtag %}", "{{ 1 if }}", "{% set %}", "{% set 1 = 2 %}", "{{ a.'b' }}",
    "{% if x %}{% else %}{% elif y %}{% endif %}", "{% macro %}{% endmacro %}", "{{ x[ }}", "{{ ! }}", "{{ a = 1 }}", "{% for x in y %}{% endif %}", "{% set true = 1 %}",
]  # fmt: skip


@pytest.mark.parametrize("source", BROKEN)
def test_broken_templates_are_refused_with_their_line(tool, source):
    with pytest.raises(jinja2.exceptions.TemplateSyntaxError):
        reference_template("\n\n" + source)
    with pytest.raises(ToolError, match="line 3"):
        render(tool, "\n\n" + source, MESSAGES, True)
