"""What transformers says of a model of the zoo: logits of whole sequences, and how exact float32 is for them."""

import copy

import numpy as np
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

# float32 sums in another order differ from ours by about as much as both differ from float64. Logits are compared at
# some 50,000 places in several ways of running: the worst of them may be a few times the worst of one run.
NOISE_MARGIN = 6.0


def pin_dynamic_rope(model, served_context):
    """Frequencies that depend on the longest position transformers has seen so far become those of the context served.

    A server cannot have them change under keys that are cached. Longrope's two sets need no such thing: transformers takes
    the set for a sequence's length in one forward pass, the engine the set for the length that a request may grow to.
    """
    for module in model.modules():
        if getattr(module, "rope_type", None) == "dynamic":
            inverse, _ = ROPE_INIT_FUNCTIONS["dynamic"](module.config, seq_len=served_context)
            module.inv_freq.copy_(inverse)
            module.rope_type = "default"


def run(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].to(torch.float64).numpy()


class Reference:
    """A model behind a context limit; keeps the logits of sequences it has seen."""

    def __init__(self, model, served_context):
        pin_dynamic_rope(model, served_context)
        self.model = model
        self._logits = {}

    def logits(self, ids):
        key = tuple(ids)
        if key not in self._logits:
            self._logits[key] = run(self.model, ids)
        return self._logits[key]

    def noise(self, ids):
        """The worst error of transformers' own float32, relative to the largest logit."""
        exact = run(copy.deepcopy(self.model).double(), ids)
        return float(np.abs(self.logits(ids) - exact).max() / np.abs(exact).max())


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
