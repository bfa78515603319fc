#!/usr/bin/env python3
"""select_k against PyTorch's topk on one thread, in turns: one round of bench.prim, one of topk.

usage: torch_topk.py --executable PATH/bench.prim --json FILE [--rounds 9]
Exits with 77 and a sentence where PyTorch is not installed.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import torch_peer

ROWS = 16   # different ones, or the branches of a selection are learned


def cases(torch):
    for arranged, n, k, is_sorted in [("by_index", 65536, 2048, False), ("best_first", 65536, 2048, True)]:
        rows = [torch.randn(n) for _ in range(ROWS)]

        def work():
            for row in rows:
                torch.topk(row, k, sorted=is_sorted)
        yield f"prim/select_k/f32/{arranged}/{n}to{k}", work, "topk"


if __name__ == "__main__":
    sys.exit(torch_peer.compare(__doc__, cases, repeats=4, inner=ROWS))
