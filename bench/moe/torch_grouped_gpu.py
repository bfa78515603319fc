#!/usr/bin/env python3
"""Grouped products on a GPU beside PyTorch's grouped_mm in bf16: the cases moe/grouped/bf16 of bench.moe.gpu with equal loads. The executable
and PyTorch take turns, one case and one round at a time.

usage: torch_grouped_gpu.py --executable PATH/bench.moe.gpu --json FILE [--rounds 5] [--filter PART]
Exits with 77 and a sentence where PyTorch or a GPU is missing. Where this PyTorch has no grouped_mm, the labels say so.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import torch_peer

CASES = [(32, rows, 4096, 2048) for rows in (4, 64, 256, 1024)] + [(8, 512, 14336, 4096)]


def cases(torch, wanted):
    grouped = getattr(torch.nn.functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)

    def through(a, b, ends):
        def work():
            if grouped is None:
                raise RuntimeError("this PyTorch has no grouped_mm")
            grouped(a, b, offs=ends)
        return work

    for experts, rows, n, k in CASES:
        name = f"moe/grouped/bf16/{experts}x{rows}x{n}x{k}"
        if wanted(name):
            a = torch.randn(experts * rows, k, dtype=torch.bfloat16, device="cuda")
            b = torch.randn(experts, n, k, dtype=torch.bfloat16, device="cuda").transpose(1, 2)
            ends = torch.arange(rows, experts * rows + 1, rows, dtype=torch.int32, device="cuda")
            yield name, {"grouped_mm": through(a, b, ends)}


if __name__ == "__main__":
    sys.exit(torch_peer.compare_on_gpu(__doc__, cases))
