#!/usr/bin/env python3
"""Turns the JSON of our benchmarks into markdown tables, and the committed results into docs/performance.md with its pictures.

usage: report.py FILE.json [...] [--output TABLE.md]        tables
       report.py --page [--no-figures] [--results FOLDER]   FOLDER/<machine>/bench_*.json (default docs/performance) to FOLDER.md, and
                                                            FOLDER/<machine>/*.svg where there is matplotlib (scripts/plots.sh)
       report.py --page --check                             writes nothing; exits with 1 where the page is not what the results give
"""
import argparse
import json
import re
import sys
from pathlib import Path

from results import SECONDS, plain_name, scaled

ROOT = Path(__file__).resolve().parents[1]


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


FIGURES = {"shares.svg": "Each case's share of the machine's limit, its peers beside it", "roofline.svg": "Rates under the machine's roofline",
           "sizes.svg": "Rates of square products over their size", "ratios.svg": "Time of each peer over ours"}
PAGE = """# Performance

This page is made by one command from the results of its benchmarks: figures are not typed in. [bench/README.md](../bench/README.md) says what each
means and how it is measured; the bounds that we promise are claims (`python3 bench/claims.py`).

    python3 bench/performance.py          # measures on an idle machine (some minutes), writes docs/performance/<machine>/ and this page
    python3 bench/report.py --page        # makes the page and the pictures again (pictures: scripts/plots.sh)

A limit is measured in the same run: the machine's best instruction for the work, and the bandwidth of its memory where operands come from
there. A ratio above 1 means that ours is faster.
"""
NO_GPU = """## GPUs

**Not yet run on a GPU.** The kernels compile for sm_80 to sm_121 and their machine code is inspected ([machines.md](machines.md)), but no figure of a GPU
exists. On a machine with one, `bash scripts/gpu.sh` measures against cuBLASLt and writes `docs/performance/<gpu>/`; its results appear here.
"""


def machines_of(folder):
    """{folder of a machine: [(room, result)]}, of those that have results."""
    found = {}
    for machine in sorted(p for p in folder.iterdir() if p.is_dir()) if folder.exists() else []:
        results = [(path.stem.removeprefix("bench_"), json.loads(path.read_text())) for path in sorted(machine.glob("bench_*.json"))]
        if results:
            found[machine] = results
    return found


def where(result):
    context = result.get("context", {})
    return context.get("gpu") or context.get("cpu") or "?"


def page(folder):
    """The text of the page for the results in a folder. Pictures are named where they exist."""
    parts, gpu = [PAGE], False
    for machine, results in machines_of(folder).items():
        gpu = gpu or any("gpu" in r.get("context", {}) for _, r in results)
        parts.append(f"## {where(results[0][1])}\n")
        for file, words in FIGURES.items():
            if (machine / file).exists():
                parts.append(f"![{words}]({folder.name}/{machine.name}/{file})\n")
        for room, result in results:
            parts.append(f"### {room.replace('_', ' ')}\n\n{table(result)}")
    if not gpu:
        parts.append(NO_GPU)
    return "\n".join(parts)


def draw(folder):
    """Draws what each machine's results allow; False where there is no matplotlib."""
    try:
        import figures
    except ImportError as missing:
        print(f"no pictures: {missing}: scripts/plots.sh installs what draws them", file=sys.stderr)
        return False
    for machine, results in machines_of(folder).items():
        made = [name for name, _ in figures.draw([r for _, r in results], machine, where(results[0][1]))]
        for name in FIGURES:
            if name not in made:
                (machine / name).unlink(missing_ok=True)
    return True


def make_page(folder, figures=True, check=False):
    to = folder.with_suffix(".md")
    if check:
        same = to.exists() and to.read_text() == page(folder)
        print(f"{to.name} is what the results give" if same else f"{to.name} is not what the results give: run python3 bench/report.py --page")
        return 0 if same else 1
    if figures:
        draw(folder)
    to.write_text(page(folder))
    return 0


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--output")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "performance")
    parser.add_argument("--no-figures", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    if options.page:
        return make_page(options.results, not options.no_figures, options.check)
    if not options.files:
        parser.error("name the files of results, or --page")
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
