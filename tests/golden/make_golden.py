#!/usr/bin/env python3
"""Makes tests/golden/greedy.json with Hugging Face transformers: the oracle of the model. Takes minutes a model:
    tools/setup.sh --with-tests
    .cache/venv/bin/python tests/golden/make_golden.py
    .cache/venv/bin/python tests/golden/make_golden.py --model .cache/models/gemma-3-270m-q4_k_m.gguf --out tests/golden/greedy_gemma3.json
The weights are the GGUF's, dequantised to float32 by the gguf package.
"""

import argparse
import json
import pathlib

import torch
import transformers
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

ROOT = pathlib.Path(__file__).resolve().parents[2]
NUM_NEW_TOKENS = 64

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "Q: What is the boiling point of water at sea level?\nA:",
    "1, 1, 2, 3, 5, 8, 13,",
    "Translate to French: 'Good morning, how are you?'\n",
    "The three laws of thermodynamics state that",
    "#include <iostream>\n\nint main() {\n",
    "Dear Sir or Madam,\n\nI am writing to",
    "Ein Hund und eine Katze sitzen",
    "春天来了，",
    "🙂 Emoji are small pictures that",
    "SELECT name, COUNT(*) FROM users",
    "   leading spaces and\ttabs\tmatter",
    "A",
    "Photosynthesis is the process by which plants convert light into chemical energy. In the first stage,",
]
CHATS = [
    [{"role": "user", "content": "Write a haiku about autumn."}],
    [{"role": "system", "content": "You answer in one sentence."}, {"role": "user", "content": "Why is the sky blue?"}],
    [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Nice to meet you, Ada!"},
        {"role": "user", "content": "What is my name?"},
    ],
]


def long_prompt() -> str:
    days = "".join(f"Day {i}: the crew logged {i * 7 % 31} sightings and sailed {i * 13 % 97} miles. " for i in range(1, 41))
    return "Ship's log. " + days + "Summary of the voyage:"


def load_model(path: pathlib.Path) -> torch.nn.Module:
    """What from_pretrained(gguf_file=...) gives, which wants `accelerate` installed for it."""
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    values = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(values, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    return model.eval()


def observed_ids(logits: torch.Tensor) -> list[int]:
    """Ids whose logits the tests compare: the 64 likeliest and an even sample of the rest."""
    likeliest = logits.topk(64).indices.tolist()
    return likeliest + list(range(7, logits.numel(), logits.numel() // 192))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / ".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/golden/greedy.json")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model.parent, gguf_file=args.model.name)
    model = load_model(args.model)

    begins_with_bos = getattr(tokenizer, "add_bos_token", False)
    prompts = [tokenizer(text, add_special_tokens=begins_with_bos).input_ids for text in [*PROMPTS, long_prompt()]]
    for chat in CHATS if tokenizer.chat_template else []:
        rendered = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        prompts.append(tokenizer(rendered, add_special_tokens=False).input_ids)

    cases = []
    for ids in tqdm(prompts, desc="greedy decoding"):
        with torch.no_grad():
            out = model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),  # else <|im_end|> is taken for padding
                do_sample=False,
                max_new_tokens=NUM_NEW_TOKENS,
                min_new_tokens=NUM_NEW_TOKENS,
                eos_token_id=None,
                output_logits=True,
                return_dict_in_generate=True,
                repetition_penalty=1.0,
            )
        steps = []
        for step in (0, 1, NUM_NEW_TOKENS - 1):
            logits = out.logits[step][0]
            chosen = observed_ids(logits)
            steps.append({"step": step, "ids": chosen, "logits": [round(v, 5) for v in logits[chosen].tolist()]})
        top2 = torch.stack([step[0].topk(2).values for step in out.logits])
        cases.append(
            {
                "prompt": ids,
                "output": out.sequences[0, len(ids):].tolist(),
                "smallest_margin": round((top2[:, 0] - top2[:, 1]).min().item(), 6),
                "steps": steps,
            }
        )
    made_with = {"transformers": transformers.__version__, "torch": torch.__version__, "model": args.model.name}
    args.out.write_text(json.dumps({"made_with": made_with, "cases": cases}, separators=(",", ":")) + "\n")
    print(f"{len(cases)} cases, smallest margin {min(case['smallest_margin'] for case in cases)}")


if __name__ == "__main__":
    main()
