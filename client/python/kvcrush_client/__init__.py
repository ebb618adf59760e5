"""Client of KVCrush Serve. See Client."""

from kvcrush_client.client import Client, build_request, build_score_request

__all__ = ["Client", "build_request", "build_score_request"]
