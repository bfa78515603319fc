"""One executable of the benchmarks beside PyTorch on one thread, in turns: one round of ours, one of its."""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time


def measure_ours(executable, name, behind="/"):
    """Seconds and context of the one benchmark of that name; behind: what follows it, $ where nothing does."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.json")
        subprocess.run([executable, f"--benchmark_filter=^{name}{behind}", f"--benchmark_out={out}", "--benchmark_out_format=json"],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(out) as file:
            result = json.load(file)
    (case,) = result["benchmarks"]
    if case.get("error_occurred"):
        sys.exit(f"{name}: {case['error_message']}")
    return case["real_time"] * {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1}[case["time_unit"]], result["context"]


def measure_torch(work, repeats, inner):
    """Seconds of one work(), which stands for `inner` of our runs."""
    work()
    start = time.thread_time()
    for _ in range(repeats):
        work()
    return (time.thread_time() - start) / (repeats * inner)


def compare(description, cases, repeats, inner=1):
    """cases(torch) yields (name of our benchmark, what PyTorch runs, its name). Returns the exit status; 77 without PyTorch."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    with torch.no_grad():
        for name, work, function in cases(torch):
            ours, theirs = [], []
            for _ in range(options.rounds):
                seconds, context = measure_ours(options.executable, name)
                ours.append(seconds)
                theirs.append(measure_torch(work, repeats, inner))
            benchmarks.append({"name": f"{name}/torch", "run_type": "iteration", "real_time": statistics.median(ours) * 1e6, "time_unit": "us",
                               "peer_ratio.torch": statistics.median(t / o for o, t in zip(ours, theirs)),
                               "label": f"peers: PyTorch {torch.__version__} {function}, one thread"})
    with open(options.json, "w") as file:
        json.dump({"context": dict(context, peers=f"PyTorch {torch.__version__}"), "benchmarks": benchmarks}, file, indent=1)
    return 0
