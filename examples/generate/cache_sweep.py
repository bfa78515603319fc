#!/usr/bin/env python3
"""Bits per byte, facts found again and bytes held for every --cache of generate, against its budget: measured, tabled and drawn.

usage: cache_sweep.py --generate PROGRAM --model FILE.gguf [--json FILE] [--seconds N] [--only SYSTEM,...]      measures what FILE lacks
       cache_sweep.py --draw [--json FILE] [--kept FOLDER]      the table of docs/ops/cache/quality.md, quality.svg and kept.svg
       cache_sweep.py --generate PROGRAM --model FILE.gguf --maps FOLDER      what each system keeps of one prompt, for --kept
"""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs/ops/cache"
MODEL = ROOT / "examples/models/smollm2-135m"
EVICT = ["snapkv", "h2o", "scissorhands", "tova", "streaming", "pyramid", "ada", "d2o", "hired"]
SYSTEMS = {**{name: "keeps" for name in EVICT}, "mikv": "demotes", "kivi": "bits", "quest": "reads", "sparf": "reads", "actqkv": "reads"}
SHARES = ["1", "0.5", "0.25", "0.125"]
WINDOW, SKIP, WINDOWS = 1024, 768, 1
LENGTHS, CONTEXTS = [512], 2      # of contexts, and how many of each
ROOM = 2048      # tokens of the pool: while survivors move, old pages are held beside the new ones
SHOWN_SHARE = {"1": "100 %", "0.5": "50 %", "0.25": "25 %", "0.125": "12.5 %"}


def cases():
    yield "dense"
    for share in ["0.25", "0.125", "0.5", "1"]:
        for system in SYSTEMS:
            if not (system == "kivi" and share == "1"):      # sixteen bits are the plain cache
                yield f"{system}:{share}"


# What is told of least comes last: a long sweep comes in pieces.
def order(options):
    only = options.only.split(",") if options.only else None
    all_cases = [case for case in cases() if not only or case.split(":")[0] in only]
    begins = lambda case: ["bits", "asked" if asks_first(case) else "recall"]
    for case in all_cases:
        if not case.endswith(":1"):
            yield case, begins(case)
    for share in ["0.25", "0.5", "0.125"]:
        for case in all_cases:
            if case.endswith(f":{share}") or case == "dense":
                yield case, ["recall"]
    for case in all_cases:
        if case.endswith(":1"):
            yield case, begins(case)


def asks_first(case):
    """Where the prompt decides what is left: a question in it, or behind it."""
    return SYSTEMS.get(case.split(":")[0], "keeps") in ("keeps", "demotes", "bits")


def run(options, arguments):
    command = [options.generate, "--model", options.model, "--threads", str(options.threads), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(options, results):
    end = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as folder:
        contexts = Path(folder) / "recall.jsonl"
        every = (MODEL / "recall.jsonl").read_text().splitlines()
        lines = [line for length in LENGTHS for line in [one for one in every if json.loads(one)["length"] == length][:CONTEXTS]]
        contexts.write_text("\n".join(lines) + "\n")
        questions = ["--recall", str(contexts), "--context", str(ROOM)]
        arguments_of = {
            "bits": ["--eval", str(MODEL / "eval.txt"), "--window", str(WINDOW), "--skip", str(SKIP), "--windows", str(WINDOWS), "--context", str(ROOM)],
            "recall": questions,
            "asked": [*questions, "--ask-first"],
        }
        for case, wanted in order(options):
            have = results.setdefault(case, {})
            for what in wanted:
                arguments = arguments_of[what]
                if what in have:
                    continue
                if time.monotonic() > end:
                    return False
                begin = time.monotonic()
                try:
                    have[what] = run(options, [*arguments, "--cache", case])
                except RuntimeError as failure:
                    print(f"{case} {what}: {failure}", flush=True)
                    continue
                write(options.json, results)
                print(f"{case} {what} {time.monotonic() - begin:.0f} s: {have[what].get('bits_per_byte', have[what].get('right'))}", flush=True)
    return True


def write(path, results):
    part = Path(str(path) + ".part")
    part.write_text("{\n" + ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in results.items() if v) + "\n}\n")
    part.replace(path)


def recall(entry):
    if not entry:
        return ""
    return ", ".join(f"{p['right']}" for p in entry["by_length"])


def answers(entry):
    """With the question in the prompt, where that was asked."""
    return entry.get("asked") or entry.get("recall") or {}


def held(entry):
    """Bytes of the cache after its choice, of what they were before."""
    e = entry.get("bits", {})
    return e["settled_cache_bytes"] / e["prompt_cache_bytes"] if e.get("prompt_cache_bytes") else None


def table(results):
    total = answers(results["dense"])["asked"]
    lines = [f"| cache | budget | bytes held | bits per byte | loss | answered of {total}, question in the prompt | question behind it |",
             "|---|---|---|---|---|---|---|"]
    dense = results["dense"]["bits"]["bits_per_byte"]
    lines.append(f"| dense | | 100 % | {dense:.4f} | | {recall(results['dense'].get('asked'))} | {recall(results['dense'].get('recall'))} |")
    for system in SYSTEMS:
        for share in SHARES:
            entry = results.get(f"{system}:{share}")
            if not entry or "bits" not in entry:
                continue
            bits, bytes_held = entry["bits"]["bits_per_byte"], held(entry)
            lines.append(f"| `{system}:{share}` | {SHOWN_SHARE[share]} | {100 * bytes_held:.1f} % | {bits:.4f} | {bits - dense:+.4f} | {recall(entry.get('asked'))} | {recall(entry.get('recall'))} |")
    return "\n".join(lines) + "\n"


COLOURS = ["#1f6fb4", "#e07b00", "#2a9d4a", "#c0392b", "#7d4fb5", "#8c6d4f", "#d65aa6", "#666666", "#9aa500", "#17a2b8", "#003f5c", "#ff6b6b", "#4b8b3b", "#b08d00"]


def plot(results):
    """Bits per byte, and answers, against the budget: one line a system."""
    width, height, top, bottom = 470, 330, 50, 50
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * width + 170}" height="{height + 20}" font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="white"/>']
    dense = results["dense"]
    total = answers(dense)["asked"]

    def panel(left, title, value, low, high, base, digits, steps=5):
        x_of = lambda i: left + 60 + i * (width - 90) / (len(SHARES) - 1)
        y_of = lambda y: top + (height - top - bottom) * (high - min(max(y, low), high)) / (high - low)
        out.append(f'<text x="{left + 60}" y="26" font-size="14">{title}</text>')
        for i, share in enumerate(SHARES):
            out.append(f'<text x="{x_of(i):.0f}" y="{height - bottom + 18}" text-anchor="middle">{SHOWN_SHARE[share]}</text>')
        for i in range(steps + 1):
            y = low + (high - low) * i / steps
            out.append(f'<line x1="{x_of(0):.0f}" x2="{x_of(3):.0f}" y1="{y_of(y):.1f}" y2="{y_of(y):.1f}" stroke="#ddd"/><text x="{x_of(0) - 8:.0f}" y="{y_of(y) + 4:.1f}" text-anchor="end">{y:.{digits}f}</text>')
        out.append(f'<line x1="{x_of(0):.0f}" x2="{x_of(3):.0f}" y1="{y_of(base):.1f}" y2="{y_of(base):.1f}" stroke="#000" stroke-dasharray="4 3"/>')
        for k, system in enumerate(SYSTEMS):
            points = [(i, value(results.get(f"{system}:{share}", {}))) for i, share in enumerate(SHARES)]
            points = [(x_of(i), y_of(v)) for i, v in points if v is not None]
            if points:
                colour = COLOURS[k % len(COLOURS)]
                dash = {"reads": ' stroke-dasharray="6 3"', "bits": ' stroke-dasharray="2 2"', "demotes": ' stroke-dasharray="2 2"'}.get(SYSTEMS[system], "")
                out.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6"{dash} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
                out.extend([f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points])

    bits = [e["bits"]["bits_per_byte"] for e in results.values() if "bits" in e]
    base = dense["bits"]["bits_per_byte"]
    top_bits = min(max(bits), base + 0.12)
    panel(0, f"Bits per byte (less is better; above {top_bits:.2f}: at the edge)", lambda e: e.get("bits", {}).get("bits_per_byte"), min(bits) - 0.01, top_bits, base, 3)
    panel(width, f"Answers of {total}, the question in the prompt or read with", lambda e: answers(e).get("right"), 0, total, answers(dense)["right"], 0, 4)
    for k, system in enumerate(SYSTEMS):
        y = top + 18 * k
        out.append(f'<line x1="{2 * width + 10}" x2="{2 * width + 34}" y1="{y}" y2="{y}" stroke="{COLOURS[k % len(COLOURS)]}" stroke-width="2"/><text x="{2 * width + 40}" y="{y + 4}">{system}</text>')
    y = top + 18 * len(SYSTEMS)
    out.append(f'<line x1="{2 * width + 10}" x2="{2 * width + 34}" y1="{y}" y2="{y}" stroke="#000" stroke-dasharray="4 3"/><text x="{2 * width + 40}" y="{y + 4}">dense</text></svg>')
    return "\n".join(out) + "\n"


PROMPT_CHARACTERS = 960


def maps(options):
    folder = Path(options.maps)
    folder.mkdir(parents=True, exist_ok=True)
    # a context of facts among verses, cut to some two hundred tokens
    text = json.loads((MODEL / "recall.jsonl").read_text().splitlines()[0])["context"][:PROMPT_CHARACTERS]
    for system in [*EVICT, "mikv", "actqkv"]:
        # how many pages a layer reads follows from what the token before has read
        length = "9" if system == "actqkv" else "2"
        run(options, ["--cache", f"{system}:0.25", "--prompt", text, "--raw", "--length", length, "--kept", str(folder / f"{system}.json"), "--context", "1024"])


def kept_picture(folder):
    names = [name for name in [*EVICT, "mikv", "actqkv"] if (folder / f"{name}.json").exists()]
    maps = [json.loads((folder / f"{name}.json").read_text()) for name in names]
    columns, cell, line = 3, 1.4, 1.2
    tokens, rows = maps[0]["tokens"], maps[0]["layers"] * maps[0]["heads"]
    width, height = tokens * cell + 60, rows * line + 46
    lines = (len(names) + columns - 1) // columns
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{columns * width + 20:.0f}" height="{lines * height + 40:.0f}" font-family="sans-serif" font-size="11">', '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="12" y="18" font-size="14">What stays of {tokens} tokens where a head keeps {min(len(k) for k in maps[0]["kept"])} on average: tokens from left to right, {maps[0]["layers"]} layers of {maps[0]["heads"]} key heads from top to bottom</text>']
    for i, (name, m) in enumerate(zip(names, maps)):
        left, top = 40 + i % columns * width, 50 + i // columns * height
        out.append(f'<text x="{left:.0f}" y="{top - 5:.0f}" font-size="12">{name}</text><rect x="{left:.1f}" y="{top:.1f}" width="{tokens * cell:.1f}" height="{rows * line:.1f}" fill="#f3f3f3"/>')
        for layer in range(0, m["layers"], 10):
            out.append(f'<text x="{left - 6:.0f}" y="{top + layer * m["heads"] * line + 8:.0f}" text-anchor="end" fill="#666">{layer}</text>')
        path = []
        for row, places in enumerate(m["kept"]):
            runs = []
            for p in (p for p in places if p < tokens):
                if runs and runs[-1][1] == p:
                    runs[-1][1] = p + 1
                else:
                    runs.append([p, p + 1])
            path += [f"M{a} {row}h{b - a}" for a, b in runs]
        out.append(f'<path transform="translate({left:.1f} {top + line / 2:.1f}) scale({cell} {line})" d="{"".join(path)}" stroke="#1f4e79" fill="none" stroke-width="1"/>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


BEGIN, END = "<!-- table: begin (examples/generate/cache_sweep.py --draw) -->", "<!-- table: end -->"


def draw(options, results):
    page = PAGES / "quality.md"
    text = page.read_text()
    before, rest = text.split(BEGIN, 1)
    page.write_text(before + BEGIN + "\n\n" + table(results) + "\n" + END + rest.split(END, 1)[1])
    (PAGES / "quality.svg").write_text(plot(results))
    if options.kept:
        (PAGES / "kept.svg").write_text(kept_picture(Path(options.kept)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generate")
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--json", default=str(PAGES / "quality.json"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop before the next measurement after so long; what is there stays")
    parser.add_argument("--only", help="these systems alone")
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--maps")
    parser.add_argument("--kept")
    options = parser.parse_args()
    results = json.loads(Path(options.json).read_text()) if Path(options.json).exists() else {}
    if options.draw:
        return draw(options, results)
    if not options.generate:
        parser.error("--generate is missing: the program that is measured")
    if options.maps:
        return maps(options)
    return 0 if measure(options, results) else 75


if __name__ == "__main__":
    sys.exit(main())
