// Chat templates of the shapes that well-known model families use, for tests.
#pragma once

#include <string_view>

namespace kvcrush::test {

inline constexpr std::string_view kChatMl =
    R"({% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %})"
    R"({{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %})"
    R"({{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %})"
    R"({% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %})";

inline constexpr std::string_view kHeaders = R"({{- bos_token }}
{#- The system message comes first. #}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{%- if tools is not none and tools|length > 0 %}{{ raise_exception("no tools") }}{% endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" ~ system ~ "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role in ['ipython', 'tool'] or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\n\n' + message.content | tojson + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}
)";

inline constexpr std::string_view kTurns =
    R"({{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %})"
    R"({% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %})"
    R"({{ raise_exception('Conversation roles must alternate') }}{% endif %})"
    R"({% set role = 'model' if message.role == 'assistant' else message.role %})"
    R"({{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %})";

inline constexpr std::string_view kReasoning =
    R"({%- set ns = namespace(last=messages|length - 1, state={'a': [1, 2.5, none]}) -%}
{%- macro wrap(text, tag='think', count=1) %}{{ ('<' ~ tag ~ '>') * count }}{{ text.strip('\n')|replace('x', "y") }}{% endmacro -%}
{%- for message in messages[::-1] if message.content is string and message.content|length > 0 %}
  {%- if message.role.startswith(('user', 'sys')) and not loop.last %}{% set ns.last = loop.index0 // 2 %}{% endif %}
  {%- set parts = message.content.split('</think>') %}
  {%- for part in parts %}{{ wrap(part, count=loop.index) }}{% if loop.index > 3 %}{% break %}{% endif %}{% else %}-{% endfor %}
  {{- ns.state.a | join(',') }}{{ range(3) | list }}{{ {'k': message.content[1:3]}.items() | list }}
{% endfor %}
{% set tail %}{{ messages | map(attribute='role') | unique | join('/') | upper }}{% endset %}{{ tail | default('?') | title }}
{{- messages | selectattr('role', 'eq', 'user') | list | length ** 2 % 7 }}{{ ns.last if ns.last is defined and ns.last is not none else 'none' }})";

}  // namespace kvcrush::test
