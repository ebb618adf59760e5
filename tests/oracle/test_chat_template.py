"""Rendered chat templates against jinja2, set up the way transformers does."""

import jinja2
import pytest
import real_templates
from chat_templates import CHATML, FAMILIES, message_lists
from gguf_vocabulary import read_vocabulary
from real_templates import MARK
from reference_chat import as_transformers_takes_it, reference_template, reference_text
from tokenize_tool import MODEL, TokenizeTool, ToolError

BOS = "<bos>"
EOS = "</eos>"
NUM_CONVERSATIONS = 400  # of each template of the families that are served
NUM_OF_OTHERS = 12


@pytest.fixture(scope="module")
def tool():
    tool = TokenizeTool()
    yield tool
    tool.close()


def render(tool, source, conversation):
    return tool.ask("render", template=source, bos_token=BOS, eos_token=EOS, **conversation)["pieces"]


def expect_same(tool, source, conversation):
    """Same text, or a refusal by both. What the conversation brought is marked as such."""
    try:
        expected = reference_text(source, conversation, BOS, EOS)
    except Exception as error:
        with pytest.raises(ToolError) as refusal:
            render(tool, source, conversation)
        if type(error) is jinja2.exceptions.TemplateError:
            assert str(error) in str(refusal.value)
        return None
    pieces = render(tool, source, conversation)
    assert "".join(piece["text"] for piece in pieces) == expected
    assert not any(MARK in piece["text"].lower() for piece in pieces if not piece["from_message"])
    return pieces


def chat(messages, add_generation_prompt=True):
    return {"messages": messages, "add_generation_prompt": add_generation_prompt}


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("name", ["model", *FAMILIES])
def test_families(tool, name, add_generation_prompt):
    source = read_vocabulary(MODEL)["chat_template"] if name == "model" else FAMILIES[name]
    rendered = [expect_same(tool, source, chat(messages, add_generation_prompt)) for messages in message_lists()]
    assert sum(pieces is not None for pieces in rendered) > len(rendered) // 4


def test_whole_contents_are_marked(tool):
    """What is marked is the messages' text, all of it and nothing else."""
    for messages in message_lists():
        pieces = expect_same(tool, CHATML, chat(messages))
        marked = [piece["text"] for piece in pieces if piece["from_message"]]
        assert marked == [text for message in messages if (text := message["content"].strip())]


@pytest.mark.parametrize("family", real_templates.FAMILIES)
def test_real_templates(tool, family):
    name, shows_tools = real_templates.FAMILIES[family]
    source = real_templates.read_template(name)
    conversations = real_templates.conversations(NUM_CONVERSATIONS)
    rendered = [expect_same(tool, source, conversation) for conversation in conversations]
    assert sum(pieces is not None for pieces in rendered) > NUM_CONVERSATIONS // 20
    shown = [
        conversation["tools"][0]["function"]["name"] in "".join(piece["text"] for piece in pieces)
        for conversation, pieces in zip(conversations, rendered, strict=True)
        if pieces is not None and conversation["tools"]
    ]
    assert any(shown) == shows_tools
    assert tool.ask("parse", template=source)["tools"] == shows_tools


# Templates of other models that are not rendered as transformers does, and why.
DIFFERENT = {
    **dict.fromkeys(
        [
            "IQuestLab-IQuest-Coder-V1-40B-Loop-Thinking", "IQuestLab-IQuest-Coder-V1-7B-Base", "deepseek-ai-DeepSeek-V3.2",
            "deepseek-ai-DeepSeek-V4", "microsoft-FrogBoss-32B-2510", "microsoft-FrogMini-14B-2510",
            "stepfun-ai-Step-3.5-Flash-Base-Midtrain", "stepfun-ai-Step-3.7-Flash", "unsloth-DeepSeek-V4-Flash",
        ],
        "the filters fromjson and from_json, which transformers does not have either; it fails when they are reached",
    ),
    "ai-sage-GigaChat3.1-Audio-10B-A1.8B": "dict.from_keys: Python reads it as the type dict['from_keys']",
    "ai21labs-Jamba-tiny-dev": "arguments by **",
    "baseten-Llama-3.2-3B-Instruct-pythonic": "the filter format",
    "llama-cpp-deepseek-r1": "a generator as JSON, which Python refuses",
    **dict.fromkeys(["SvalTek-Q3-CharThink-9B-temp", "meetkai-functionary-medium-v3.1"], "safe: what is added to it is escaped"),
}  # fmt: skip


def test_other_real_templates(tool):
    conversations = real_templates.conversations(NUM_OF_OTHERS, seed=7)
    different = set()
    for name, source in real_templates.all_templates().items():
        try:
            for conversation in conversations:
                expect_same(tool, source, conversation)
        except (AssertionError, ToolError, pytest.fail.Exception):
            different.add(name)
    assert different == DIFFERENT.keys()


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
    "{{ {'b': 1, 'A': 2, 'a': 0}|dictsort }}{{ {'b': 1, 'a': 2}|dictsort(by='value', reverse=true) }}{{ {'B': 1, 'a': 2}|dictsort(true) }}",
    "{{ [3, 1, 2]|sort }}{{ ['b', 'A', 'a']|sort }}{{ ['b', 'A', 'a']|sort(case_sensitive=true, reverse=true) }}{{ messages|sort(attribute='content')|map(attribute='role')|list }}",
    "{{ [3, 1, 2]|min }}{{ ['b', 'A']|max }}{{ []|min }}|{{ [1, 'a']|sort }}", "{{ 2.5|round }}{{ 3.14159|round(2) }}{{ 2.1|round(method='ceil') }}{{ 7|round }}{{ 0.125|round(2) }}",
    "{{ {'b': 'é👩', 'a': [1]}|tojson(ensure_ascii=true, sort_keys=true, separators=(',', ':')) }}{{ '\x7f'|tojson(true) }}{{ [1, {'a': 2}]|tojson(indent=2, separators=(';', '=')) }}",
    "{{ '{} {1}'.format(1) }}", "{{ '<{}|{{}}{}>'.format('a', 2) }}{{ '{1}{0}{x}'.format('a', 'b', x='c') }}", "{{ '{}'.format() }}", "{{ '{'.format(1) }}", "{{ 'a}'.format(1) }}",
    "{{ 'abcabc'.index('c') }}{{ 'abcabc'.rfind('c') }}{{ 'äbcabc'.rindex('b') }}{{ 'abc'.rfind('x') }}", "{{ 'abc'.index('x') }}", "{{ [1, 2, 1].count(1) }}{{ [1, 2].index(2) }}", "{{ [1].index(2) }}",
    "{{ 'a.b.c'.rsplit('.', 1) }}{{ 'a.b'.rsplit('.', 5) }}{{ ' a b '.rsplit() }}{{ 'a.b'.rsplit('.', 0) }}", "{{ '12'.isdigit() }}{{ ''.isdigit() }}{{ '1a'.isdigit() }}",
    "{{ none|map('upper')|list }}{{ false|selectattr('a')|list }}{{ foo|reject|list }}", "{{ 5|map('upper')|list }}", "{{ dict({'a': 1}, b=2) }}", "{{ [].append(1) }}", "{{ {}.update({}) }}", "{{ {}.pop('a') }}",
    "{% raw %}{{ a }} {% if %}{# #}{% endraw %}b", "a\n  {% raw %}\n  x {{\n  {% endraw %}\n  b", "a  {%- raw -%}  x  {%- endraw -%}  b", "{% raw %}{% endraw %}{%raw%}%}{%endraw%}|", "{% raw %}{% endrawx %}{% endraw %}",
    "{% filter upper %}a{{ 'b' }}{% endfilter %}c", "{% filter trim|replace('a', 'x') %} aba {% endfilter %}", "{% filter indent(width=2) %}a\nb{% endfilter %}", "{% set x = 1 %}{% filter upper %}{% set x = 2 %}a{% endfilter %}{{ x }}",
    "{% macro m(a) %}<{{ caller() }}{{ a }}>{% endmacro %}{% call m(1) %}body{{ messages|length }}{% endcall %}", "{% macro m() %}{% for x in [1, 2] %}{{ caller(x) }}{% endfor %}{% endmacro %}{% call(y, z=3) m() %}[{{ y }}{{ z }}]{% endcall %}",
    "{% macro m() %}{{ 'yes' if caller else 'no' }}{% endmacro %}{{ m() }}{% call m() %}{% endcall %}", "{% call range(2) %}{% endcall %}",
    "{{ messages[1:]|length }}{{ messages[:-1]|length }}{{ messages[-1].role }}{{ messages[5:] }}", "{{ ''.join([]) }}|{{ [] }}{{ {} }}", "{{ 'x' ~ none ~ foo ~ [1] }}",
]  # fmt: skip
MESSAGES = [{"role": "user", "content": " Hi there "}, {"role": "assistant", "content": "Yes?\n"}]


@pytest.mark.parametrize("source", SNIPPETS)
def test_language(tool, source):
    expect_same(tool, source, chat(MESSAGES))


BROKEN = [
    "{{", "{%", "{# x", "{{ 'a", "{% if x %}", "{% endif %}", "{% for %}", "{% for x in %}{% endfor %}", "{{ 1 + }}", "{{ (1 }}", "{{ 1) }}", "{{ [1, }}", "{{ {1: } }}",
    "{{ a b }}", "{{ a | }}", "{{ a | nosuchfilter }}", "{{ a is nosuchtest }}", "{% nosuchtag %}", "{{ 1 if }}", "{% set %}", "{% set 1 = 2 %}", "{{ a.'b' }}",
    "{% if x %}{% else %}{% elif y %}{% endif %}", "{% macro %}{% endmacro %}", "{{ x[ }}", "{{ ! }}", "{{ a = 1 }}", "{% for x in y %}{% endif %}", "{% set true = 1 %}",
    "{% raw %}x", "{% raw %}{% endra %}", "{% filter %}{% endfilter %}", "{% filter nosuch %}{% endfilter %}", "{% filter upper %}", "{% call %}{% endcall %}", "{% call 1 %}{% endcall %}", "{% call(1) m() %}{% endcall %}",
]  # fmt: skip


@pytest.mark.parametrize("source", BROKEN)
def test_broken_templates_are_refused_with_their_line(tool, source):
    with pytest.raises(jinja2.exceptions.TemplateSyntaxError):
        reference_template("\n\n" + source)
    with pytest.raises(ToolError, match="line 3"):
        render(tool, "\n\n" + source, chat(MESSAGES))


@pytest.mark.parametrize("family", real_templates.FAMILIES)
def test_reference_is_that_of_transformers(family):
    """The jinja2 set up here against the installed transformers, where one is installed."""
    utils = pytest.importorskip("transformers.utils.chat_template_utils", reason="transformers is not installed", exc_type=ImportError)
    source = real_templates.read_template(real_templates.FAMILIES[family][0])
    for conversation in real_templates.conversations(100, seed=3):
        kwargs = dict(conversation["template_kwargs"])
        try:
            expected = utils.render_jinja_template(
                conversations=[as_transformers_takes_it(conversation["messages"])],
                tools=conversation["tools"] or None,
                documents=kwargs.pop("documents", None),
                chat_template=source,
                add_generation_prompt=conversation["add_generation_prompt"],
                bos_token=BOS,
                eos_token=EOS,
                **kwargs,
            )[0][0]
        except Exception:
            with pytest.raises(Exception):  # noqa: B017, PT011
                reference_text(source, conversation, BOS, EOS)
            continue
        assert reference_text(source, conversation, BOS, EOS) == expected
