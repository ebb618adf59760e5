"""Metrics that rules and panels use and that the server of these tests does not have, each with the reason.

A query or rule may be without data only if it needs one of them, directly or through a recording rule. A metric that is
listed here and does have data fails the tests: take it out then.
"""

_GPU = "comes from dcgm-exporter on a machine with a GPU"
_SECURITY = "needs TLS and tokens, and the server of these tests has neither"

ABSENT_METRICS = {
    "DCGM_FI_DEV_GPU_UTIL": _GPU,
    "DCGM_FI_DEV_FB_USED": _GPU,
    "kvcrush_auth_failures_total": _SECURITY,
    "kvcrush_auth_token_reloads_total": _SECURITY,
    "kvcrush_tls_certificate_expiry_timestamp_seconds": _SECURITY,
    "kvcrush_tls_reloads_total": _SECURITY,
}
