"""Residual-stream patching over layers x positions: interp's sweep beside TransformerLens' loop and a plain hook loop.

All three patch the same cells of the same model on the same pairs; their values are compared before times are. Runs are
interleaved, figures are medians, and the ratio is each tool's time over interp's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ["TQDM_DISABLE"] = "1"  # a peer's progress bar is no part of its time

import torch
from transformer_lens.patching import get_act_patch_resid_pre
from transformers import GPT2Config, GPT2LMHeadModel

from interp.analyses.patching import patching
from interp.models.load import load_model
from interp.prompts import PromptPairs, Prompts
from interp.results import provenance

SHAPES: dict[str, dict[str, Any]] = {
    "4 layers x 128": {"n_layer": 4, "n_embd": 128, "n_head": 4, "vocab_size": 1000},
    "6 layers x 512": {"n_layer": 6, "n_embd": 512, "n_head": 8, "vocab_size": 50257},
    "GPT-2 small": {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257},
}


def pairs(vocabulary: int, count: int, length: int) -> PromptPairs:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(vocabulary, (count, length), generator=generator)
    corrupted = clean.clone()
    corrupted[:, 0] = (corrupted[:, 0] + 1) % vocabulary
    answers, foils = (torch.randint(vocabulary, (count,), generator=generator) for _ in range(2))
    return PromptPairs(Prompts.from_tokens(clean, answers=answers), Prompts.from_tokens(corrupted, answers=foils))


def measure(shape: dict[str, Any], count: int, length: int, runs: int) -> dict[str, object]:
    torch.manual_seed(0)
    config = GPT2Config(n_positions=length, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, **shape)
    model = load_model(GPT2LMHeadModel(config), device="cpu")
    both = pairs(shape["vocab_size"], count, length)
    clean, corrupted = both.clean.tokens, both.corrupted.tokens
    answers, foils = both.clean.answers[:, 0], both.corrupted.answers[:, 0]
    with torch.inference_mode():
        cache = model.run_with_cache(clean, names_filter=lambda name: name.endswith("hook_resid_pre"))[1]
    rows = torch.arange(count)

    def score(logits: torch.Tensor) -> torch.Tensor:
        return logits[rows, -1, answers] - logits[rows, -1, foils]

    def ours() -> torch.Tensor:
        return patching(model, both, site="resid_pre", control=False).patched.mean(0)

    @torch.inference_mode()
    def theirs() -> torch.Tensor:
        return get_act_patch_resid_pre(model, corrupted, cache, lambda logits: score(logits).mean())

    @torch.inference_mode()
    def loop() -> torch.Tensor:
        found = torch.zeros(shape["n_layer"], length)
        for layer in range(shape["n_layer"]):
            name = f"blocks.{layer}.hook_resid_pre"
            for position in range(length):

                def put(old: torch.Tensor, hook: object, at: int, key: str) -> torch.Tensor:
                    new = old.clone()
                    new[:, at] = cache[key][:, at]
                    return new

                hooks: Any = [(name, partial(put, at=position, key=name))]
                found[layer, position] = score(model.run_with_hooks(corrupted, fwd_hooks=hooks)).mean()
        return found

    tools = {"interp": ours, "TransformerLens patching": theirs, "hook loop": loop}
    values = {name: tool() for name, tool in tools.items()}
    agreement = {name: float((value - values["interp"]).abs().max()) for name, value in values.items()}
    assert max(agreement.values()) < 1e-4, agreement
    times: dict[str, list[float]] = {name: [] for name in tools}
    for _ in range(runs):
        for name, tool in tools.items():
            started = time.perf_counter()
            tool()
            times[name].append(time.perf_counter() - started)
    ratios = {
        name: statistics.median(t / o for t, o in zip(times[name], times["interp"], strict=True)) for name in tools
    }
    return {
        "cells": shape["n_layer"] * length,
        "pairs": count,
        "tokens": length,
        "largest difference": agreement,
        "median seconds": {name: statistics.median(t) for name, t in times.items()},
        "median ratio to interp": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="*", default=["4 layers x 128", "6 layers x 512"], choices=SHAPES)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, object] = {"provenance": provenance()}
    for name in arguments.shapes:
        found[name] = measure(SHAPES[name], arguments.pairs, arguments.tokens, arguments.runs)
        print(name, json.dumps(found[name], indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
