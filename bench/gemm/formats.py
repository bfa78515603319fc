#!/usr/bin/env python3
"""Error and time of every format of weights: runs bench.formats, writes the page docs/ops/gemm/quality.md and serves the claims quant.quality.*.

usage: formats.py --executable PATH/bench.formats --json FILE [--page] [--no-times]
       formats.py --from FILE --page             the page again, from results that are there

SmolLM2's file is taken where scripts/model.sh has left it; nothing is downloaded.
"""
import argparse
import json
import os
import pathlib
import platform
import re
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "ops" / "gemm" / "quality.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def processor():
    try:
        return re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        return platform.processor()


def measure(executable, times):
    found = subprocess.run(["bash", ROOT / "scripts" / "model.sh", "--no-download"], capture_output=True, text=True)
    part = pathlib.Path(f"{executable}.{os.getpid()}.json")
    command = [executable, "--json", part] + (["--smollm", found.stdout.strip()] if found.returncode == 0 else []) + ([] if times else ["--no-times"])
    try:
        subprocess.run([str(word) for word in command], check=True, stderr=subprocess.DEVNULL)
        result = json.loads(part.read_text())
    finally:
        part.unlink(missing_ok=True)
    result["context"] = {"cpu": processor(), "date": time.strftime("%Y-%m-%d"), "smollm2": found.returncode == 0}
    return result


def table(result):
    number = lambda x: "-" if x is None else f"{x:.4f}" if x < 0.0995 else f"{x:.3f}"
    lines = [f"One thread of {result['context']['cpu']}, {result['context']['date']}.", "",
             "| format | bytes of 4096 x 4096 | bits a weight | expected | normal | kjv-5m | of expected | SmolLM2 | 1 row | 16 rows |",
             "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for case in result["benchmarks"]:
        times = [f"{case[key] * 1000:.1f}" if key in case else "-" for key in ("ns_per_weight_1", "ns_per_weight_16")]
        if "bytes" not in case:
            lines.append(f"| bf16, `{case['type']}` | {4096 * 4096 * 2:,} | 16 | | | | | | {times[0]} | {times[1]} |")
            continue
        own = case["specified"] == 0
        lines.append(f"| `{case['type']}` | {case['bytes']:,} | {case['bits']:.3f} | {number(None if own else case['specified'])} | {number(case['gaussian'])} | {number(case.get('kjv_5m'))} | "
                     f"{case['over_expected']:.2f} | {number(case.get('smollm2'))} | {times[0]} | {times[1]} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executable")
    parser.add_argument("--json")
    parser.add_argument("--from", dest="source")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--no-times", action="store_true")
    options = parser.parse_args()
    if (options.executable is None) == (options.source is None):
        parser.error("either --executable or --from")
    result = measure(options.executable, not options.no_times) if options.executable else json.loads(pathlib.Path(options.source).read_text())
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    if options.page:
        text = PAGE.read_text()
        begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        PAGE.write_text(text[:begin] + "\n" + table(result) + "\n" + text[end:])


if __name__ == "__main__":
    main()
