#!/usr/bin/env python3
"""Turns Google Benchmark's JSON of our benchmarks into markdown tables.

usage: report.py FILE.json [...] [--output TABLE.md]
"""
import argparse
import json
import re
import sys

SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}


def scaled(value, unit):
    """1.234e12, 'FLOP/s' -> '1.23 TFLOP/s': three significant digits."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n")):
        if abs(value) >= factor:
            number = value / factor
            digits = 0 if number >= 100 else 1 if number >= 10 else 2
            return f"{number:.{digits}f} {prefix}{unit}"
    return f"0 {unit}"


def plain_name(name):
    return re.sub(r"/(iterations:\d+|manual_time|real_time|process_time)(?=/|$)", "", name)


def peer_cells(case):
    """One entry 'ratio x peer' for each peer, in the order of the label."""
    label = case.get("label", "")
    peers = re.match(r"peers: (.*?)(?:; limit: |$)", label)
    names = re.split(r", (?=oneDNN|OpenBLAS|PyTorch|std::|cuBLAS|cuDNN|\d+ single)", peers.group(1)) if peers else []
    first = case.get("peer_ratio")
    ratios = {key.removeprefix("peer_ratio."): value for key, value in case.items() if key.startswith("peer_ratio.")}
    cells = [f"{first:.2f} x {names[0]}"] if first is not None and names else [f"{first:.2f}"] if first is not None else []
    others = [(key, value) for key, value in sorted(ratios.items()) if value != first]
    return cells + [f"{value:.2f} x {key}" for key, value in others]


def row(case):
    name = plain_name(case["name"])
    if case.get("error_occurred"):
        return [name, f"error: {case.get('error_message', '?')}", "", "", "", ""]
    seconds = case["real_time"] * SECONDS[case.get("time_unit", "ns")]
    limit = re.search(r"limit: (.*)$", case.get("label", ""))
    share = f"{case['limit_share']:.2f}" + (f" of {limit.group(1)}" if limit else "") if "limit_share" in case else ""
    return [name, scaled(seconds, "s"), scaled(case["FLOP/s"], "FLOP/s") if "FLOP/s" in case else "",
            scaled(case["bytes/s"], "B/s") if "bytes/s" in case else "", share, "; ".join(peer_cells(case))]


def table(result):
    context = result.get("context", {})
    lines = []
    for key in ("cpu", "gpu", "driver", "toolkit", "compiler", "flags", "instructions", "peers", "absent", "commit", "date"):
        if context.get(key):
            lines.append(f"- {key}: {context[key]}")
    head = ["case", "time", "FLOP/s", "bytes/s", "share of the limit", "ratio to peers (above 1: ours is faster)"]
    rows = [row(case) for case in result.get("benchmarks", []) if case.get("run_type", "iteration") == "iteration"]
    used = [i for i in range(len(head)) if i < 2 or any(r[i] for r in rows)]
    lines += ["", "| " + " | ".join(head[i] for i in used) + " |", "|" + "|".join(" --- " if i == 0 else " ---: " for i in used) + "|"]
    lines += ["| " + " | ".join(r[i].replace("|", "\\|") for i in used) + " |" for r in rows]
    return "\n".join(lines) + "\n"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--output")
    options = parser.parse_args(arguments)
    parts = []
    for path in options.files:
        with open(path) as file:
            parts.append(table(json.load(file)))
    text = "\n".join(parts)
    if options.output:
        with open(options.output, "w") as file:
            file.write(text)
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
