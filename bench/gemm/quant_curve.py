#!/usr/bin/env python3
"""The curve of W4A16 over the number of rows: tokens a second beside what memory and arithmetic allow, and its worst dip.

usage: quant_curve.py --executable PATH/bench.quant --json FILE [--svg FILE] [--rounds 3]
`worst_step` is the least quotient of neighbouring points' tokens a second: 0.95 means that they fall by 5 % once. Each point
is the best of some runs of its case, each of which is a median: what other programs take is not a dip.
"""
import argparse
import json
import math
import os
import subprocess
import tempfile

CASE = "quant/w4g128a16/"


def measure(executable, rounds):
    points, context = {}, {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "out.json")
            subprocess.run([executable, f"--benchmark_filter=^{CASE}", f"--benchmark_out={out}", "--benchmark_out_format=json"], check=True, stdout=subprocess.DEVNULL)
            with open(out) as file:
                result = json.load(file)
        context = result["context"]
        for case in result["benchmarks"]:
            if case.get("error_occurred"):
                raise SystemExit(f"{case['name']}: {case['error_message']}")
            rows = int(case["name"][len(CASE):].split("x")[0])
            seconds = case["real_time"] * 1e-6
            point = {"rows": rows, "tokens": rows / seconds, "memory": rows / (case["bytes/s"] * seconds / case["limit_bytes/s"]),
                     "arithmetic": rows / (case["FLOP/s"] * seconds / case["limit_FLOP/s"])}
            if rows not in points or point["tokens"] > points[rows]["tokens"]:
                points[rows] = point
    return [points[rows] for rows in sorted(points)], context


def draw(points, context, path):
    wide, high, left, top, right, bottom = 720, 400, 70, 40, 20, 50
    most = max(p["tokens"] for p in points)
    ceiling = 10 ** math.ceil(math.log10(max(most, max(min(p["memory"], p["arithmetic"]) for p in points))))
    floor = 10 ** math.floor(math.log10(min(p["tokens"] for p in points)))
    last = points[-1]["rows"]
    x = lambda rows: left + (wide - left - right) * math.log2(rows) / math.log2(last)
    y = lambda tokens: high - bottom - (high - top - bottom) * math.log10(max(tokens, floor) / floor) / math.log10(ceiling / floor)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" font-size="12">',
           f'<rect width="{wide}" height="{high}" fill="white"/>',
           f'<clipPath id="plot"><rect x="{left}" y="{top - 1}" width="{wide - left - right}" height="{high - top - bottom + 2}"/></clipPath>',
           f'<text x="{left}" y="22" font-size="14">W4A16 (int4, groups of 128), 4096 x 4096 from memory, one thread: tokens a second</text>']
    decade = floor
    while decade <= ceiling:
        out.append(f'<line x1="{left}" x2="{wide - right}" y1="{y(decade):.1f}" y2="{y(decade):.1f}" stroke="#ddd"/><text x="{left - 6}" y="{y(decade) + 4:.1f}" text-anchor="end">{decade:g}</text>')
        decade *= 10
    rows = 1
    while rows <= last:
        out.append(f'<text x="{x(rows):.1f}" y="{high - bottom + 18}" text-anchor="middle">{rows}</text>')
        rows *= 2
    out.append(f'<text x="{(left + wide - right) / 2}" y="{high - 12}" text-anchor="middle">rows (tokens at a time)</text>')
    for key, colour, name, dash in (("memory", "#1f77b4", "memory's limit", "6 4"), ("arithmetic", "#d62728", "the dot's limit", "6 4"), ("tokens", "#222", "measured", "")):
        line = " ".join(f"{x(p['rows']):.1f},{y(p[key]):.1f}" for p in points)
        out.append(f'<polyline clip-path="url(#plot)" points="{line}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>')
    for i, (colour, name) in enumerate((("#1f77b4", "limit: read bandwidth"), ("#d62728", "limit: dot instruction"), ("#222", "measured"))):
        out.append(f'<text x="{wide - right - 6}" y="{high - bottom - 48 + 16 * i}" text-anchor="end" fill="{colour}">{name}</text>')
    for p in points:
        out.append(f'<circle cx="{x(p["rows"]):.1f}" cy="{y(p["tokens"]):.1f}" r="3" fill="#222"/>')
    out.append(f'<!-- {context.get("cpu", "")}, {context.get("date", "")} --></svg>')
    with open(path, "w") as file:
        file.write("\n".join(out) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executable", required=True)
    parser.add_argument("--json", required=True)
    parser.add_argument("--svg")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    points, context = measure(options.executable, options.rounds)
    worst = min(b["tokens"] / a["tokens"] for a, b in zip(points, points[1:]))
    case = {"name": CASE + "curve", "worst_step": worst, "points": points}
    with open(options.json, "w") as file:
        json.dump({"context": context, "benchmarks": [case]}, file, indent=1)
    if options.svg:
        draw(points, context, options.svg)
    for p in points:
        print(f"{p['rows']:>6} rows {p['tokens']:>10.0f} tokens/s   memory {p['memory']:>10.0f}   dot {p['arithmetic']:>10.0f}")
    print(f"worst step {worst:.3f}")


if __name__ == "__main__":
    main()
