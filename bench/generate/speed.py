#!/usr/bin/env python3
"""Tokens a second of generate on SmolLM2-135M-Instruct beside llama.cpp on the same file, in turns: prefill of 512 tokens and decode of 64, with 1 and 2
threads, behind 0 and 2,048 tokens; the file's Q4_1, and Q4_0 by llama.cpp's own tool. Of llama.cpp the better setting of flash attention counts.

usage: speed.py --json FILE [--generate PATH] [--rounds 5] [--threads 1,2] [--depths 0,2048] [--only q4_1] [--table FILE.md]
SMALTI_LLAMA names the program built from bench/generate/llama_bench.cpp (bench/README.md). Exit status 77 where that or the model is missing.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PREFILL, DECODE = 512, 64


def last_json(command, threads):
    # The runtime's own way of waiting: with OMP_WAIT_POLICY=active one thread waits for ever for a partner whose processor somebody else has taken.
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"} | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True)
    parser.add_argument("--generate", default=os.path.join(ROOT, "build", "release", "examples", "generate", "generate"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--depths", default="0,2048")
    parser.add_argument("--only", default="q4_1,q4_0")
    parser.add_argument("--table")
    options = parser.parse_args()
    llama = os.environ.get("SMALTI_LLAMA", "")
    found = subprocess.run(["bash", os.path.join(ROOT, "scripts", "model.sh"), "--no-download"], capture_output=True, text=True)
    for missing, what in ((not os.path.exists(llama), "SMALTI_LLAMA does not name a program"), (found.returncode != 0, "the model is not here"),
                          (not os.path.exists(options.generate), f"no {options.generate}: build the target generate")):
        if missing:
            print(what)
            return 77
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only.split(","):
            file = found.stdout.strip()
            if name == "q4_0":
                file = os.path.join(folder, "q4_0.gguf")
                subprocess.run([llama, "--quantize", found.stdout.strip(), file], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            # Its build 0c1e570 stops with a fault in its AMX kernels on some processors: then without them, and without its repacked weights.
            os.environ.pop("SMALTI_LLAMA_PLAIN", None)
            plain = subprocess.run([llama, file, "1", "0", "64", "1", "0"], capture_output=True).returncode != 0
            if plain:
                os.environ["SMALTI_LLAMA_PLAIN"] = "1"
            for threads in map(int, options.threads.split(",")):
                for depth in map(int, options.depths.split(",")):
                    ours = lambda activations: [options.generate, "--model", file, "--json", "--threads", str(threads), "--activations", activations, "--context", "4096",
                                                "--speed", f"{PREFILL},{DECODE},{depth}"]
                    theirs = lambda flash: [llama, file, str(threads), str(flash), str(PREFILL), str(DECODE), str(depth)]
                    runs = {"int8": ours("int8"), "bf16": ours("bf16"), "flash": theirs(1), "plain": theirs(0)}
                    got = {key: [] for key in runs}
                    for _ in range(options.rounds):
                        for key, command in runs.items():
                            got[key].append(last_json(command, threads))
                    median = lambda key, figure: statistics.median(r[figure] for r in got[key])
                    peer = {figure: max(median("flash", figure), median("plain", figure)) for figure in ("prefill", "decode")}
                    case = {"name": f"generate/{name}/threads:{threads}/depth:{depth}", "llama_plain": int(plain),
                            "bandwidth_share": statistics.median(r["weight_bytes_per_second"] / r["read_bytes_per_second"] for r in got["int8"])}
                    for figure in ("prefill", "decode"):
                        case[figure] = median("int8", figure)
                        case[figure + "_bf16"] = median("bf16", figure)
                        case[figure + "_llama"] = peer[figure]
                        case[figure + "_ratio"] = case[figure] / peer[figure]
                    cases.append(case)
                    print(f"{case['name']}: prefill {case['prefill']:.0f} (bf16 {case['prefill_bf16']:.0f}, llama.cpp {case['prefill_llama']:.0f}), "
                          f"decode {case['decode']:.1f} (bf16 {case['decode_bf16']:.1f}, llama.cpp {case['decode_llama']:.1f}), share of read bandwidth {case['bandwidth_share']:.2f}", flush=True)
    with open(options.json, "w") as file:
        json.dump({"context": {"cpu": platform.processor(), "peers": "llama.cpp"}, "benchmarks": cases}, file, indent=1)
    if options.table:
        with open(options.table, "w") as file:
            file.write("| weights | threads | behind | prefill: int8, bf16, llama.cpp | decode: int8, bf16, llama.cpp | share of read bandwidth |\n|---|---|---|---|---|---|\n")
            for c in cases:
                _, name, threads, depth = c["name"].split("/")
                file.write(f"| {name} | {threads[8:]} | {depth[6:]} | {c['prefill']:.0f}, {c['prefill_bf16']:.0f}, {c['prefill_llama']:.0f} ({c['prefill_ratio']:.1f}x) | "
                           f"{c['decode']:.0f}, {c['decode_bf16']:.0f}, {c['decode_llama']:.0f} ({c['decode_ratio']:.2f}x) | {c['bandwidth_share']:.2f} |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
