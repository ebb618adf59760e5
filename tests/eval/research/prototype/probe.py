"""The yardstick: how far an altered cache moves the next-token distribution along the gold answer."""

from . import model as llama


def reference(model, prompt, keys, values):
    """Log-probabilities [answer tokens, vocabulary] after each token of the gold answer, on the given cache."""
    return llama.decode(model, prompt["answer"], len(prompt["ids"]), keys, values).log_softmax(-1)


def compare(model, prompt, expected, keys, values, valid=None):
    """[KL(expected || altered), share of equal first choices, needle kept].

    The first two are means over the answer's positions. The last is 1 or 0 on needle prompts (every further answer
    token is the first choice), -1 on others.
    """
    answer = prompt["answer"]
    actual = llama.decode(model, answer, len(prompt["ids"]), keys, values, valid).log_softmax(-1)
    divergence = (expected.exp() * (expected - actual)).sum(-1).clamp_min(0).mean().item()
    choices = actual.argmax(-1)
    agreement = (choices == expected.argmax(-1)).float().mean().item()
    needle = int((choices[:-1] == answer[1:]).all()) if prompt["task"] == "needle" else -1
    return [divergence, agreement, needle]
