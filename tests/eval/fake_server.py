"""A server that answers the API's calls by simple rules, so that every figure can be foretold."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading

import grpc

from kvcrush_eval.stubs import pb, pb_grpc

BYTES_PER_TOKEN = 100


def kept_share(variant: pb.KvCompression) -> float:
    """Share of a full 16-bit cache that this fake keeps."""
    share = 1 / variant.target_compression if variant.target_compression else variant.budget_fraction or 1.0
    return share * {pb.KV_DTYPE_INT8: 0.5, pb.KV_DTYPE_INT4: 0.25}.get(variant.kv_dtype, 1.0)


def report(variant: pb.KvCompression, num_tokens: int) -> pb.CompressionReport:
    return pb.CompressionReport(enabled=True, budget_tokens=int(num_tokens * (variant.budget_fraction or 1)), prune_ms=0.5,
                                kv_bytes_full_16bit=num_tokens * BYTES_PER_TOKEN, compression_ratio=1 / kept_share(variant),
                                tokens_kept=pb.LayerTokens(mean=num_tokens), applied=variant)


class FakeServer(pb_grpc.InferenceServicer):
    """`reply(prompt text, variant, request)` writes the text; KL of a variant is 0.1 / kept_share - 0.1."""

    def __init__(self) -> None:
        self.reply = lambda prompt, variant, request: "nothing"
        self.generate_requests: list[pb.GenerateRequest] = []
        self.score_requests: list[pb.ScoreRequest] = []
        self.model = "fake"
        self.fail: tuple[grpc.StatusCode, str] | None = None
        self.running = self.most_running = 0
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def _counted(self, context):
        with self._lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            if self.fail is not None:
                context.abort(*self.fail)
            yield
        finally:
            with self._lock:
                self.running -= 1

    @staticmethod
    def _prompt(request) -> str:
        kind = request.WhichOneof("prompt")
        if kind == "token_ids":
            return " ".join(map(str, request.token_ids.ids))
        return request.text if kind == "text" else request.chat.messages[0].content

    def GetModelInfo(self, request, context):
        return pb.GetModelInfoResponse(model_name=self.model, weight_dtype="f32", kv_dtype="f16", device="cpu", stop_token_ids=[2])

    def Tokenize(self, request, context):
        return pb.TokenizeResponse(token_ids=request.text.encode())

    def GenerateOnce(self, request, context):
        with self._counted(context):
            self.generate_requests.append(request)
            prompt = self._prompt(request)
            answer = pb.GenerateOnceResponse()
            for index, variant in enumerate(request.variants):
                text, match = self.reply(prompt, variant, request), ""
                for stop in request.sampling.stop:
                    if stop in text:
                        text, match = text[: text.index(stop)], stop
                finish = pb.FinishInfo(stop_match=match, compression=report(variant, len(prompt)), usage=pb.Usage(
                    prompt_tokens=len(prompt), completion_tokens=11, time_to_first_token_ms=100, total_ms=600))
                answer.completions.add(index=index, text=text, token_ids=text.encode(), finish=finish)
            return answer

    def Score(self, request, context):
        with self._counted(context):
            self.score_requests.append(request)
            ids = list(request.continuation_token_ids.ids)
            answer = pb.ScoreResponse(continuation_token_ids=ids)
            if request.compare_to_full:
                answer.full_logprobs.extend([-1.0] * len(ids))
            for index, variant in enumerate(request.variants):
                kl = 0.1 / kept_share(variant) - 0.1
                scored = answer.variants.add(index=index, logprobs=[-9.0] + [-1.0 - kl] * (len(ids) - 1),
                                             compression=report(variant, len(self._prompt(request))))
                if request.compare_to_full:
                    scored.kl_divergences.extend([0.0] + [kl] * (len(ids) - 1))
                    scored.top1_agrees.extend([True] + [i % 2 == 0 for i in range(1, len(ids))])
            return answer


@contextlib.contextmanager
def serving(servicer: FakeServer):
    """Yields host:port."""
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    pb_grpc.add_InferenceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0)
