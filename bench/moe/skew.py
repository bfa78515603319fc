#!/usr/bin/env python3
"""Draws loads of recorded routers, and time against their skew.

    skew.py BENCH.json ROUTING.bin OUT.svg

BENCH.json: bench.moe --benchmark_filter=^moe/skew --benchmark_format=json; ROUTING.bin: tests/golden/routing.bin. Needs nothing but Python.
"""
import json
import struct
import sys


def traces(path):
    data = open(path, "rb").read()
    tokens, experts, choices, count = struct.unpack_from("<4i", data)
    at = 16 + 4 * tokens * experts
    for _ in range(count):
        exponent, = struct.unpack_from("<f", data, at)
        at += 4 + 4 * experts
        ids = data[at:at + tokens * choices]
        at += tokens * choices
        yield exponent, sorted((ids.count(e) for e in range(experts)), reverse=True)


def main():
    times = {}
    for run in json.load(open(sys.argv[1]))["benchmarks"]:
        if not run["name"].startswith("moe/skew/"):
            continue
        part = run["name"].split("/")[2]
        times[-1.0 if part == "one" else float(part.split(":")[1])] = run["real_time"] * {"ns": 1e-6, "us": 1e-3, "ms": 1}[run["time_unit"]]
    recorded = list(traces(sys.argv[2]))
    labels = ["one expert" if e < 0 else f"Zipf {e:g}" for e, _ in recorded]
    colours = ["#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677"]
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 300" font-family="sans-serif" font-size="12">']
    text = lambda x, y, s, anchor="start": out.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{s}</text>')
    text(40, 20, "rows of 16 experts, recorded (768 tokens, 2 choices)")
    most = max(loads[0] for _, loads in recorded)
    for n, ((_, loads), colour) in enumerate(zip(recorded, colours)):
        points = " ".join(f"{50 + 20 * e:.1f},{260 - 220 * load / most:.1f}" for e, load in enumerate(loads))
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<rect x="230" y="{40 + 18 * n}" width="12" height="12" fill="{colour}"/>')
        text(248, 51 + 18 * n, f"{labels[n]}: {loads[0]} at most")
    out.append('<path d="M45 35V260H360" fill="none" stroke="#444"/>')
    text(40, 278, "experts by load"), text(42, 45, str(most), "end"), text(42, 262, "0", "end")
    text(420, 20, "time of the layer, one thread, ms")
    top = max(times.values())
    for n, ((exponent, _), colour) in enumerate(zip(recorded, colours)):
        high = 210 * times[exponent] / top
        out.append(f'<rect x="{430 + 64 * n}" y="{260 - high:.1f}" width="44" height="{high:.1f}" fill="{colour}"/>')
        text(452 + 64 * n, 254 - high, f"{times[exponent]:.2f}", "middle"), text(452 + 64 * n, 278, labels[n], "middle")
    out.append('<path d="M420 260H750" stroke="#444"/>\n</svg>')
    open(sys.argv[3], "w").write("\n".join(out) + "\n")


main()
