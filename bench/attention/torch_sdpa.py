#!/usr/bin/env python3
"""Attention against PyTorch's scaled_dot_product_attention in bf16 on one thread, in turns: one round of bench.attention,
one of PyTorch. d = 128, 4,096 tokens, one head, without a mask and causal.

usage: torch_sdpa.py --executable PATH/bench.attention --json FILE [--rounds 9]
Exits with 77 and a sentence where PyTorch is not installed.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import torch_peer

TOKENS, HEAD = 4096, 128


def cases(torch):
    for mask, causal in [("full", False), ("causal", True)]:
        q, k, v = (torch.randn(1, 1, TOKENS, HEAD, dtype=torch.bfloat16) for _ in range(3))
        yield (f"attention/prefill/{mask}/d{HEAD}/{TOKENS}/threads:1",
               lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal), "scaled_dot_product_attention")


if __name__ == "__main__":
    sys.exit(torch_peer.compare(__doc__, cases, repeats=3))
