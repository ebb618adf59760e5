"""Client of KVCrush Serve. See Client."""

from kvcrush_client.chat import build_chat
from kvcrush_client.client import Client, build_request, build_score_request

__all__ = ["Client", "build_chat", "build_request", "build_score_request"]
