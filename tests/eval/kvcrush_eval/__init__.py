"""Accuracy, memory and speed of KV compression, measured on a running server. See tests/eval/README.md."""


class EvalError(Exception):
    """Something a person has to set right; the message says what and how."""
