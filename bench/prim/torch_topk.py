#!/usr/bin/env python3
"""select_k against PyTorch's topk on one thread, in turns: one round of bench.prim, one of topk.

usage: torch_topk.py --executable PATH/bench.prim --json FILE [--rounds 9]
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

CASES = [("by_index", 65536, 2048, False), ("best_first", 65536, 2048, True)]


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


def measure_torch(torch, rows, k, is_sorted):
    for row in rows:
        torch.topk(row, k, sorted=is_sorted)
    start = time.thread_time()
    for _ in range(4):
        for row in rows:
            torch.topk(row, k, sorted=is_sorted)
    return (time.thread_time() - start) / (4 * len(rows))


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
    for arranged, n, k, is_sorted in CASES:
        name = f"prim/select_k/f32/{arranged}/{n}to{k}"
        rows = [torch.randn(n) for _ in range(16)]
        ours, theirs = [], []
        for _ in range(options.rounds):
            seconds, context = measure_ours(options.executable, name)
            ours.append(seconds)
            theirs.append(measure_torch(torch, rows, k, is_sorted))
        benchmarks.append({"name": name + "/torch", "real_time": statistics.median(ours) * 1e6, "time_unit": "us",
                           "peer_ratio.torch": statistics.median(t / o for o, t in zip(ours, theirs)),
                           "label": f"peers: PyTorch {torch.__version__} topk, one thread"})
    with open(options.json, "w") as file:
        json.dump({"context": dict(context, peers=f"PyTorch {torch.__version__}"), "benchmarks": benchmarks}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
