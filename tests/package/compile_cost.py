#!/usr/bin/env python3
"""What including a header costs: processor seconds of the compiler over an empty file.

    compile_cost.py --compiler g++ --include include --header smalti/ops/gemm.hpp --limit 1.0 [--headroom 1.5] [flags ...]

The smallest of several runs counts, of the header and of the empty file in turn: other processes on the machine can
only make a run dearer. Fails above limit x headroom, because a loaded machine shares its caches too; the record in
docs/ is kept against the limit itself. --json prints one object for that record.
"""
import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile


def seconds(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"compile_cost: {' '.join(command)} failed:\n{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--include", default=str(pathlib.Path(__file__).resolve().parents[2] / "include"))
    parser.add_argument("--header", required=True)
    parser.add_argument("--limit", type=float, required=True, help="seconds")
    parser.add_argument("--headroom", type=float, default=1.0, help="factor on the limit")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args, flags = parser.parse_known_args()
    if not os.path.exists(os.path.join(args.include, args.header)):
        sys.exit(f"compile_cost: there is no {args.header} under {args.include}")
    flags = flags or ["-std=c++20", "-O2"]
    with tempfile.TemporaryDirectory() as work:
        empty, full = os.path.join(work, "empty.cpp"), os.path.join(work, "full.cpp")
        pathlib.Path(empty).write_text("")
        pathlib.Path(full).write_text(f"#include <{args.header}>\n")
        times = {empty: [], full: []}
        for _ in range(args.runs):
            for source in (empty, full):
                times[source].append(seconds([args.compiler, *flags, "-I", args.include, "-c", source, "-o", source + ".o"]))
    cost = min(times[full]) - min(times[empty])
    holds = cost <= args.limit * args.headroom
    if args.json:
        print(json.dumps({"header": args.header, "compiler": args.compiler, "flags": flags, "seconds": round(cost, 3),
                          "limit": args.limit, "headroom": args.headroom, "holds": holds}))
    else:
        print(f"{args.header}: {cost:.2f} s over an empty file with {args.compiler} {' '.join(flags)}; "
              f"limit {args.limit:.2f} s, head-room x {args.headroom:.2f}: {'holds' if holds else 'too dear'}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
