"""What the dashboard shows, row by row: (title, panels). Recording rules (kvcrush:...) are those of deploy/prometheus."""

from panels import distribution, facts, graph, mean, number, quantiles, rate, select

SERVER_CODES = 'code=~"RESOURCE_EXHAUSTED|UNAVAILABLE|INTERNAL|UNKNOWN"'
FAILED = 'finished_reason="error"'
ERRORS = (f"({rate('kvcrush_request_success_total', FAILED)}"
          f" + {rate('kvcrush_rejected_requests_total', SERVER_CODES)})")
ANSWERED = f"({rate('kvcrush_request_success_total')} + {rate('kvcrush_rejected_requests_total', SERVER_CODES)})"
USED, SAVED = f"sum ({select('kvcrush_kv_bytes_used')})", f"sum ({select('kvcrush_kv_bytes_saved')})"
POOL = f"sum ({select('kvcrush_kv_pool_bytes')})"


def state():
    return [
        number("Servers ready", "none", "Servers that take on requests, as their /readyz says.",
               f"sum ({select('kvcrush_ready')})"),
        number("Alerts firing", "none", "Alerts of deploy/prometheus/alerts.yml that fire; what to do: docs/operations/runbook.md.",
               'sum (ALERTS{alertstate="firing", alertname=~"Kvcrush.+"}) or vector(0)', bounds={1: "red"}),
        number("Running", "none", "Sequences that hold KV blocks.", f"sum ({select('kvcrush_num_requests_running')})"),
        number("Waiting", "none", "Sequences in the queue.", f"sum ({select('kvcrush_num_requests_waiting')})",
               bounds={10: "orange", 100: "red"}),
        number("Generated tokens/s", "none", "Tokens given out a second.", rate("kvcrush_generation_tokens_total")),
        number("Error ratio", "percentunit", "Share of the requests that failed or were refused for the server's own reasons.",
               f"{ERRORS} / {ANSWERED}", bounds={0.01: "orange", 0.05: "red"}),
        number("KV cache used", "percentunit", "Share of the pool's blocks in use, all servers together.", f"{USED} / {POOL}",
               bounds={0.8: "orange", 0.95: "red"}),
        number("Shortest uptime", "s", "Time since the last start of any server.",
               f"time() - max ({select('process_start_time_seconds')})"),
        facts("Model", "What each server serves.", select("kvcrush_model_info"), 10),
        facts("KV cache", "Tokens of a block in one layer, blocks of the pool, and how many of them one sequence could fill in "
              "every layer (num_gpu_blocks).", select("kvcrush_cache_config_info"), 8),
        facts("Version", "What each server runs.", select("kvcrush_build_info"), 6),
    ]


def throughput():
    return [
        graph("Tokens", "short", "Prefill: what the engine ran beyond the tokens it gave out, so also tokens computed again after "
              "a preemption, lookahead, and wrong drafts. Prompt: tokens of the prompts that came in; where this stays above prefill, the queue grows.",
              {"generated": rate("kvcrush_generation_tokens_total"),
               "prefill": f"clamp_min({rate('kvcrush_iteration_tokens_sum')} - {rate('kvcrush_generation_tokens_total')}, 0)",
               "prompt": rate("kvcrush_prompt_tokens_total")}),
        graph("Samples ended", "reqps", "By how they ended. A request with n = 3 counts three times.",
              {"{{finished_reason}}": rate("kvcrush_request_success_total", by="finished_reason")}, stacked=True),
        graph("Samples taken on", "reqps", "By base policy and KV dtype: what clients ask of their caches.",
              {"{{policy}} {{kv_dtype}}": rate("kvcrush_accepted_samples_total", by="policy, kv_dtype")}, stacked=True),
    ]


def latency():
    return [
        graph("Time to first token", "s", "From arrival, the queue included.", quantiles("kvcrush_time_to_first_token_seconds"), 6),
        graph("Time between tokens", "s", "Long prompts of others lengthen it: see tokens of a step.",
              quantiles("kvcrush_inter_token_latency_seconds"), 6),
        graph("Whole request", "s", "From arrival to the end.", quantiles("kvcrush_e2e_request_latency_seconds"), 6),
        graph("Wait in the queue", "s", "From arrival until first scheduled.", quantiles("kvcrush_request_queue_time_seconds"), 6),
    ]


def kv_memory():
    return [
        graph("KV memory with and without KVCrush", "bytes", "In use; what the same sequences would hold without pruning; and the "
              "pool. Where the second line is above the pool, pruning is what lets them run together.",
              {"in use": USED, "without pruning": f"{USED} + {SAVED}", "pool": POOL}, 12),
        graph("Share of the pool", "percentunit", "Each server, mean of 5 minutes. Over 1 without pruning: it would not fit.",
              {"{{instance}} in use": select("kvcrush:kv_usage_ratio:avg_5m"),
               "{{instance}} without pruning": select("kvcrush:kv_unpruned_usage_ratio:avg_5m")}, 12),
        distribution("Compression by pruning", "none", "Of pruned samples at their end: KV bytes without pruning over KV bytes held.",
                     "kvcrush_compression_ratio"),
        distribution("Compression against a full 16-bit cache", "none", "Of every sample at its end: pruning and KV dtype together.",
                     "kvcrush_kv_full_16bit_ratio"),
        graph("Compression, median and mean", "none", "Median of pruned samples; mean of all against a full 16-bit cache.",
              {"by pruning, p50": quantiles("kvcrush_compression_ratio")["p50"],
               "full 16-bit over held, mean": mean("kvcrush_kv_full_16bit_ratio")}),
        graph("Tokens evicted", "short", "Token slots a second, summed over layers.", {"evicted": rate("kvcrush_tokens_evicted_total")}, 6),
        graph("KV blocks freed by pruning", "short", "Blocks a second that went back to the pool.",
              {"freed": rate("kvcrush_blocks_freed_by_pruning_total")}, 6),
        graph("Time of a prune", "s", "To score, select and compact one sequence; on a GPU nothing waits for it, and 0 is reported.",
              quantiles("kvcrush_prune_seconds"), 6),
        graph("Preemptions", "short", "Sequences a second that gave their blocks back: computed again, or copied out and in.",
              {"{{how}}": rate("kvcrush_num_preemptions_total", by="how")}, 6, stacked=True),
        graph("Prefix cache: hits", "percentunit", "Share of the prompt tokens that were found in the cache.",
              {"hit": f"{rate('kvcrush_prefix_cache_hit_tokens_total')} / {rate('kvcrush_prefix_cache_queried_tokens_total')}"}, most=1),
        graph("Prefix cache: blocks", "short", "Blocks that hold prefixes; they are given up when sequences need them.",
              {"{{instance}}": select("kvcrush_prefix_cache_blocks")}),
        graph("Swapped out", "bytes", "Host memory that holds the caches of preempted sequences.",
              {"{{instance}}": select("kvcrush_swap_bytes_used")}),
    ]


def engine():
    return [
        graph("Time of a step", "s", "One engine step, prefill and decode together.", quantiles("kvcrush_step_seconds")),
        graph("Tokens of a step", "short", "Against --max-batch-tokens: a mean near it means that prompts fill the steps.",
              {"mean": mean("kvcrush_iteration_tokens"), "p95": quantiles("kvcrush_iteration_tokens")["p95"]}),
        graph("Engine busy", "percentunit", "Share of the time spent in steps; 1 is saturated. 'stalled' is 1 when the watchdog says so.",
              {"{{instance}}": select("kvcrush:engine_busy:ratio_5m"), "{{instance}} stalled": select("kvcrush_engine_stalled")}, most=1.05),
    ]


def queue():
    return [
        graph("Requests", "short", "Sequences that run and that wait.",
              {"running": f"sum ({select('kvcrush_num_requests_running')})",
               "waiting": f"sum ({select('kvcrush_num_requests_waiting')})"}),
        graph("Prompt tokens waiting", "short", "What the queue still has to prefill.", {"{{instance}}": select("kvcrush_queue_tokens")}),
        graph("Refused, by code", "reqps", "INVALID_ARGUMENT is the client's; RESOURCE_EXHAUSTED and UNAVAILABLE are the server's.",
              {"{{code}}": rate("kvcrush_rejected_requests_total", by="code")}, stacked=True),
        graph("Shed, by reason", "reqps", "Refused to protect the requests already taken on.",
              {"{{reason}}": rate("kvcrush_shed_requests_total", by="reason")}, stacked=True),
        graph("Slow streams ended", "short", "Streams a second that were ended because the client did not read.",
              {"ended": rate("kvcrush_ended_slow_streams_total")}),
        graph("Authentication failures", "short", "Calls a second without a valid token, by reason.",
              {"{{reason}}": rate("kvcrush_auth_failures_total", by="reason")}, stacked=True),
    ]


def process():
    return [
        graph("Resident memory", "bytes", "Of the server's process. On the CPU the pool becomes resident as blocks are first used.",
              {"{{instance}}": select("process_resident_memory_bytes")}),
        graph("TLS certificate: time left", "s", "Until the certificate in use expires.",
              {"{{instance}}": f"{select('kvcrush_tls_certificate_expiry_timestamp_seconds')} - time()"}),
        graph("TLS reloads", "short", "In the last hour, by result.",
              {"{{instance}} {{result}}": f"increase({select('kvcrush_tls_reloads_total')}[1h])"}),
    ]


def gpu():
    return [
        graph("GPU utilisation", "percent", "Share of the time in which a kernel ran (dcgm-exporter).",
              {"{{instance}} GPU {{gpu}}": "DCGM_FI_DEV_GPU_UTIL"}, 12, most=100),
        graph("GPU memory used", "decmbytes", "Framebuffer in use (dcgm-exporter).", {"{{instance}} GPU {{gpu}}": "DCGM_FI_DEV_FB_USED"}, 12),
    ]


ROWS = [
    ("State", state), ("Throughput", throughput), ("Latency", latency), ("KV memory and KVCrush", kv_memory), ("Engine", engine),
    ("Queue, refusals, clients", queue), ("Process and certificates", process), ("GPU", gpu),
]
