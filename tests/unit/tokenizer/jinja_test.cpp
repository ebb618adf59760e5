// The template language, one rule at a time. The comparison with the original is
// tests/oracle/test_chat_template.py.
#include <gtest/gtest.h>

#include "engine/tokenizer/chat_template.h"
#include "tests/unit/tokenizer/render_chat.h"

namespace kvcrush {
namespace {

struct Case {
  std::string_view source;
  std::string_view expected;
};

class Jinja : public testing::TestWithParam<Case> {};

TEST_P(Jinja, Renders) {
  const auto chat_template = ChatTemplate::parse(GetParam().source);
  ASSERT_TRUE(chat_template.ok()) << chat_template.status().message();
  const auto pieces =
      test::render_chat(**chat_template, {{{"user", "Hi there"}, {"assistant", "Yes"}}}, {"<s>", "</s>"});
  ASSERT_TRUE(pieces.ok()) << pieces.status().message();
  std::string text;
  for (const PromptPiece& piece : *pieces) text += piece.text;
  EXPECT_EQ(text, GetParam().expected) << GetParam().source;
}

constexpr Case kWhitespace[] = {
    {"a\n{% if true %}\nb\n{% endif %}\nc\n", "a\nb\nc"},
    {"a\n   {% if true %}  b{% endif %}", "a\n  b"},
    {"a\n   {%+ if true %}b{% endif %}", "a\n   b"},
    {"a{% if true +%}\nb{% endif %}", "a\nb"},
    {"a  {%- if true -%}  b  {%- endif %}  c", "ab  c"},
    {"a \n {{- 1 -}} \n b", "a1b"},
    {"  {{ 1 }}\n{{ 2 }}\n", "  1\n2"},
    {"a\n  {# note #}\nb {#- x -#} c", "a\nbc"},
    {"a\r\nb\rc", "a\nb\nc"},
    {"} }} %} { {", "} }} %} { {"},
};

constexpr Case kExpressions[] = {
    {"{{ 1 + 2 * 3 - 4 // 3 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 3 ** 2 }}", "6 -4 2 3.5 64"},
    {"{{ 2 * 3 ~ 1 }} {{ 'a' ~ none ~ true ~ 1.0 }}", "61 aNoneTrue1.0"},
    {"{{ 1 < 2 <= 2 != 3 }} {{ 'a' in 'cat' }} {{ 1 not in [1] }} {{ 1 == 1.0 == true }}",
     "True True False True"},
    {"{{ [] or 'x' }} {{ 0 and y }} {{ not none }} {{ 'a' if 0 else 'b' }}|{{ 'a' if 0 }}", "x 0 True b|"},
    {"{{ 'abcdef'[1:4] }}{{ 'abc'[-1] }}{{ 'abc'[::-1] }}{{ [1, 2, 3][-2:] }}{{ 'abc'[9] }}",
     "bcdccba[2, 3]"},
    {"{{ {'a': {'b': [1, 2]}}.a['b'][1] }} {{ {'a': 1}.x }}|", "2 |"},
    {"{{ 0.1 + 0.2 }} {{ 1e22 }} {{ 1e-7 }} {{ 100.0 }} {{ 1e16 }} {{ 1.5e300 }}",
     "0.30000000000000004 1e+22 1e-07 100.0 1e+16 1.5e+300"},
    {R"({{ "\x41\u00e9\t|" 'joined' }} {{ '\q' }})", "A\u00E9\t|joined \\q"},
    {"{{ ['it\\'s', '\"', 'n\n', none, (1,)] }}", "[\"it's\", '\"', 'n\\n', None, (1,)]"},
};

constexpr Case kStatements[] = {
    {"{% if 0 %}a{% elif '' %}b{% elif 1 %}c{% else %}d{% endif %}", "c"},
    {"{% for i in [1, 2, 3] if i != 2 %}{{ loop.index }}{{ i }}{{ loop.last }} {% else %}x{% endfor %}",
     "11False 23True "},
    {"{% for i in [] %}a{% else %}none{% endfor %}", "none"},
    {"{% set x = 1 %}{% for i in [5] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}", "61"},
    {"{% set n = namespace(x=1) %}{% for i in [5] %}{% set n.x = n.x + i %}{% endfor %}{{ n.x }}", "6"},
    {"{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}", "a1b2"},
    {"{% for i in range(9) %}{% if i == 1 %}{% continue %}{% elif i == 4 %}{% break %}{% endif %}{{ i }}{% "
     "endfor %}",
     "023"},
    {"{% macro f(a, b=2) %}<{{ a }}{{ b }}>{% endmacro %}{{ f(1) }}{{ f(1, b=3) }}{{ f() }}", "<12><13><2>"},
    {"{% set t %}x{{ 1 }}{% endset %}{{ t * 2 }}", "x1x1"},
    {"{% for m in messages %}{{ loop.index0 }}{{ loop.first }}{{ loop.length }}{{ loop.revindex }}{{ m.role "
     "}};{% endfor %}",
     "0True22user;1False21assistant;"},
    {"{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}{{ tools }}{{ nothing }}", "<s></s>TrueNone"},
    {"{% generation %}g{% endgeneration %}", "g"},
};

constexpr Case kBuiltins[] = {
    {"{{ '  a '|trim }}|{{ 'xax'.strip('x') }}|{{ 'aXb'|lower }}|{{ '\u00E4'|upper }}", "a|a|axb|\u00C4"},
    {"{{ \"they're\"|title }} {{ \"they're\".title() }} {{ 'aBC'|capitalize }}", "They're They'Re Abc"},
    {"{{ 'a,b,c'.split(',', 1) }} {{ ' a  b '.split() }} {{ 'a\nb\n'.splitlines() }}",
     "['a', 'b,c'] ['a', 'b'] ['a', 'b']"},
    {"{{ 'aaa'.replace('a', 'b', 2) }} {{ 'ab'|replace('', '-') }}", "bba -a-b-"},
    {"{{ 'abc'.startswith(('x', 'ab')) }} {{ 'abc'.endswith('c') }} {{ 'abab'.count('b') }} {{ "
     "'\u00E4bc'.find('c') }}",
     "True True 2 2"},
    {"{{ [1, 2]|join('-') }} {{ messages|map(attribute='role')|join(',') }} {{ [3, 1]|first }} {{ 'ab'|last "
     "}}",
     "1-2 user,assistant 3 b"},
    {"{{ x|default('d') }} {{ ''|default('e', true) }} {{ none|d('f') }}", "d e None"},
    {"{{ {'b': [1, none, true], 'a': 'q\"\u00E4'}|tojson }}",
     "{\"b\": [1, null, true], \"a\": \"q\\\"\u00E4\"}"},
    {"{{ {'a': [1, {}]}|tojson(indent=2) }}", "{\n  \"a\": [\n    1,\n    {}\n  ]\n}"},
    {"{{ '\u00E4\u00F6'|length }} {{ '7'|int + 1 }} {{ 'x'|int(3) }} {{ '2.5'|float }} {{ -3|abs }} {{ "
     "3.9|int }}",
     "2 8 3 2.5 3 3"},
    {"{{ messages|selectattr('role', 'equalto', 'user')|list|length }}{{ [1, 2, 3]|reject('odd')|list }}",
     "1[2]"},
    {"{{ 'a' is string }}{{ {} is mapping }}{{ [] is iterable }}{{ x is defined }}{{ none is not none }}{{ 4 "
     "is divisibleby 2 }}",
     "TrueTrueTrueFalseFalseTrue"},
    {"{{ messages[0].get('x', 'no') }} {{ {'a': 1}.keys()|list }} {{ dict(a=1) }} {{ range(5, 0, -2)|list }}",
     "no ['a'] {'a': 1} [5, 3, 1]"},
    {"{{ 'x'.join(['a', 'b']) }} {{ 'ab'.removeprefix('a') }} {{ [1, 2]|reverse|list }} {{ ['b', 'B', "
     "'a']|unique|list }}",
     "axb b [2, 1] ['b', 'a']"},
};

INSTANTIATE_TEST_SUITE_P(Whitespace, Jinja, testing::ValuesIn(kWhitespace));
INSTANTIATE_TEST_SUITE_P(Expressions, Jinja, testing::ValuesIn(kExpressions));
INSTANTIATE_TEST_SUITE_P(Statements, Jinja, testing::ValuesIn(kStatements));
INSTANTIATE_TEST_SUITE_P(Builtins, Jinja, testing::ValuesIn(kBuiltins));

}  // namespace
}  // namespace kvcrush
