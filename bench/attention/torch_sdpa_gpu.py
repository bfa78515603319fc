#!/usr/bin/env python3
"""Attention on a GPU beside PyTorch's scaled_dot_product_attention with its flash and its cuDNN back end: the prefill cases of
bench.attention.gpu, 16,384 tokens in sequences of 512 to 16,384, heads of 64, 128 and 256, causal and not. The executable and
PyTorch take turns, one case and one round at a time.

usage: torch_sdpa_gpu.py --executable PATH/bench.attention.gpu --json FILE [--rounds 5] [--filter PART]
Exits with 77 and a sentence where PyTorch or a GPU is missing. A back end that refuses a case is named in its label.
"""
import argparse
import json
import os
import statistics
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
import torch_peer

ALL = 16384


def theirs(torch, backend, q, k, v, causal, flush):
    """Seconds of one call, by events, the second-level cache emptied before."""
    times = []
    with torch.nn.attention.sdpa_kernel(backend):
        for _ in range(6):
            flush.zero_()
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executable", required=True)
    parser.add_argument("--json", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--filter", default="")
    options = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed")
        return 77
    if not torch.cuda.is_available():
        print("PyTorch sees no GPU")
        return 77
    backends = {"flash": torch.nn.attention.SDPBackend.FLASH_ATTENTION, "cudnn": torch.nn.attention.SDPBackend.CUDNN_ATTENTION}
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    cases, context = [], {}
    for d in (64, 128, 256):
        for tokens in (512, 1024, 2048, 4096, 8192, 16384):
            q, k, v = (torch.randn(ALL // tokens, 2048 // d, tokens, d, dtype=torch.bfloat16, device="cuda") for _ in range(3))
            for mask, causal in (("full", False), ("causal", True)):
                name = f"attention/prefill/{mask}/d{d}/{tokens}"
                if options.filter not in name:
                    continue
                mine, other, refused = [], {key: [] for key in backends}, []
                for _ in range(options.rounds):
                    seconds, context = torch_peer.measure_ours(options.executable, name, "$")
                    mine.append(seconds)
                    for key, backend in backends.items():
                        try:
                            other[key].append(theirs(torch, backend, q, k, v, causal, flush))
                        except RuntimeError as error:
                            if key not in refused:
                                refused.append(key)
                                print(f"{name}: {key}: {str(error).splitlines()[0]}", file=sys.stderr)
                case = {"name": f"{name}/torch", "run_type": "iteration", "real_time": statistics.median(mine) * 1e6, "time_unit": "us",
                        "label": f"peers: PyTorch {torch.__version__} {', '.join(key for key in backends if other[key])}" + (f"; refused by {', '.join(refused)}" if refused else "")}
                ratios = {key: statistics.median(t / m for t, m in zip(times, mine)) for key, times in other.items() if times}
                case.update({f"peer_ratio.{key}": ratio for key, ratio in ratios.items()})
                if ratios:
                    case["peer_ratio"] = min(ratios.values())          # the best of them
                cases.append(case)
                print(case["name"], {key: round(ratio, 3) for key, ratio in ratios.items()}, flush=True)
    with open(options.json, "w") as file:
        json.dump({"context": dict(context, peers=f"PyTorch {torch.__version__}"), "benchmarks": cases}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
