#!/usr/bin/env python3
"""Attention on a GPU beside PyTorch's scaled_dot_product_attention with its flash and its cuDNN back end: the prefill cases of
bench.attention.gpu, 16,384 tokens in sequences of 512 to 16,384, heads of 64, 128 and 256, causal and not. The executable and
PyTorch take turns, one case and one round at a time.

usage: torch_sdpa_gpu.py --executable PATH/bench.attention.gpu --json FILE [--rounds 5] [--filter PART]
Exits with 77 and a sentence where PyTorch or a GPU is missing. A back end that refuses a case is named in its label.
"""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import torch_peer

ALL = 16384


def cases(torch, wanted):
    backends = {"flash": torch.nn.attention.SDPBackend.FLASH_ATTENTION, "cudnn": torch.nn.attention.SDPBackend.CUDNN_ATTENTION}

    def through(backend, q, k, v, causal):
        def work():
            with torch.nn.attention.sdpa_kernel(backend):
                torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return work

    for d in (64, 128, 256):
        for tokens in (512, 1024, 2048, 4096, 8192, 16384):
            q, k, v = (torch.randn(ALL // tokens, 2048 // d, tokens, d, dtype=torch.bfloat16, device="cuda") for _ in range(3))
            for mask, causal in (("full", False), ("causal", True)):
                name = f"attention/prefill/{mask}/d{d}/{tokens}"
                if wanted(name):
                    yield name, {key: through(backend, q, k, v, causal) for key, backend in backends.items()}


if __name__ == "__main__":
    sys.exit(torch_peer.compare_on_gpu(__doc__, cases))
