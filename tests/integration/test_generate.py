"""What a request asks for is what it gets: text, ids, stops, samples, log-probabilities, usage."""

import math

import pytest

from harness import build_request, collect, generate, pb

STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def plain(server):
    """40 greedy tokens of PROMPT."""
    return generate(server, PROMPT, max_tokens=40, ignore_eos=True)


def test_greedy_text_is_streamed_and_repeats(server, plain):
    assert "Paris" in plain.text
    assert len(plain.token_ids) == 40
    assert plain.num_chunks > 5, "the text must come in pieces"
    again = generate(server, PROMPT, max_tokens=40, ignore_eos=True)
    assert (again.text, again.token_ids) == (plain.text, plain.token_ids)


def test_once_equals_stream(server, plain):
    response = server.stub.GenerateOnce(
        build_request(PROMPT, max_tokens=40, ignore_eos=True, temperature=0, compression={"policy": "off"}))
    [completion] = response.completions
    assert response.request_id
    assert completion.text == plain.text
    assert list(completion.token_ids) == plain.token_ids
    assert completion.finish.reason == LENGTH


def test_token_ids_prompt_equals_text(server, client, plain):
    ids = list(client.tokenize(PROMPT).token_ids)
    sample = generate(server, ids, max_tokens=40, ignore_eos=True)
    assert sample.token_ids == plain.token_ids
    assert sample.finish.usage.prompt_tokens == len(ids)


def test_chat_uses_the_template(server, client):
    messages = [{"role": "system", "content": "You answer in one word."},
                {"role": "user", "content": "Which animal barks?"}]
    rendered = client.tokenize(messages)
    assert "Which animal barks?" in rendered.rendered_prompt
    assert rendered.rendered_prompt.endswith("assistant\n")
    from_chat = generate(server, messages, max_tokens=24)
    from_ids = generate(server, list(rendered.token_ids), max_tokens=24)
    from_text = generate(server, rendered.rendered_prompt, max_tokens=24)
    assert from_chat.text and from_chat.text == from_ids.text == from_text.text
    assert "<|im_" not in from_chat.text


def test_special_tokens_in_chat_content_are_text(client):
    """A user cannot close their own turn."""
    count = lambda content: list(client.tokenize([{"role": "user", "content": content}]).token_ids)  # noqa: E731
    end_of_turn = client.tokenize("<|im_end|>").token_ids
    assert len(end_of_turn) == 1
    assert count("a<|im_end|>").count(end_of_turn[0]) == count("a").count(end_of_turn[0])


def test_stop_string_ends_the_text_before_it(server, plain):
    stop = plain.text[len(plain.text) // 2:][:7]
    sample = generate(server, PROMPT, max_tokens=40, ignore_eos=True, stop=["never seen", stop])
    assert sample.text == plain.text[:plain.text.index(stop)]
    assert sample.finish.reason == STOP
    assert sample.finish.stop_match == stop
    assert sample.finish.usage.completion_tokens < 40


def test_text_held_back_for_a_stop_string_is_not_lost(server, plain):
    almost = plain.text[-5:] + "\x00never"
    sample = generate(server, PROMPT, max_tokens=40, ignore_eos=True, stop=[almost])
    assert sample.text == plain.text
    assert sample.finish.reason == LENGTH
    assert sample.finish.stop_match == ""


def test_stop_token_id_ends_the_text(server, client, plain):
    stop_id = plain.token_ids[8]
    position = plain.token_ids.index(stop_id)
    sample = generate(server, PROMPT, max_tokens=40, ignore_eos=True, stop_token_ids=[stop_id])
    assert sample.token_ids == plain.token_ids[:position + 1]
    assert sample.text == client.detokenize(plain.token_ids[:position])
    assert sample.finish.reason == STOP


@pytest.fixture(scope="module")
def short_answer(server):
    sample = generate(server, [{"role": "user", "content": "What is 2 + 2? Answer with the number only."}], max_tokens=100)
    assert sample.finish.reason == STOP, "the model must end this by itself"
    return sample


def test_max_tokens_is_exact(server):
    for limit in (1, 2, 7):
        sample = generate(server, PROMPT, max_tokens=limit, ignore_eos=True)
        assert len(sample.token_ids) == sample.finish.usage.completion_tokens == limit
        assert sample.finish.reason == LENGTH


def test_ignore_eos_and_min_tokens_go_on(server, short_answer):
    messages = [{"role": "user", "content": "What is 2 + 2? Answer with the number only."}]
    natural = short_answer.finish.usage.completion_tokens
    forced = generate(server, messages, ignore_eos=True, max_tokens=natural + 6)
    assert forced.finish.usage.completion_tokens == natural + 6
    at_least = generate(server, messages, min_tokens=natural + 3, max_tokens=natural + 6)
    assert at_least.finish.usage.completion_tokens >= natural + 3
    assert at_least.token_ids[:natural - 1] == short_answer.token_ids[:natural - 1]


def test_logprobs(server, client):
    sample = generate(server, PROMPT, max_tokens=6, ignore_eos=True, logprobs=20)
    assert len(sample.logprobs) == len(sample.token_ids) == 6
    for token_id, position in zip(sample.token_ids, sample.logprobs):
        values = [entry.logprob for entry in position.top]
        assert len(values) == 20 == len({entry.token_id for entry in position.top})
        assert values == sorted(values, reverse=True)
        assert 0.2 < sum(map(math.exp, values)) <= 1 + 1e-4
        assert position.sampled.token_id == token_id == position.top[0].token_id, "greedy takes the likeliest"
        assert position.sampled.logprob == values[0]
        assert position.sampled.token == client.detokenize([token_id])


def test_logprobs_only_when_asked(server):
    assert generate(server, PROMPT, max_tokens=3).logprobs == []
    sampled_only = generate(server, PROMPT, max_tokens=3, ignore_eos=True, logprobs=0).logprobs
    assert [len(position.top) for position in sampled_only] == [0, 0, 0]
    assert all(position.sampled.logprob < 0 for position in sampled_only)


def test_logprobs_are_those_before_temperature(server):
    cold, hot = (generate(server, PROMPT, max_tokens=1, logprobs=3, temperature=t, top_k=1) for t in (0.5, 20))
    assert [e.logprob for e in cold.logprobs[0].top] == pytest.approx([e.logprob for e in hot.logprobs[0].top])


def test_n_samples_use_following_seeds(server):
    options = dict(temperature=1.0, max_tokens=12, ignore_eos=True)
    together = collect(server.stub.Generate(
        build_request(PROMPT, n=3, seed=70, compression={"policy": "off"}, **options)))
    assert sorted(together) == [0, 1, 2]
    for index, sample in together.items():
        alone = generate(server, PROMPT, seed=70 + index, **options)
        assert alone.token_ids == sample.token_ids, f"sample {index}"


def test_seed_decides(server):
    draw = lambda seed: tuple(  # noqa: E731
        generate(server, PROMPT, seed=seed, temperature=1.0, max_tokens=12, ignore_eos=True).token_ids)
    assert draw(5) == draw(5)
    assert len({draw(seed) for seed in (1, 2, 3, 2**64 - 1)}) == 4


@pytest.mark.parametrize("option", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_filters_that_leave_one_token_are_greedy(server, plain, option):
    sample = generate(server, PROMPT, temperature=5.0, seed=3, max_tokens=12, ignore_eos=True, **option)
    assert sample.token_ids == plain.token_ids[:12]


@pytest.mark.parametrize("option", [{"repetition_penalty": 10.0}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}])
def test_penalties_reduce_repetition(server, option):
    prompt, limit = "one two one two one two one two", 40
    free = generate(server, prompt, max_tokens=limit, ignore_eos=True)
    penalised = generate(server, prompt, max_tokens=limit, ignore_eos=True, **option)
    assert len(set(penalised.token_ids)) > len(set(free.token_ids))


def test_usage_adds_up(server, client, plain):
    usage = plain.finish.usage
    assert usage.prompt_tokens == len(client.tokenize(PROMPT).token_ids)
    assert usage.completion_tokens == len(plain.token_ids)
    assert 0 <= usage.queue_ms <= usage.time_to_first_token_ms <= usage.total_ms < 60_000
    assert usage.time_to_first_token_ms > 0
    assert usage.preemptions == 0


def test_request_id_is_kept_or_chosen(server):
    def ids_of(**options):
        request = build_request(PROMPT, max_tokens=2, **options)
        return {chunk.request_id for chunk in server.stub.Generate(request)}

    assert ids_of(request_id="my:own.id-1_2") == {"my:own.id-1_2"}
    [first], [second] = ids_of(), ids_of()
    assert first and second and first != second


def test_tokenize_and_back(client):
    text = "Grüße, 世界! 🙂\n\ttabs  and   spaces"
    tokens = client.tokenize(text)
    assert b"".join(tokens.tokens).decode() == text
    assert client.detokenize(list(tokens.token_ids)) == text
    assert client.detokenize(list(client.tokenize("<|im_end|>a").token_ids), skip_special_tokens=True) == "a"


def test_model_info(client):
    info = client.model_info()
    assert (info.num_layers, info.num_heads, info.num_kv_heads, info.head_dim) == (30, 9, 3, 64)
    assert (info.max_context_tokens, info.vocab_size) == (8192, 49152)
    assert info.num_parameters == pytest.approx(135e6, rel=0.01)
    assert info.block_bytes == info.block_size_tokens * info.num_kv_heads * info.head_dim * 2 * 2  # bfloat16
    assert info.num_blocks == (768 << 20) // info.block_bytes
    assert info.chat_template and info.server_version and info.device == "cpu"
