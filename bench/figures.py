"""Pictures of benchmark results as SVG, drawn by report.py --page. Needs matplotlib: python3's own, or scripts/plots.sh's.

The same results and the same matplotlib give the same bytes: no date, no random name, text as text. Every picture names its
axes with units, its peers, and the limit that was measured in the same run.
"""
import os
import re
import sys
from pathlib import Path

# behind python3's own packages, so that a matplotlib there comes first
sys.path.append(str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smalti" / "plots-{}.{}".format(*sys.version_info[:2])))
import matplotlib  # noqa: E402

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator  # noqa: E402

from results import peer_names, plain_name, scaled  # noqa: E402

OURS, LIMIT, GREY = "#1756a9", "#b3261e", "#5f6368"
PEER_COLOURS = {"oneDNN": "#e8850c", "oneDNN, packed weights": "#2e8b57", "OpenBLAS": "#8e44ad", "cuBLASLt": "#2e8b57", "ggml": "#00838f", "std::nth_element": "#7a5230",
                "std::nth_element of pairs": "#c2185b"}
MODELS = {"llama3_8b": "Llama-3 8B", "llama3_70b": "Llama-3 70B", "mixtral_8x7b": "Mixtral 8x7B", "deepseek_v3": "DeepSeek-V3", "smollm2_135m": "SmolLM2 135M"}
GROUPS = (("gemm/bf16/llama", "layers of a model, bf16"), ("gemm/", "square products"), ("quant/", "quantized weights"), ("attention/", "attention"), ("attention_backward/", "gradients of attention"),
          ("cache/", "cache compression"), ("moe/", "experts"), ("lora/", "adapters"), ("prim/", "primitives"))
TYPES = {"bf16": "#1756a9", "f32": "#2e8b57", "s8": "#8e44ad", "quantized weights": "#e8850c"}
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "smalti", "font.family": "sans-serif", "font.size": 10, "axes.spines.top": False,
    "axes.spines.right": False, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.grid": True, "grid.color": "#e4e6e8",
    "axes.axisbelow": True, "figure.facecolor": "white", "legend.frameon": False,
}


def save(figure, path):
    figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": f"bench/report.py, matplotlib {matplotlib.__version__}"})
    plt.close(figure)
    text = re.sub(r"[ \t]+\n", "\n", path.read_text())
    path.write_text(text)


def peer_colour(name):
    """The same colour for a peer in every picture."""
    return PEER_COLOURS.get(name, "#607d8b")


def group_of(case):
    name = plain_name(case["name"])
    layer = re.match(r"gemm/\w+/\w+\.", name)
    return next((i for i, (prefix, _) in enumerate(GROUPS) if name.startswith(prefix) and (i > 0 or layer)), len(GROUPS) - 1)


def rows_of(cases):
    """[(height, case or None, text)]: a heading before each group, groups in order, the first at the top."""
    def key(case):
        name = plain_name(case["name"])
        numbers = [int(n) for n in re.findall(r"\d+", name.split("/", 2)[2])]
        square = re.search(r"/(\d+)x\1x\1/", name)
        return group_of(case), ("", name.split("/")[1]) if square else (re.sub(r"/\d+x\d+x\d+|\d+to\d+.*", "", name), ""), numbers if not name.startswith("prim/") else []
    rows, last = [], None
    for case in sorted(cases, key=key):
        if group_of(case) != last:
            last = group_of(case)
            rows.append((None, GROUPS[last][1]))
        rows.append((case, title(case)))
    return [(len(rows) - 1 - i, case, text) for i, (case, text) in enumerate(rows)]


def name_rows(axes, rows):
    axes.set_yticks([y for y, _, _ in rows], [text for _, _, text in rows])
    for label, (_, case, _) in zip(axes.get_yticklabels(), rows):
        if case is None:
            label.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.7, len(rows) - 0.3)


def shares(cases, path, where):
    """Where we stand: each case's share of the limit, its peers' beside it, the limit as a line."""
    square = re.compile(r"gemm/\w+/(\d+)x\1x\1/threads:1")      # of the squares only the one of the claims: sizes() has the others
    # Not shares of the machine: routing's limit is the time of the experts that it precedes, the orders of operands are compared among
    # themselves, and what chooses keys is compared with the attention that it serves.
    found = [(c, square.fullmatch(plain_name(c["name"]))) for c in cases if "limit_share" in c and not re.match(r"route/|gemm/\w+/order_|attention/hip/|cache/score/", c["name"])]
    rows = rows_of([c for c, m in found if m is None or m[1] == "1024"])
    known = list(dict.fromkeys(name for _, c, _ in rows if c for _, name, _ in peer_names(c)))
    figure, axes = plt.subplots(figsize=(9.5, 0.33 * len(rows) + 1.2))
    for y, case, _ in rows:
        if case is None:
            continue
        axes.barh(y, case["limit_share"], height=0.66, color=OURS)
        for _, name, ratio in peer_names(case):
            axes.plot(case["limit_share"] / ratio, y, marker="D", markersize=7, color=peer_colour(name), markeredgecolor="white", linestyle="none")
        rate, unit, name = (case["bytes/s"], "B/s", "read bandwidth") if memory_binds(case) else (case["FLOP/s"], "FLOP/s", arithmetic_of(case) or "arithmetic")
        axes.text(1.03, y, f"{case['limit_share']:.0%}", va="center", fontsize=9, fontweight="bold")
        axes.text(1.11, y, f"{scaled(rate, unit)} of {scaled(rate / case['limit_share'], unit)}, {name}", va="center", fontsize=8.5, color=GREY)
    axes.axvline(1, color=LIMIT, linewidth=2.5)
    name_rows(axes, rows)
    axes.set_xlim(0, 1.02)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0%}"))
    axes.set_xlabel("share of the machine's limit, measured in the same run")
    axes.grid(axis="y", visible=False)
    handles = [Line2D([], [], color=OURS, linewidth=8, label="smalti"), Line2D([], [], color=LIMIT, linewidth=2.5, label="limit: 100 %")]
    handles += [Line2D([], [], color=peer_colour(n), marker="D", linestyle="none", label=n) for n in known]
    legend(figure, axes, handles, f"Where we stand: {where}")
    save(figure, path)


def ratios(cases, path, where):
    """Time of each peer over ours: right of the line we are faster."""
    rows = rows_of([c for c in cases if peer_names(c)])
    known = list(dict.fromkeys(name for _, c, _ in rows if c for _, name, _ in peer_names(c)))
    figure, axes = plt.subplots(figsize=(9.5, 0.29 * len(rows) + 1.2))
    least, most = 0.5, 2.0
    for y, case, _ in rows:
        for _, name, ratio in peer_names(case) if case else []:
            least, most = min(least, ratio), max(most, ratio)
            axes.plot(ratio, y, marker="D", markersize=7, color=peer_colour(name), markeredgecolor="white", linestyle="none", zorder=3)
    least, most = least / 1.15, most * 1.15
    axes.set_xscale("log")
    axes.set_xlim(least, most)
    axes.axvspan(least, 1, color="#fbeceb", zorder=0)
    axes.axvline(1, color=LIMIT, linewidth=2.5, zorder=1)
    ticks = [t for t in (0.125, 0.25, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24) if least <= t <= most]
    axes.set_xticks(ticks, [f"{t:g}x" for t in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    name_rows(axes, rows)
    axes.set_xlabel("time of the peer / time of smalti, median over rounds (above 1x smalti is faster)")
    axes.text(0.97, len(rows) - 1, "the peer is faster", ha="right", va="center", color=LIMIT, fontsize=9)
    axes.text(1.03, len(rows) - 1, "smalti is faster", ha="left", va="center", color=OURS, fontsize=9)
    handles = [Line2D([], [], color=LIMIT, linewidth=2.5, label="as fast as the peer")]
    handles += [Line2D([], [], color=peer_colour(n), marker="D", linestyle="none", label=n) for n in known]
    legend(figure, axes, handles, f"Against peers: {where}")
    save(figure, path)


def legend(figure, axes, handles, text):
    """Title and legend above the axes, a fixed distance from them whatever the height of the picture."""
    inches = figure.get_size_inches()[1] * axes.get_position().height
    lines = (len(handles) + 3) // 4
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.3, 1 + 0.06 / inches), ncols=4, columnspacing=1.6, handletextpad=0.6)
    axes.set_title(text, loc="left", x=-0.3, y=1 + (0.16 + 0.24 * lines) / inches)


def sizes(cases, path, where):
    """Rate of square products over their size, one panel a type."""
    panels = {}
    for c in cases:
        found = re.fullmatch(r"gemm/(\w+)/(\d+)x\2x\2(/threads:1)?", plain_name(c["name"]))
        if found:
            panels.setdefault(found[1], []).append((int(found[2]), c))
    panels = {t: sorted(p, key=lambda e: e[0]) for t, p in panels.items() if len(p) > 1}
    if not panels:
        return False
    known = list(dict.fromkeys(n for p in panels.values() for _, c in p for _, n, _ in peer_names(c)))
    figure, row = plt.subplots(1, len(panels), figsize=(3.6 * len(panels) + 0.6, 3.9), squeeze=False)
    for axes, (kind, points) in zip(row[0], panels.items()):
        x = [n for n, _ in points]
        axes.plot(x, [c["limit_FLOP/s"] for _, c in points], color=LIMIT, linewidth=2, linestyle="--")
        for name in known:
            line = [(n, c["FLOP/s"] / r) for n, c in points for _, peer, r in peer_names(c) if peer == name]
            if line:
                axes.plot(*zip(*line), color=peer_colour(name), linewidth=1.6, marker="D", markersize=4.5)
        axes.plot(x, [c["FLOP/s"] for _, c in points], color=OURS, linewidth=2.6, marker="o", markersize=6)
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [str(n) for n in x])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: scaled(v, "").strip() if v else "0"))
        axes.set_title(f"{kind} (limit: {limit_of(points[-1][1])})", fontsize=10, loc="left")
        axes.set_xlabel("size n of an n x n x n product")
    row[0][0].set_ylabel("FLOP/s (8-bit: operations/s)")
    handles = [Line2D([], [], color=OURS, linewidth=2.6, marker="o", label="smalti"), Line2D([], [], color=LIMIT, linewidth=2, linestyle="--", label="limit")]
    handles += [Line2D([], [], color=peer_colour(n), marker="D", label=n) for n in known]
    figure.tight_layout()
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.01, 0.98), ncols=len(handles))
    figure.suptitle(f"Square products by size: {where}", x=0.02, ha="left", y=1.11, fontsize=11, fontweight="bold")
    save(figure, path)
    return True


def roofline(cases, path, where):
    """Rate over operations for each byte, under the slope of memory and the ceilings of instructions."""
    cases = [c for c in cases if c.get("FLOP/s") and c.get("bytes/s") and "limit_FLOP/s" in c and not re.search(r"/threads:[2-9]", c["name"])]
    streamed = [c for c in cases if "limit_bytes/s" in c]
    if not streamed:
        return False
    figure, axes = plt.subplots(figsize=(9.5, 5.6))
    slope = sorted(c["limit_bytes/s"] for c in streamed)[len(streamed) // 2]
    ceilings = {}
    for c in cases:
        ceilings.setdefault(arithmetic_of(c), []).append(c["limit_FLOP/s"])
    ceilings = {name: sorted(v)[len(v) // 2] for name, v in ceilings.items() if name}
    left = min(c["FLOP/s"] / c["bytes/s"] for c in cases) / 4
    right = max(c["FLOP/s"] / c["bytes/s"] for c in cases) * 6
    top = max(ceilings.values())
    axes.plot([left, top / slope], [left * slope, top], color=LIMIT, linewidth=2)
    axes.annotate(f"read bandwidth {scaled(slope, 'B/s')}", (25, 25 * slope), (-8, 2), textcoords="offset points", color=LIMIT, fontsize=9, ha="right", va="bottom")
    for name, rate in ceilings.items():
        axes.plot([rate / slope, right], [rate, rate], color=LIMIT, linewidth=2)
        axes.text(right, rate * 1.06, f"{name} {scaled(rate, 'FLOP/s')}", color=LIMIT, fontsize=9, ha="right", va="bottom")
    for c in cases:
        x, colour = c["FLOP/s"] / c["bytes/s"], TYPES.get(type_of(c), GREY)
        axes.plot(x, c["FLOP/s"], marker="o" if "limit_bytes/s" in c else "s", markersize=8, color=colour, markeredgecolor="white", linestyle="none", zorder=4)
        for _, _, ratio in peer_names(c)[:1]:
            axes.plot(x, c["FLOP/s"] / ratio, marker="x", markersize=6, color=colour, linestyle="none", zorder=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    lowest = min(min([c["FLOP/s"]] + [c["FLOP/s"] / ratio for _, _, ratio in peer_names(c)[:1]]) for c in cases)
    axes.set_ylim(lowest / 2, top * 2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: scaled(v, "")))
    axes.set_xlabel("arithmetic intensity: operations for each byte of operands and result (FLOP/B)")
    axes.set_ylabel("FLOP/s (8-bit: operations/s)")
    kinds = list(dict.fromkeys(type_of(c) for c in cases))
    named = [c for c in cases if point_name(c)]
    write_beside(axes, [(point_name(c), c["FLOP/s"] / c["bytes/s"], c["FLOP/s"]) for c in named],
                 [(c["FLOP/s"] / c["bytes/s"], rate) for c in cases for rate in [c["FLOP/s"]] + [c["FLOP/s"] / r for _, _, r in peer_names(c)[:1]]])
    handles = [Line2D([], [], color=TYPES.get(k, GREY), marker="o", linestyle="none", label=f"smalti, {k}") for k in kinds]
    handles += [Line2D([], [], color=GREY, marker="o", linestyle="none", label="operands from memory"),
                Line2D([], [], color=GREY, marker="s", linestyle="none", label="operands warm in a cache"),
                Line2D([], [], color=GREY, marker="x", linestyle="none", label="first peer (oneDNN or OpenBLAS)"), Line2D([], [], color=LIMIT, linewidth=2, label="limit, measured")]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    axes.set_title(f"Roofline: {where}", loc="left")
    save(figure, path)
    return True


def write_beside(axes, texts, points):
    """Each (words, x, y) near its point, where it covers the fewest points, lines and other words; with a thin line from farther off."""
    renderer = axes.figure._get_renderer()
    taken = [axes.transData.transform(p) for p in points]
    for line in axes.lines:
        if line.get_color() == LIMIT:
            ends = axes.transData.transform(line.get_xydata())
            taken += [ends[0] + (ends[-1] - ends[0]) * i / 200 for i in range(201)]
    frame, written = axes.get_window_extent(renderer), []
    for words, x, y in texts:
        best = None
        for far in (10, 18, 28, 42, 58):
            for across, up, side, edge in ((1, 0, "left", "center"), (-1, 0, "right", "center"), (0, -1, "center", "top"), (0, 1, "center", "bottom"),
                                           (0.8, -0.8, "left", "top"), (-0.8, 0.8, "right", "bottom"), (0.8, 0.8, "left", "bottom"), (-0.8, -0.8, "right", "top")):
                note = axes.annotate(words, (x, y), (across * far, up * far), textcoords="offset points", fontsize=8.5, ha=side, va=edge, zorder=6,
                                     arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4} if far > 18 else None)
                note.update_positions(renderer)
                box = matplotlib.text.Text.get_window_extent(note, renderer)      # of the words alone
                near = box.padded(3)
                cost = 4 * sum(near.overlaps(other) for other in written) + sum(near.contains(*p) for p in taken) + 9 * (not (frame.x0 < box.x0 and box.x1 < frame.x1)) + far / 100
                if best is None or cost < best[0]:
                    if best:
                        best[1].remove()
                    best = cost, note, near
                else:
                    note.remove()
        written.append(best[2])


def point_name(case):
    """Words beside a point of the roofline, for those that a reader looks for."""
    name = plain_name(case["name"])
    for pattern, words in ((r"gemm/\w+/\w+\.out/(\d+)x.*", r"layer, \1 tokens"), (r"gemm/(\w+)/1024x1024x1024/.*", "\\1 1024\u00b3"),
                           (r"attention/decode/contiguous/.*gqa:4/.*", "attention decode"),
                           (r"attention/prefill/full/.*", "attention prefill")):
        if re.fullmatch(pattern, name):
            return re.sub(r"\b1 tokens", "1 token", re.sub(pattern, words, name))
    return ""


def limit_of(case):
    found = re.search(r"limit: (.*)$", case.get("label", ""))
    return found[1] if found else "?"


def memory_binds(case):
    """Whether the medians of the limits say that memory takes longer than arithmetic."""
    if "limit_bytes/s" not in case:
        return False
    return "limit_FLOP/s" not in case or case["bytes/s"] / case["limit_bytes/s"] > case["FLOP/s"] / case["limit_FLOP/s"]


def arithmetic_of(case):
    """The instruction behind limit_FLOP/s, where the label tells it."""
    limit = limit_of(case)
    return None if limit in ("read bandwidth", "?") else limit


def type_of(case):
    name = plain_name(case["name"])
    return name.split("/")[1] if name.startswith("gemm/") else "quantized weights" if name.startswith("quant/") else "bf16"


def title(case):
    """A case's name in a reader's words."""
    name = plain_name(case["name"])
    threads = re.search(r"/threads:(\d+)$", name)
    name = re.sub(r"/threads:\d+$", "", name)
    text = name.replace("/", " ")
    for pattern, words in ((r"gemm/(\w+)/(\d+)x\2x\2", "\\1, \\2\u00b3"),
                           (r"gemm/(\w+)/(\w+)\.(\w+)/(\d+)x(\d+)x(\d+)", r"\2 \3, \4 tokens"),
                           (r"quant/w4g128a16/(\d+)x(\d+)x(\d+)", r"int4 groups of 128, \2 x \3, \1 tokens"),
                           (r"quant/q4_([01])xq8_[01]/(\d+)x(\d+)x(\d+)", r"GGUF Q4_\1, 8-bit, \3 x \4, \2 tokens"),
                           (r"quant/ggml/(\w+)/(\d+)x(\d+)x(\d+)", r"GGUF \1, \3 x \4, \2 tokens"),
                           (r"attention_backward/bf16/(\w+)/d(\d+)/(\d+)x.*", r"backward, \1, d \2, \3 tokens"),
                           (r"attention/lists/d128/(\d+)/density:1:(\d+)", r"lists of blocks, one in \2, \1 tokens"),
                           (r"attention/hip/(\w+)/d128/(\d+)", r"HiP, \1, \2 tokens"),
                           (r"cache/compact/bf16/heads:8/d128/(\d+)to(\d+)", r"compaction, \1 to \2 tokens"),
                           (r"cache/score/bf16/heads:8x4/d128/(\d+)/queries:(\d+)", r"score pass, \2 queries, \1 tokens"),
                           (r"moe/grouped/bf16/(\d+)x(\d+)x(\d+)x(\d+)", r"\1 groups of \2 rows, \3 x \4"),
                           (r"moe/decode/(\w+)/1x(\d+)of(\d+)x(\d+)x(\d+)", r"one token, \2 of \3 experts, \1"),
                           (r"lora/w4/(\d+)x(\d+)x(\d+)/adapters:(\d+)/rank:(\d+)", r"\4 adapters of rank \5, \1 rows, \2 x \3"),
                           (r"attention/prefill/(\w+)/d128/(\d+)", r"prefill, \1, \2 tokens"),
                           (r"attention/decode/(\w+)/d128/(\d+)/gqa:(\d+)", r"decode, \1, \2 keys, \3 queries a head"),
                           (r"prim/select_k/f32/(\w+)/(\d+)to(\d+)", r"select_k \3 of \2, \1")):
        if re.fullmatch(pattern, name):
            text = re.sub(pattern, words, name)
    for model, words in MODELS.items():
        text = text.replace(model, words)
    text = re.sub(r"\b1 tokens", "1 token", text.replace("_", " ").replace("select k", "select_k").replace("Q4 0", "Q4_0").replace("Q4 1", "Q4_1").replace("paged16", "pages of 16"))
    return text if threads is None or threads[1] == "1" else f"{text}, {threads[1]} threads"


def draw(results, folder, where):
    """Every picture that the results of one machine allow; returns [(file, words)]."""
    matplotlib.rcdefaults()
    where = re.sub(r"\((R|TM)\)", "", where).replace(" Processor", "")
    cases = [c for r in results for c in r["benchmarks"] if not c.get("error_occurred")]
    if any("/threads:1" in c["name"] for c in cases):
        where += ", one thread"
    made = []
    with plt.rc_context(STYLE):
        if any("limit_share" in c for c in cases):
            shares(cases, folder / "shares.svg", where)
            made.append(("shares.svg", "Each case's share of the limit, beside its peers"))
        if roofline(cases, folder / "roofline.svg", where):
            made.append(("roofline.svg", "Rates under the machine's roofline"))
        if sizes(cases, folder / "sizes.svg", where):
            made.append(("sizes.svg", "Rates of square products over their size"))
        if any(peer_names(c) for c in cases):
            ratios(cases, folder / "ratios.svg", where)
            made.append(("ratios.svg", "Time of each peer over ours"))
    return made
