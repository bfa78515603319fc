#!/usr/bin/env python3
"""Measures this machine and writes docs/performance: results as JSON, then the page and its pictures.

usage: performance.py [--only SET ...] [--build-dir build/release] [--no-build] [--no-page] [--results docs/performance]

Builds the benchmarks, runs each set, and writes bench_<set>.json into <results>/<processor>/. Run it on an idle machine: a set takes a
minute at most. Sets that are not asked for keep their results. The results of a GPU come from scripts/gpu.sh.
"""
import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import claims
import report

ROOT = Path(__file__).resolve().parents[1]
SETS = {  # name: (executable, filter)
    "products": ("bench.gemm", r"^gemm/(bf16|f32|s8)/[0-9]+x[0-9]+x[0-9]+/threads:1/"),
    "layers": ("bench.gemm", r"^gemm/bf16/llama3_8b.(out|gate_up)/.*threads:1/"),
    "quantized": ("bench.quant", r"^quant/(w4g128a16|q4_[01]xq8_[01]|ggml/[^/]+)/(1|4|16|128)x.*threads:1/"),
    "orders": ("bench.orders", r"^gemm/(f32|bf16)/order_"),
    "attention": ("bench.attention", r"^attention/.*threads:1/"),
    "sparse": ("bench.attention_sparse", r"^attention/"),
    "gradients": ("bench.attention_backward", r"^attention_backward/.*threads:1/"),
    "cache": ("bench.cache", r"^cache/.*threads:1/"),
    "experts": ("bench.moe", r"^(moe/(grouped|decode)|lora)/.*threads:1/"),
    "routing": ("bench.route", r"^route/.*threads:1/"),
    "primitives": ("bench.prim", r"^prim/"),
}
CONTEXT = ("date", "cpu", "num_cpus", "instructions", "compiler", "flags", "commit", "last_level_cache", "peers")
CASE = ("name", "run_type", "real_time", "time_unit", "label", "FLOP/s", "bytes/s", "error_occurred", "error_message", "disturbed", "spread",
        "dot_over_fma")


def kept(result):
    """What of a run is worth keeping: no paths, no host name, numbers with five digits."""
    def short(value):
        return float(f"{value:.5g}") if isinstance(value, float) else value
    return {"context": {k: result["context"][k] for k in CONTEXT if k in result["context"]},
            "benchmarks": [{k: short(v) for k, v in case.items() if k in CASE or re.match(r"(limit_|peer_ratio|bandwidth_share|to_best)", k)}
                           for case in result["benchmarks"]]}


def folder_name(cpu):
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"\((r|tm)\)|@.*|cpu|processor", "", cpu.lower())).strip("_") or "unknown"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS), metavar="SET", help=", ".join(SETS))
    parser.add_argument("--build-dir", type=Path, default=ROOT / "build" / "release")
    parser.add_argument("--no-build", action="store_true")
    parser.add_argument("--no-page", action="store_true")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "performance")
    options = parser.parse_args(arguments)
    runner = claims.Runner(options.build_dir, not options.no_build)
    failed = 0
    for name in options.only:
        target, wanted = SETS[name]
        problem = runner.make(target)
        if problem is not None or not runner.executable(target).exists():
            print(f"{name}: {target}: {problem or 'no such executable'}", file=sys.stderr)
            failed += 1
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.json"
            done = subprocess.run([str(runner.executable(target)), f"--benchmark_filter={wanted}", f"--benchmark_out={out}", "--benchmark_out_format=json"])
            if done.returncode != 0 or not out.exists():
                print(f"{name}: {target} ended with {done.returncode}", file=sys.stderr)
                failed += 1
                continue
            result = kept(json.loads(out.read_text()))
        to = options.results / folder_name(result["context"].get("cpu", ""))
        to.mkdir(parents=True, exist_ok=True)
        (to / f"bench_{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(f"{to / f'bench_{name}.json'}: {len(result['benchmarks'])} cases")
    if not options.no_page:
        report.make_page(options.results)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
