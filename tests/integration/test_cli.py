"""The kvcrush command and the Python client against the real server."""

import json
import os
import signal
import subprocess

import pytest

import harness
from harness import Client, eventually, generate, wait_idle

PROMPT = "The capital of France is"
GREEDY = ["--temperature", "0", "--max-tokens", "12", "--ignore-eos", "--policy", "off"]


def environment(server=None) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("KVCRUSH_")}
    return clean | ({"KVCRUSH_SERVER": server.target} if server else {})


@pytest.fixture
def cli(server):
    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess:
        return subprocess.run([str(harness.CLI), *arguments], input=stdin, capture_output=True, text=True, timeout=120,
                              env=environment(server))

    return run


def checked(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def expected(server):
    return generate(server, PROMPT, max_tokens=12, ignore_eos=True)


def test_generate_from_argument_file_and_stdin(cli, expected, tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text(PROMPT)
    for source, stdin in ([PROMPT], ""), (["-"], PROMPT), (["--file", str(path)], ""), (["--file", "-"], PROMPT):
        assert checked(cli("generate", *source, *GREEDY, stdin=stdin)) == expected.text + "\n"


def test_generate_json_lines(cli, expected):
    chunks = [json.loads(line) for line in checked(cli("generate", PROMPT, *GREEDY, "--json", "--logprobs", "1")).splitlines()]
    assert "".join(chunk["text"] for chunk in chunks) == expected.text
    assert [i for chunk in chunks for i in chunk["token_ids"]] == expected.token_ids
    assert chunks[-1]["finish"]["reason"] == "FINISH_REASON_LENGTH"
    assert all("finish" not in chunk for chunk in chunks[:-1])


def test_generate_stats_go_to_stderr(cli, expected):
    done = cli("generate", PROMPT, *GREEDY, "--stats")
    assert checked(done) == expected.text + "\n"
    assert "12 generated" in done.stderr and "compression: off" in done.stderr


def test_generate_several_samples(cli):
    out = checked(cli("generate", PROMPT, "--n", "2", "--seed", "1", "--max-tokens", "4"))
    assert out.count("--- sample 0 ---") == out.count("--- sample 1 ---") == 1


def test_every_option_reaches_the_server(cli):
    done = cli("generate", PROMPT * 30, "--max-tokens", "6", "--temperature", "0.5", "--top-k", "9", "--top-p", "0.9",
               "--min-p", "0.01", "--repetition-penalty", "1.1", "--presence-penalty", "0.1", "--frequency-penalty",
               "0.1", "--seed", "3", "--min-tokens", "1", "--stop", "zzz", "--stop-token-id", "2", "--policy", "snapkv",
               "--budget", "50%", "--share", "0.2", "--anchor", "ones", "--token-sets", "per-kv-head", "--pick", "best",
               "--sinks", "2", "--window", "16", "--pool-kernel", "5", "--prune-seed", "1", "--when", "during-prefill",
               "--stats")
    checked(done)
    assert "blocks freed" in done.stderr


def test_chat_on_a_pipe(cli):
    out = checked(cli("chat", "--temperature", "0", "--max-tokens", "16", "--system", "Be brief.",
                      stdin="Say hello.\n/stats\n\n/reset\nSay hello.\n/quit\nnever read\n"))
    answers, rest = out.split("finish:")
    assert answers.strip()
    assert rest.rstrip().endswith(answers.strip()), "after /reset the same question has the same answer"


def test_chat_remembers(cli):
    done = cli("chat", "--temperature", "0", "--max-tokens", "8", stdin="My name is Ada.\n/stats\nAnd now?\n/stats\n")
    prompts = [int(line.split()[1]) for line in checked(done).splitlines() if line.startswith("tokens:")]
    assert len(prompts) == 2 and prompts[1] > prompts[0] + 8


def test_info_stats_tokenize(cli, server):
    wait_idle(server)  # what the tests before this one left may still be ending
    assert "30" in checked(cli("info"))
    assert json.loads(checked(cli("info", "--json")))["num_layers"] == 30
    assert "KV blocks" in checked(cli("stats"))
    assert json.loads(checked(cli("stats", "--json")))["requests_running"] == 0
    ids = [int(line.split("\t")[0]) for line in checked(cli("tokenize", PROMPT)).splitlines()]
    assert ids == list(server.client.tokenize(PROMPT).token_ids)


def test_compare(cli, tmp_path):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(PROMPT + " Paris. " * 100 + "\nQuestion: what is the capital?")
    out = checked(cli("compare", "--file", str(prompt), "--chat", "--max-tokens", "8", "--budget", "0.5"))
    assert "== full cache ==" in out and "== KVCrush, budget 50.0 % of the prompt ==" in out
    [row] = [line for line in out.splitlines() if line.startswith("KV cache after pruning")]
    assert 0.4 < float(row.split()[-1].rstrip("x")) < 0.7
    assert "texts: " in out


def test_compare_separately_times_both_from_nothing(cli, server):
    hits = "kvcrush_prefix_cache_hit_tokens_total"
    before = server.metrics()[hits]
    checked(cli("compare", "--separate", PROMPT * 20, "--max-tokens", "4", "--budget", "0.5"))
    assert server.metrics()[hits] == before


def test_exit_codes_and_messages(cli, server):
    refused = cli("generate", PROMPT, "--top-p", "7")
    assert refused.returncode == 1
    assert "INVALID_ARGUMENT" in refused.stderr and "top_p" in refused.stderr
    missing = cli("abort", "nobody")
    assert missing.returncode == 1 and "NOT_FOUND" in missing.stderr
    for usage in ([], ["generate"], ["generate", PROMPT, "--policy", "x"], ["generate", PROMPT, "--budget", "much"],
                  ["generate", "--file", "/no/such/file"], ["nonsense"], ["generate", PROMPT, "--no-such"]):
        assert cli(*usage).returncode == 2, usage
    assert "130" in checked(cli("--help")) and checked(cli("generate", "--help"))
    assert checked(cli("--version")).startswith("kvcrush ")
    timed_out = cli("--timeout", "0.3", "generate", PROMPT, "--max-tokens", "4000", "--ignore-eos")
    assert timed_out.returncode == 1 and "DEADLINE_EXCEEDED" in timed_out.stderr
    nobody = cli("--server", "127.0.0.1:1", "--timeout", "0.5", "info")
    assert nobody.returncode == 1 and "UNAVAILABLE" in nobody.stderr
    wait_idle(server)


def test_abort_ends_a_running_request(cli, server):
    stream = server.client.generate("Count: one two", request_id="cli-abort", max_tokens=4000, ignore_eos=True)
    next(stream)
    checked(cli("abort", "cli-abort"))
    assert [chunk.finish.reason for chunk in stream if chunk.HasField("finish")] == [harness.pb.FINISH_REASON_ABORT]


def test_ctrl_c_frees_the_blocks(server):
    process = subprocess.Popen([str(harness.CLI), "generate", PROMPT, "--max-tokens", "4000", "--ignore-eos"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(server))
    assert process.stdout.read(1)
    eventually(lambda: server.client.stats().blocks_used > 0, "the request to run")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"CANCELLED" in errors
    wait_idle(server)


def test_python_client(server, expected):
    with Client(server.target, timeout_s=60) as client:
        chunks = list(client.generate(PROMPT, temperature=0, max_tokens=12, ignore_eos=True))
        assert "".join(chunk.text for chunk in chunks) == expected.text
        once = client.generate_once(PROMPT, temperature=0, max_tokens=12, ignore_eos=True)
        assert once.completions[0].text == expected.text
        stream = client.generate(PROMPT, max_tokens=4000, ignore_eos=True)
        next(stream)
        stream.close()
    wait_idle(server)
    with pytest.raises(ValueError, match="top_q"):
        Client(server.target).generate_once(PROMPT, top_q=1)
