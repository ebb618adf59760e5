import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import harness  # noqa: E402

LOG_TAIL_CHARS = 6000


@pytest.fixture(scope="session")
def server():
    """One server with roomy limits for all tests that leave it as they found it."""
    with harness.running_server("--kv-memory", str(768 << 20)) as running:
        yield running


@pytest.fixture(scope="session")
def client(server):
    return server.client


@pytest.fixture(scope="session")
def long_prompt(client):
    """long_prompt(n): exactly n token ids of varied English."""
    text = (harness.ROOT / "tools" / "demo_prompt.txt").read_text()
    ids = list(client.tokenize(text).token_ids)
    while len(ids) < 8000:
        ids += ids

    def cut(num_tokens: int) -> list[int]:
        return ids[:num_tokens]

    return cut


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for server in harness.live_servers:
            report.sections.append((f"log of server {server.process.pid}", server.log()[-LOG_TAIL_CHARS:]))
    return report
