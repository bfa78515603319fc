"""One executable of the benchmarks beside PyTorch, on one thread or on a GPU, in turns: one round of ours, one of its."""
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


def found_torch():
    """PyTorch, or None and a sentence."""
    try:
        import torch
        return torch
    except ImportError:
        print("PyTorch is not installed")
        return None


def options_of(description, rounds):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executable", required=True)
    parser.add_argument("--json", required=True)
    parser.add_argument("--rounds", type=int, default=rounds)
    return parser


def write(file, context, torch, benchmarks):
    with open(file, "w") as out:
        json.dump({"context": dict(context, peers=f"PyTorch {torch.__version__}"), "benchmarks": benchmarks}, out, indent=1)


def compare(description, cases, repeats, inner=1):
    """cases(torch) yields (name of our benchmark, what PyTorch runs, its name). Returns the exit status; 77 without PyTorch."""
    options = options_of(description, 9).parse_args()
    torch = found_torch()
    if torch is None:
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
    write(options.json, context, torch, benchmarks)
    return 0


def measure_torch_on_gpu(torch, work, flush):
    """Seconds of one work(), by events, the second-level cache emptied before: that takes the GPU longer than Python takes to start the work."""
    times = []
    for _ in range(6):
        flush.zero_()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times[1:])


def compare_on_gpu(description, cases):
    """cases(torch, wanted) yields (name of our benchmark, {name of a peer: what PyTorch runs}) for names that wanted(name) holds of.
    A peer that refuses a case is named in its label. Returns the exit status; 77 without PyTorch or a GPU."""
    parser = options_of(description, 5)
    parser.add_argument("--filter", default="")
    options = parser.parse_args()
    torch = found_torch()
    if torch is None:
        return 77
    if not torch.cuda.is_available():
        print("PyTorch sees no GPU")
        return 77
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    benchmarks, context = [], {}
    for name, peers in cases(torch, lambda name: options.filter in name):
        ours, theirs, refused = [], {peer: [] for peer in peers}, []
        for _ in range(options.rounds):
            seconds, context = measure_ours(options.executable, name, "$")
            ours.append(seconds)
            for peer, work in peers.items():
                try:
                    theirs[peer].append(measure_torch_on_gpu(torch, work, flush))
                except RuntimeError as error:
                    if peer not in refused:
                        refused.append(peer)
                        print(f"{name}: {peer}: {str(error).splitlines()[0]}", file=sys.stderr)
        ratios = {peer: statistics.median(t / o for o, t in zip(ours, times)) for peer, times in theirs.items() if len(times) == len(ours)}
        case = {"name": f"{name}/torch", "run_type": "iteration", "real_time": statistics.median(ours) * 1e6, "time_unit": "us",
                "label": f"peers: PyTorch {torch.__version__} {', '.join(ratios)}" + (f"; refused by {', '.join(refused)}" if refused else "")}
        case.update({f"peer_ratio.{peer}": ratio for peer, ratio in ratios.items()})
        if ratios:
            case["peer_ratio"] = min(ratios.values())          # the best of them
        benchmarks.append(case)
        print(case["name"], {peer: round(ratio, 3) for peer, ratio in ratios.items()}, flush=True)
    write(options.json, context, torch, benchmarks)
    return 0
