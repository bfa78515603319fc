#!/usr/bin/env python3
"""What the library costs a compiler.

usage: compile_cost.py include HEADER [--compiler g++]             a header over an empty file, g++ -c -O2
       compile_cost.py instantiate FILE.cu --arch 80 [--arch 90]   one kernel file with nvcc, for each architecture
       ... [--rounds 5] [--json FILE] [--limit SECONDS [--headroom 1.5]]

Seconds are processor time (user and system) of the compiler and what it starts: on an idle machine the time
on the wall is about the same, on a busy one only this is the compiler's. Medians; what is compared is compiled
in turns. With --limit the exit status is 1 where a case costs more than limit x headroom in its cheapest round (a
loaded machine shares its caches, so other work can only make a round dearer); a header counts over the empty file.
Exits with 77 and a sentence where the compiler is missing.
"""
import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = 77


def compile_seconds(line):
    """(processor seconds, wall seconds) of a command; ends the program where the command fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(line, capture_output=True, text=True)
    wall = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"does not compile: {' '.join(line)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, wall


def compare(line_for, subject, empty, rounds):
    """Medians of subject and of the empty file, compiled in turns."""
    times = {subject: [], empty: []}
    walls = {subject: [], empty: []}
    for _ in range(rounds):
        for source in (empty, subject):
            seconds, wall = compile_seconds(line_for(source))
            times[source].append(seconds)
            walls[source].append(wall)
    over = [s - e for s, e in zip(times[subject], times[empty])]
    return {"seconds": statistics.median(times[subject]), "seconds_empty": statistics.median(times[empty]),
            "seconds_over_empty": statistics.median(over), "wall_seconds": statistics.median(walls[subject]),
            "cheapest": min(times[subject]), "cheapest_over_empty": min(times[subject]) - min(times[empty])}


def version_of(compiler):
    text = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.splitlines()
    releases = [line for line in text if "release" in line]
    return releases[-1].strip() if releases else text[0].strip() if text else "unknown"


def find_nvcc():
    """nvcc as scripts/cuda.sh finds it, without installing anything."""
    script = ROOT / "scripts" / "cuda.sh"
    if script.exists():
        found = subprocess.run(["bash", str(script), "--no-install"], capture_output=True, text=True)
        if found.returncode == 0 and found.stdout.strip():
            return str(Path(found.stdout.strip().splitlines()[-1]) / "bin" / "nvcc")
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["include", "instantiate"])
    parser.add_argument("subject")
    parser.add_argument("--arch", action="append", default=[], help="compute capability, as 90")
    parser.add_argument("--compiler")
    parser.add_argument("--flags", default="", help="more flags, in one word separated by blanks")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--json", default="-")
    parser.add_argument("--limit", type=float, help="seconds")
    parser.add_argument("--headroom", type=float, default=1.0, help="factor on the limit")
    options = parser.parse_args()

    compiler = options.compiler or ("g++" if options.what == "include" else find_nvcc())
    if compiler is None or shutil.which(compiler) is None:
        print(f"no {compiler}" if compiler else "no nvcc of 13.3 or newer (scripts/cuda.sh installs one)")
        return SKIPPED
    benchmarks = []
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.o")
        if options.what == "include":
            empty, subject = os.path.join(folder, "empty.cpp"), os.path.join(folder, "subject.cpp")
            Path(empty).write_text("\n")
            Path(subject).write_text(f"#include <{options.subject}>\n")
            figures = compare(lambda source: [compiler, "-std=c++20", "-O2", "-c", f"-I{ROOT / 'include'}", *options.flags.split(), source, "-o", out],
                              subject, empty, options.rounds or 5)
            benchmarks.append(dict(name=f"compile/include/{options.subject}", flags=options.flags, **figures))
        else:
            empty = os.path.join(folder, "empty.cu")
            Path(empty).write_text("\n")
            for arch in options.arch or ["80", "90", "100", "120"]:
                figures = compare(lambda source: [compiler, "-std=c++20", "-O3", "--enable-tile", "-c", f"-I{ROOT / 'include'}", *options.flags.split(),
                                                  f"--generate-code=arch=compute_{arch},code=sm_{arch}", source, "-o", out],
                                  str(ROOT / options.subject), empty, options.rounds or 3)
                benchmarks.append(dict(name=f"compile/{Path(options.subject).stem}/sm_{arch}", **figures))
    for case in benchmarks:
        case.update(real_time=case["seconds"], time_unit="s", label=version_of(compiler))
    text = json.dumps({"context": {"date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "compiler": version_of(compiler), "peers": "none"},
                       "benchmarks": benchmarks}, indent=1)
    if options.json == "-":
        print(text)
    else:
        Path(options.json).write_text(text + "\n")
    if options.limit is None:
        return 0
    cost = "cheapest_over_empty" if options.what == "include" else "cheapest"
    dear = [case for case in benchmarks if case[cost] > options.limit * options.headroom]
    for case in dear:
        print(f"too dear: {case['name']} costs {case[cost]:.2f} s, the limit is {options.limit:.2f} s x {options.headroom:.2f}", file=sys.stderr)
    return 1 if dear else 0


if __name__ == "__main__":
    sys.exit(main())
