#!/usr/bin/env python3
"""Attention against PyTorch's scaled_dot_product_attention in bf16 on one thread, in turns: one round of bench.attention,
one of PyTorch. d = 128, 4,096 tokens, one head, without a mask and causal.

usage: torch_sdpa.py --executable PATH/bench.attention --json FILE [--rounds 9]
Exits with 77 and a sentence where PyTorch is not installed.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

CASES = [("full", False), ("causal", True)]
TOKENS, HEAD = 4096, 128


def measure_ours(executable, name):
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.json")
        subprocess.run([executable, f"--benchmark_filter=^{name}/", f"--benchmark_out={out}", "--benchmark_out_format=json"],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(out) as file:
            result = json.load(file)
    (case,) = result["benchmarks"]
    if case.get("error_occurred"):
        sys.exit(f"{name}: {case['error_message']}")
    return case["real_time"] * {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1}[case["time_unit"]], result["context"]


def measure_torch(torch, q, k, v, causal):
    attend = torch.nn.functional.scaled_dot_product_attention
    attend(q, k, v, is_causal=causal)
    start = time.thread_time()
    for _ in range(3):
        attend(q, k, v, is_causal=causal)
    return (time.thread_time() - start) / 3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executable", required=True)
    parser.add_argument("--json", required=True)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed")
        return 77
    torch.set_num_threads(1)
    benchmarks, context = [], {}
    for mask, causal in CASES:
        name = f"attention/prefill/{mask}/d{HEAD}/{TOKENS}/threads:1"
        q, k, v = (torch.randn(1, 1, TOKENS, HEAD, dtype=torch.bfloat16) for _ in range(3))
        ours, theirs = [], []
        with torch.no_grad():
            for _ in range(options.rounds):
                seconds, context = measure_ours(options.executable, name)
                ours.append(seconds)
                theirs.append(measure_torch(torch, q, k, v, causal))
        benchmarks.append({"name": f"{name}/torch", "run_type": "iteration", "real_time": statistics.median(ours) * 1e6, "time_unit": "us",
                           "peer_ratio.torch": statistics.median(t / o for o, t in zip(ours, theirs)),
                           "label": f"peer: PyTorch {torch.__version__}, scaled_dot_product_attention"})
    with open(options.json, "w") as file:
        json.dump({"context": context, "benchmarks": benchmarks}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
