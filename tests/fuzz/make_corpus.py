#!/usr/bin/env python3
"""Writes the seeds of tests/fuzz/corpus from scratch: small valid inputs of every target and typical damage to them.

usage: tests/fuzz/make_corpus.py [FOLDER]     (default: tests/fuzz/corpus)
Files named seed-* are its own and are replaced; what fuzzing found beside them stays.
"""

import json
import pathlib
import struct
import sys

from gguf_seeds import CHAT, LAYER_SHAPES, gguf_seeds, size_of
from protobuf_wire import wire

HERE = pathlib.Path(__file__).resolve().parent
HF_NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


# Hugging Face

def safetensors(tensors, metadata=True):
    header, data = ({"__metadata__": {"format": "pt"}} if metadata else {}), b""
    for name, dtype, shape, content in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    return with_header(json.dumps(header), data)


def with_header(header, data=b""):
    return struct.pack("<Q", len(header)) + header.encode() + data


def hf_tensors():
    shapes = {"model.embed_tokens": [6, 8], "model.norm": [8]}
    shapes |= {f"model.layers.0.{HF_NAMES[name]}": shape for name, shape in LAYER_SHAPES.items()}
    return [(name + ".weight", "F16", shape, bytes(2 * size_of(shape))) for name, shape in shapes.items()]


def safetensors_seeds():
    yield "model", safetensors(hf_tensors())
    yield "dtypes", safetensors([("a", "F32", [2], bytes(8)), ("b", "BF16", [1, 3], bytes(6)), ("c", "F16", [], b"")], False)
    entry = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    yield "twice", with_header('{"a": %s, "a": %s}' % (entry, entry), bytes(4))
    yield "overlap", with_header('{"a": %s, "b": %s}' % (entry, entry), bytes(4))
    yield "wrap", with_header('{"a": {"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 0]}}')
    yield "negative", with_header('{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}', bytes(4))
    yield "deep", with_header('{"a": ' + "[" * 3000 + "]" * 3000 + "}")
    yield "huge-header", struct.pack("<Q", 1 << 62) + b"{}"


CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1, "hidden_size": 8,
    "intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 6,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "rope_theta": 10000.0, "eos_token_id": 4,
}
LLAMA_SPLIT = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
               "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
TOKENIZER = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]},
    "added_tokens": [{"id": 3, "content": "<|endoftext|>", "special": True}, {"id": 4, "content": "<|im_end|>", "special": True},
                     {"id": 5, "content": "<tool>", "special": False}],
}


SPACE = "\u2581"
PIECES = {
    "normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": SPACE}, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]},
    "decoder": {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "vocab": {"<unk>": 0, SPACE: 1, "a": 2, SPACE + "a": 3},
              "merges": [[SPACE, "a"]]},
    "added_tokens": [{"id": 4, "content": "<s>", "special": True, "lstrip": True, "rstrip": True},
                     {"id": 5, "content": "\n\n", "special": False, "normalized": True}],
    "post_processor": {"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<s>"}}]},
}


def tokenizer_with(**changes):
    return json.dumps(TOKENIZER | changes)


def tokenizer_json_seeds():
    yield "small", json.dumps(TOKENIZER)
    yield "llama3", tokenizer_with(
        model={"vocab": {"a": 0, "b": 1, "ab": 2, "\u0120a": 9}, "merges": [["a", "b"]], "ignore_merges": True},
        normalizer={"type": "NFC"},
        pre_tokenizer={"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": LLAMA_SPLIT}, "behavior": "Isolated", "invert": False},
            BYTE_LEVEL | {"use_regex": False}]},
        post_processor={"type": "Sequence", "processors": [
            {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}]}]})
    yield "gpt2", tokenizer_with(pre_tokenizer=BYTE_LEVEL | {"add_prefix_space": True}, added_tokens=None)
    yield "far-id", tokenizer_with(added_tokens=[{"id": 511, "content": "x", "special": True}])
    yield "bad-merge", tokenizer_with(model={"vocab": {"a": 0, "b": 1}, "merges": ["a b", "a"]})
    yield "pieces", json.dumps(PIECES)
    yield "metaspace", json.dumps(PIECES | {"normalizer": None, "pre_tokenizer": {
        "type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}})
    yield "unigram", json.dumps(PIECES | {"normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": SPACE}, "model": {
        "type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], [SPACE, -2.0], ["a", -2.5], [SPACE + "a", -3]]}})
    yield "bytes", json.dumps(PIECES | {"model": PIECES["model"] | {"byte_fallback": True, "vocab": PIECES["model"]["vocab"] | {
        f"<0x{byte:02X}>": 6 + byte for byte in range(256)}}})
    yield "deep", tokenizer_with().replace('"a": 0', '"a": ' + "[" * 2000 + "]" * 2000)
    yield "escape", tokenizer_with(normalizer={"type": "\u001b[31m\u009b" + "x" * 3000})


def folder(files):
    return b"".join(b"#FILE " + name.encode() + b"\n" + (content if isinstance(content, bytes) else content.encode())
                    for name, content in files.items())


def piece(text, score, kind):
    return (1, wire((1, text), (2, score), (3, kind)))


def sentencepiece_model(model_type=2, *extra):
    pieces = [piece("<unk>", 0.0, 2), piece("<s>", 0.0, 3), piece("</s>", 0.0, 3), piece(SPACE, -2.0, 1), piece("a", -1.0, 1),
              piece(SPACE * 2, 0.0, 4)]
    return wire(*pieces, (2, wire((3, model_type))), (3, wire((1, "identity"), (4, 0))), *extra)


def sentencepiece_seeds():
    yield "bpe", sentencepiece_model()
    yield "unigram", sentencepiece_model(1)
    yield "bytes", sentencepiece_model(2, *(piece(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)))
    yield "half-bytes", sentencepiece_model(2, *(piece(f"<0x{byte:02X}>", 0.0, 6) for byte in range(9)))
    yield "charsmap", sentencepiece_model(2, (3, wire((2, b"table"), (1, "nfkc\x1b[31m"))))
    yield "truncated", sentencepiece_model()[:-3]
    yield "groups", b"\x0b\x0c"
    yield "long-number", b"\xff" * 12


def model_dir_seeds():
    files = {"config.json": json.dumps(CONFIG), "tokenizer.json": json.dumps(TOKENIZER)}
    single = {"model.safetensors": safetensors(hf_tensors())}
    yield "model", folder(files | single)
    beside = {
        "tokenizer_config.json": json.dumps({"bos_token": "<|endoftext|>", "eos_token": {"content": "<|im_end|>"},
                                             "add_bos_token": True, "chat_template": [{"name": "default", "template": CHAT}]}),
        "generation_config.json": json.dumps({"eos_token_id": [3, 4]}), "chat_template.jinja": CHAT,
    }
    yield "all-files", folder(files | beside | single)
    settings = {"legacy": False, "added_tokens_decoder": {"2": {"content": "</s>", "special": True, "rstrip": True}}}
    yield "pieces", folder({"config.json": json.dumps(CONFIG), "tokenizer.model": sentencepiece_model(), "added_tokens.json": '{"a": 4}',
                            "tokenizer_config.json": json.dumps(settings)} | single)
    scaled = CONFIG | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                        "original_max_position_embeddings": 64}, "head_dim": 4, "attention_bias": False}
    yield "llama3-rope", folder(files | {"config.json": json.dumps(scaled)} | single)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    halves = {names[0]: hf_tensors()[:5], names[1]: hf_tensors()[5:]}
    index = {"weight_map": {tensor[0]: name for name, tensors in halves.items() for tensor in tensors}}
    shards = {name: safetensors(tensors) for name, tensors in halves.items()}
    yield "shards", folder(files | {"model.safetensors.index.json": json.dumps(index)} | shards)
    yield "outside", folder(files | {"model.safetensors.index.json": '{"weight_map": {"a": "../x.safetensors"}}'})
    deep = "[" * 2000 + "]" * 2000
    yield "deep-eos", folder({"config.json": json.dumps(CONFIG | {"eos_token_id": 0}).replace('"eos_token_id": 0', '"eos_token_id": ' + deep)}
                             | {"tokenizer.json": json.dumps(TOKENIZER)})
    yield "deep-size", folder({"config.json": json.dumps(CONFIG).replace('"hidden_size": 8', '"hidden_size": ' + deep)})


# Templates, text, requests

HEADERS = """{{- bos_token }}
{%- if messages[0].role == 'system' %}{%- set system = messages[0].content | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = "" %}{%- endif %}
{%- if tools is not none and tools|length > 0 %}{{ raise_exception("no tools") }}{% endif %}
{%- for message in messages %}
    {%- if not (message.role in ['ipython', 'tool'] or 'tool_calls' in message) %}
        {{- '<|h|>' + message['role'] + '<|e|>\\n\\n' + message['content'] | trim }}
    {%- else %}{{- message.content | tojson(indent=2) }}{%- endif %}
{%- endfor %}"""
REASONING = """{%- set ns = namespace(last=messages|length - 1, state={'a': [1, 2.5, none]}) -%}
{%- macro wrap(text, tag='think', count=1) %}{{ ('<' ~ tag ~ '>') * count }}{{ text.strip('\\n')|replace('x', "y") }}{% endmacro -%}
{%- for message in messages[::-1] if message.content is string and message.content|length > 0 %}
  {%- if message.role.startswith(('user', 'sys')) and not loop.last %}{% set ns.last = loop.index0 // 2 %}{% endif %}
  {%- for part in message.content.split('</think>') %}{{ wrap(part, count=loop.index) }}
  {%- if loop.index > 3 %}{% break %}{% endif %}{% else %}-{% endfor %}
  {{- ns.state.a | join(',') }}{{ range(3) | list }}{{ {'k': message.content[1:3]}.items() | list }}
{% endfor %}
{% set tail %}{{ messages | map(attribute='role') | unique | join('/') | upper }}{% endset %}{{ tail | default('?') | title }}"""

TOOLS = """{%- if tools %}{% for tool in tools %}{{- '<tool>' ~ (tool.function if tool.function is defined else tool)|tojson(indent=2) }}
{%- set ns = namespace(names=[]) %}{% for key, value in (tool.function.parameters.properties if tool.function is mapping else {})|items %}
{%- set ns.names = ns.names + [key ~ ':' ~ value.type] %}{% endfor %}{{ ns.names|join(',') }}{% endfor %}{% endif %}
{%- for message in messages %}{%- if message.tool_calls is defined and message.tool_calls is not none %}
{%- for call in message.tool_calls %}{% set call = call.function if call.function is defined else call %}<call>{{ call.name }}
{%- for name, value in call.arguments|dictsort %}<{{ name }}>{{ value if value is string else value|tojson|safe }}{% endfor %}{% endfor %}
{%- elif message.role == 'tool' %}<result>{{ message.tool_call_id|default('?') }}{{ message.name }}{{ message.content }}
{%- elif message.content is string %}{{ message.reasoning_content|default('', true)|trim ~ message.content }}
{%- else %}{% for part in message.content %}{% if part.type == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}
{%- if add_generation_prompt %}<assistant>{% if thinking is defined and thinking is false %}<think></think>{% endif %}{% endif %}"""


def template(source, *messages):
    return "\x1f".join([source, *(part for message in messages for part in message)])


def chat_template_seeds():
    messages = [("system", " s\n"), ("user", "Hi <|im_end|> \u00e4"), ("assistant", "<think>\nx\n</think>\n\nyes"), ("odd", "")]
    for name, source in (("chatml", CHAT), ("headers", HEADERS), ("reasoning", REASONING)):
        yield name, template(source, *messages)
    yield "operators", "{{ 1 + 2 * 3 ** 2 // 4 % 5 - -6 / 7 }}{{ 'a' ~ 1.5 ~ true }}{{ 1 < 2 <= 3 != 4 and not 5 > 6 or 7 >= 8 }}{{ 'a' if 'b' in 'abc' else 'd' }}{{ (1, 2)[0] }}{{ [3][::-1] }}{{ {'k': 'v'}.k }}"
    yield "filters", "{{ messages|map(attribute='content')|join('|') }}{{ messages[0].content|upper|lower|capitalize|title|indent(2, true)|replace('h', 'H')|trim('x') }}{{ [3, 1, 3]|unique|reverse|list }}{{ '12'|int + '1.5'|float }}{{ -3|abs }}{{ messages|selectattr('role', 'equalto', 'user')|rejectattr('content')|list|length }}{{ {'a': 1}|items|first|last }}{{ x|default('d') }}"
    yield "methods", "{{ ' a,b '.strip().split(',')|join('-') }}{{ 'aXa'.find('X') }}{{ 'aa'.count('a') }}{{ 'ab'.removeprefix('a').removesuffix('b') }}{{ 'a\\nb'.splitlines() }}{{ 'ab'.endswith('b') }}{{ {'a': 1}.get('b', 2) }}{{ {'a': 1}.keys()|list }}{{ {'a': 1}.values()|list }}{{ 'a'.join(['x', 'y']) }}{{ messages[0].content.replace('s', 'S', 1).lstrip().rstrip() }}"
    yield "statements", "{# c #}{%- set x, y = 1, [2] -%}{% if x is odd %}{% elif y is sequence %}{% else %}{% endif %}{% for k, v in {'a': 1}.items() %}{{ loop.index ~ loop.first ~ loop.previtem ~ loop.cycle('a', 'b') }}{% continue %}{% endfor %}{% generation %}g{% endgeneration %}{% macro m(a, b=2) %}{{ a ~ b }}{% endmacro %}{{ m(1, b=3) }}{{ strftime_now('%Y') is string }}"
    yield "ordered", "{{ {'b': 1, 'A': [2]}|dictsort(true, 'key', true) }}{{ [3, 1]|sort|min }}{{ messages|sort(attribute='content', reverse=true)|map(attribute='role')|max }}{{ 2.5|round(1, 'floor') }}{{ {'b': 'é', 'a': 1}|tojson(ensure_ascii=true, indent=2, separators=(',', ':'), sort_keys=true) }}"
    yield "searched", "{{ 'a{}{{}}{x}{0}'.format(messages[0].content, x=1) }}{{ 'a.b.c'.rsplit('.', 1)|join }}{{ 'abab'.rfind('b') ~ 'ab'.index('b') ~ [1, 2].index(2) ~ [1].count(1) ~ '12'.isdigit() }}"
    yield "blocks", "{% raw %}{{ x {%- if %}{% endraw %}{%- filter upper|replace('A', 'b') -%}a{{ messages[0].content }}{% endfilter %}{% macro m(a) %}<{{ caller(a) }}>{% endmacro %}{% call(b, c=2) m(1) %}{{ b ~ c }}{% endcall %}"
    talk = [("user", "Hi"), ("assistant", ""), ("\x01c", '{"a@": ["@", 1, 2.5, null, true]}'), ("\x01r", "why"), ("tool", "42"), ("\x01i", "9"),
            ("\x01n", "f"), ("\x01x", '{"k": "@"}'), ("\x01p", "part"), ("\x01t", '{"type": "function", "function": {"name": "f@", "parameters": {"properties": {"x": {"type": "string"}}}}}'),
            ("\x01t", '{"t": "@\\u00e9\\n"}'), ("\x01k", '{"thinking": false, "documents": [{"title": "@"}]}'), ("\x01g", "")]
    yield "tools", template(TOOLS, *talk)
    yield "tools-as-text", template("{{ tools }}{{ messages }}{{ documents }}{{ tools|tojson(indent=4) }}{{ messages|tojson }}{{ thinking ~ add_generation_prompt }}", *talk)
    yield "broken-json", template("{{ tools }}", ("user", ""), ("\x01t", '{"a": [1, }'), ("\x01k", "9" * 30))
    yield "nested-map", "{{ 'x'|map(" + ",".join(["'map'"] * 200) + ")|list }}"
    yield "recursion", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"
    yield "growing", "{% set n = namespace(s='xxxxxxxx') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}"
    yield "strftime-mark", "{{ strftime_now(messages[0].content) }}"


def text_seeds():
    head = bytes([0, 0, 5, 2]) + b"\x02ab" + b"\x01c"
    words = "Hello  world, it's 1234 \u00e4\u4e2d\U0001f600\n\n\tabab <|im_end|><|im_</s> <tool>"
    for family in range(10):
        yield f"family{family}", bytes([family, family & 1, 9, 0]) + words.encode()
    yield "stops", head + b"xxabxcab"
    yield "broken", head + b"\xc3\xa4 \xf0\x9f \xed\xa0\x80 \xff\x00\xff\x01\xff\x03 \xf4\x90\x80\x80 \xe4\xb8"
    yield "pieces", bytes([7, 1, 9, 0]) + "\n\n\n   ab\u2581abab<tool>\n\n x\u00e4 e\u0301\u0323".encode()
    yield "spaces", bytes(4) + b" " * 300 + b"\n" * 20 + b" \r\n\xe2\x80\x83x"


def request_seeds():
    snapkv = wire((1, 2), (3, ("d", 0.25)), (4, ("d", 0.5)), (9, 4), (10, 32), (11, 7), (15, 5), (20, 16), (23, 8))
    target = wire((16, 8))
    chat = wire((1, wire((1, "user"), (2, "Hi <|end|>"))))
    call = wire((1, "assistant"), (4, wire((1, "id1"), (2, "f"), (3, '{"x": [1, 2.5]}'))), (7, "why"))
    result = wire((1, "tool"), (3, wire((1, "42"))), (5, "id1"), (6, "f"), (8, '{"k": null}'))
    tools = wire((1, wire((1, "user"), (2, "Hi"))), (1, call), (1, result), (2, '{"type": "function", "function": {"name": "f"}}'), (3, 0),
                 (4, '{"a": "<|end|>"}'))
    sampling = wire((1, 0.5), (2, 40), (3, 0.9), (8, 7), (9, 10), (11, "\n"), (12, 65), (14, 2), (15, 2))
    generate = {
        "text": wire((1, "id-1"), (2, "hello"), (5, sampling), (6, snapkv)), "chat": wire((3, chat), (6, target)),
        "tools": wire((3, tools)), "broken-tools": wire((3, chat + wire((2, "{}"), (2, '{"a"')))),
        "ids": wire((4, wire((1, bytes([1, 2, 3])))), (7, snapkv), (7, target), (7, wire((1, 1), (15, 4)))),
        "refused": wire((3, wire((1, wire((1, "no"), (2, "because"))))), (5, wire((9, -1)))),
    }
    score = {"score": wire((2, "hello"), (5, " world"), (7, snapkv), (8, 1)),
             "score-ids": wire((4, wire((1, b"\x01\x02"))), (6, wire((1, b"\x03\x04\x05"))), (7, target))}
    for context in range(4):
        for name, data in generate.items():
            yield f"{name}{context}", bytes([context << 2 | 2]) + data
        for name, data in score.items():
            yield f"{name}{context}", bytes([context << 2 | 3]) + data
    yield "built", bytes([0, 8]) + bytes((i * 37 + 11) % 251 for i in range(200))
    yield "built-score", bytes([1, 9]) + bytes((i * 53 + 7) % 241 for i in range(200))


TARGETS = {
    "gguf": gguf_seeds, "safetensors": safetensors_seeds, "sentencepiece": sentencepiece_seeds, "tokenizer_json": tokenizer_json_seeds, "model_dir": model_dir_seeds,
    "chat_template": chat_template_seeds, "text": text_seeds, "request": request_seeds,
}


def main():
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        print(__doc__)
        return 0 if sys.argv[1] in ("-h", "--help") else 2
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) == 2 else HERE / "corpus"
    for target, seeds in TARGETS.items():
        (root / target).mkdir(parents=True, exist_ok=True)
        for old in (root / target).glob("seed-*"):
            old.unlink()
        count = 0
        for name, content in seeds():
            (root / target / f"seed-{name}").write_bytes(content if isinstance(content, bytes) else content.encode())
            count += 1
        print(f"{target}: {count} seeds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
