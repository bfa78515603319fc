#!/usr/bin/env python3
"""Tile shapes: compiles every agent of bench/tune/agents.json with the present tuning and its neighbours for each
architecture, reads the machine code, and records what it found beside the header that holds the tuning.

    bench/tune_gpu.py [--agent PART]... [--arch 80,90] [--shape m=64,n=128] [--machine gpu|host] [--budget MINUTES] [--again]
                      [--nvcc ROOT] [--under COMMAND] [--write | --check | --show]

The record of ops/X/tuning.hpp is ops/X/tuning.json: for each agent and architecture the shapes that were tried, with
registers, stack (a spill), `alloca`s of the Tile IR and the mix of instructions. A shape is
clean if its stack is at most 16 bytes, it has no `alloca` and the instructions its profile asks for (tests/machine_code/kernels.json).
Configurations already in the record are skipped (--again: not); the present choice of every agent comes first, then its neighbours, so that
a run may end at any --budget and go on later. --write puts a table between the header's marks `swept: begin` and `swept: end`;
--check needs no compiler and fails where an agent lacks an architecture or its present choice is not clean and not listed, where the present
choice of the host was not timed, and where a shape of the host was timed as more than 5 % faster than it in two runs, `speed` and `before`, and
agents.json has no `kept` that says why it is not taken (seen once: only named).
--show prints the best.

The best of an agent: the fastest clean shape where any was timed, else the present one if it is clean, else the largest clean tile.
A GPU's times are entered as `ms` of a shape in the record; this program does not take them yet. --machine host times the host's
shapes on one thread, each beside the present one in turns, and keeps the ratio (`speed`: above 1 it is faster than the shape it was timed
`beside`, which after a change of the present one is the old one). A shape is put into the code by hand: the table is what was found, not a proof.

Compiling and reading are scripts/machine_code.py's; its cache is shared. One compilation takes 2 to 10 s of one core.
"""
import argparse
import itertools
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import machine_code  # noqa: E402  (the one that compiles kernels and reads them)

AGENTS = ROOT / "bench" / "tune" / "agents.json"
SOURCES = ROOT / "tests" / "machine_code"
BEGIN, END = "// swept: begin", "// swept: end"
PRESENT = "present"
VERDICTS = ["Tile IR", "Segmentation fault", "Aborted", "smalti:", "killed"]   # what a shape can be to blame for; else the source is
TARGETS = {"host": "host", "80": "sm80", "89": "sm89", "90": "sm90", "100": "sm100", "120": "sm120"}

# Prints the present tuning of every agent and target, as the library's own selectors say.
PRESENT_PROGRAM = """
#include <cstdio>
#include <smalti/comm/strided.hpp>
#include <smalti/flow/lora.hpp>
#include <smalti/flow/moe.hpp>
#include <smalti/ops/attention.hpp>
#include <smalti/ops/attention/backward.hpp>
#include <smalti/ops/attention/merge.hpp>
#include <smalti/ops/cache.hpp>
#include <smalti/ops/cache/compress.hpp>
#include <smalti/ops/cache/observe.hpp>
#include <smalti/ops/gemm.hpp>
#include <smalti/ops/gemm/linear_tuning.hpp>
#include <smalti/ops/norm.hpp>
#include <smalti/ops/quantize.hpp>
#include <smalti/ops/rotary.hpp>
#include <smalti/ops/route.hpp>
using namespace smalti;
constexpr auto prefill = gemm::gemm_regime::prefill, decode = gemm::gemm_regime::decode;
constexpr auto long_rows = attention::attention_regime::prefill, few_queries = attention::attention_regime::decode;
using nt = gemm::options;
struct tn : gemm::options { static constexpr auto a = gemm::a_order::k_by_m; static constexpr auto b = gemm::b_order::k_by_n; };
struct three : gemm::options { static constexpr auto f32 = gemm::float_product::tf32x3; };
struct workers : gemm::options { static constexpr bool persistent = true; };
struct reducing : gemm::options { using reductions = policy::chain<policy::column_sum, policy::row_absmax>; };
struct gathering : gemm::grouped_options { static constexpr bool gathers = true; };
struct scattering : gemm::grouped_options { static constexpr bool scatters = true; };
using narrow_form = lora::detail::form<lora::options, gemm::b_order::n_by_k, false>;
using wide_form = lora::detail::form<lora::options, gemm::b_order::k_by_n, true>;
int main() {
  std::printf("{");
%s
  std::printf("}\\n");
}
"""


def record_of(header):
    return ROOT / pathlib.Path(header).with_suffix(".json")


def load(header):
    file = record_of(header)
    return json.loads(file.read_text()) if file.exists() else {"agents": {}}


def keep(header, record):
    """One line a shape, in a fixed order: a record is read by people and compared by git."""
    lines = ["{", f' "toolkit": {json.dumps(record.get("toolkit"))},', ' "agents": {']
    agents = sorted(record["agents"])
    for name in agents:
        lines.append(f"  {json.dumps(name)}: {{")
        archs = sorted(record["agents"][name], key=lambda a: (a == "host", a.rjust(4)))
        for arch in archs:
            lines.append(f"   {json.dumps(arch)}: [")
            shapes = record["agents"][name][arch]
            for s in shapes:
                lines.append("    " + json.dumps(s) + ("," if s is not shapes[-1] else ""))
            lines.append("   ]" + ("," if arch != archs[-1] else ""))
        lines.append("  }" + ("," if name != agents[-1] else ""))
    lines += [" }", "}"]
    file = record_of(header)
    part = file.with_suffix(".part")
    part.write_text("\n".join(lines) + "\n")
    part.replace(file)


def present_choices(listing):
    """{agent: {architecture: tuning}} from the selectors themselves, by a program that prints them."""
    body = []
    entries = [(a, arch) for a in listing["agents"] for arch in listing["architectures"]] + [(a, "host") for a in listing["host"]]
    for number, (agent, arch) in enumerate(entries):
        fields = fields_of(listing, agent)
        values = ", ".join(f"int(t.{f})" for f in fields)
        text = ", ".join(f'\\"{f}\\": %d' for f in fields)
        target = f"target::{TARGETS[arch]}"
        body.append(f'  {{ constexpr auto T = {target}; constexpr auto t = {agent["present"]}; std::printf("{"," if number else ""}\\"{agent["name"]}|{arch}\\": {{{text}}}", {values}); }}')
    with tempfile.TemporaryDirectory() as folder:
        source, program = pathlib.Path(folder) / "present.cpp", pathlib.Path(folder) / "present"
        source.write_text(PRESENT_PROGRAM % "\n".join(body))
        made = machine_code.run(["g++", "-std=c++20", "-march=native", "-O0", "-w", f"-I{ROOT / 'include'}", "-o", program, source])
        if made.returncode != 0:
            sys.exit("tune_gpu: the present choices do not compile: " + machine_code.first_error(made.stderr))
        said = json.loads(machine_code.run([program]).stdout)
    found = {}
    for key, tuning in said.items():
        name, arch = key.split("|")
        found.setdefault(name, {})[arch] = tuning
    return found


def fields_of(listing, agent):
    return listing["host_fields" if "define" in agent else "fields"][agent["family"]]


def initializers(tuning, comma):
    def shown(value):
        return str(value).lower() if isinstance(value, bool) else str(value)
    return f" {comma} ".join(f".{field} = {shown(value)}" for field, value in tuning.items())


def same(a, b):
    return all(int(a[f]) == int(b[f]) for f in a)


def neighbours(agent, fields, present):
    """The shapes of the sweep, nearest to the present one first: doubling one extent is one step."""
    sweep = {f: agent["sweep"].get(f, [present[f]]) for f in fields}
    shapes = [dict(zip(fields, values)) for values in itertools.product(*sweep.values())]

    def steps(shape):
        away = 0.0
        for f in fields:
            a, b = int(shape[f]), int(present[f])
            away += 0 if a == b else abs(math.log2(a / b)) if a > 0 and b > 0 else 1
        return away

    return [s for s in sorted(shapes, key=steps) if not same(s, present)]


def is_clean(shape, agent, arch):
    """Why a shape is not clean; nothing if it is."""
    if "error" in shape:
        return shape["error"]
    if shape["stack"] > machine_code.STACK:
        return f"stack {shape['stack']}"
    if shape["alloca"]:
        return f"{shape['alloca']} alloca"
    profiles = json.loads(machine_code.LIST.read_text())["profiles"]
    for pattern, least in profiles.get(agent.get("profile", ""), {}).get(arch if arch != "89" else "80", {}).items():
        pattern = "*MMA" if arch == "89" and pattern == "HMMA" else pattern    # 8-bit floats have a product of their own there
        if machine_code.count(shape["instructions"], pattern) < least:
            return f"no {pattern}"
    return ""


def best_of(shapes, agent, arch):
    clean = [s for s in shapes if not is_clean(s, agent, arch)]
    timed = [s for s in clean if s.get("ms")]
    if timed:
        return min(timed, key=lambda s: s["ms"])
    for s in clean:
        if s.get(PRESENT):
            return s

    def size(s):
        t = s["tuning"]
        return (t.get("m", t.get("e")) * t.get("n", t.get("c", t.get("heads", 1))), t.get("k", 0), t.get("occupancy", 1), -s["registers"])
    return max(clean, key=size) if clean else None


def short_mix(instructions):
    mix = {}
    for opcode, n in instructions.items():
        first = opcode.split(".")[0]
        if any(machine_code.matches(p, first) for p in machine_code.PRODUCTS + machine_code.SHOWN):
            mix[first] = mix.get(first, 0) + n
    return dict(sorted(mix.items()))


def agents_of(listing, chosen):
    for agent in listing["host" if chosen.machine == "host" else "agents"]:
        if not chosen.agent or any(part in agent["name"] for part in chosen.agent):
            yield agent


def sweep_gpu(listing, chosen, deadline):
    toolkit = machine_code.find_toolkit(chosen.nvcc)
    if toolkit is None or not (toolkit / "bin" / "nvcc").exists():
        print("tune_gpu: no nvcc: run scripts/cuda.sh or give --nvcc ROOT", file=sys.stderr)
        return 77
    compiler = machine_code.Compiler(toolkit, pathlib.Path(chosen.build), True)
    present = present_choices(listing)
    archs = [a for a in chosen.arch.replace("sm_", "").split(",") if a] or listing["architectures"]
    jobs = []
    for agent in agents_of(listing, chosen):
        for arch in archs:
            fields = listing["fields"][agent["family"]]
            now = present[agent["name"]][arch]
            for rank, tuning in enumerate([now] + neighbours(agent, fields, now)):
                jobs.append((rank, agent, arch, {f: bool(v) if f in ("held", "separate", "weights_left") else int(v) for f, v in tuning.items()}))
    wanted = [pair.split("=") for pair in chosen.shape.split(",") if pair]
    jobs = [job for job in jobs if all(int(job[3].get(field, -1)) == int(value) for field, value in wanted)]
    jobs.sort(key=lambda job: job[0])            # stable: every agent's present choice first, then everyone's nearest neighbour
    made = skipped = broken = 0
    for rank, agent, arch, tuning in jobs:
        family = listing["families"][agent["family"]]
        record = load(family["header"])
        shapes = record["agents"].setdefault(agent["name"], {}).setdefault(arch, [])
        old = next((s for s in shapes if same(s["tuning"], tuning)), None)
        if rank == 0:
            for s in shapes:
                s.pop(PRESENT, None)
            if old is not None:
                old[PRESENT] = True
                keep(family["header"], record)
        if old is not None and not chosen.again:
            skipped += 1
            continue
        if time.monotonic() > deadline:
            break
        facts = compiler.facts(SOURCES / family["source"], arch, {"KERNEL": agent["kernel"], "TUNING": initializers(tuning, "COMMA")})
        if "error" in facts and not any(word in facts["error"] for word in VERDICTS):
            print(f"tune_gpu: {agent['name']}, sm_{arch}: not a shape's fault, left out: {facts['error']}", file=sys.stderr)
            broken += 1
            continue
        shape = {"tuning": tuning}
        if rank == 0:
            shape[PRESENT] = True
        if "error" in facts:
            shape["error"] = facts["error"]
        else:
            shape.update({key: facts[key] for key in ("registers", "stack", "shared", "alloca")}, instructions=short_mix(facts["instructions"]))
        shapes[:] = ([shape] if rank == 0 else []) + [s for s in shapes if s is not old] + ([] if rank == 0 else [shape])
        record["toolkit"] = compiler.version
        keep(family["header"], record)
        made += 1
        print(f"sm_{arch:<4} {agent['name']:<44} {initializers(tuning, ','):<70} {is_clean(shape, agent, arch) or 'clean'}", flush=True)
    print(f"{made} compiled, {skipped} in the record, {broken} broken, {len(jobs) - made - skipped - broken} left")
    return 1 if broken else 0


def time_host(agent, kind, shapes, under):
    """What bench/tune/time_*.cpp says of shapes that are timed in turns, one answer each, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "time"
        defines = [f"-D{name}={value}" for name, value in agent["define"].items()]
        listed = ", ".join("{" + initializers(tuning, ",") + "}" for tuning in shapes)
        made = machine_code.run(["g++", "-std=c++20", "-O3", "-march=native", "-w", "-fopenmp", f"-I{ROOT / 'include'}", *defines, f"-DKIND={kind}",
                                 f"-DSHAPES={listed}", "-o", program, ROOT / "bench" / "tune" / agent["source"]])
        if made.returncode != 0:
            return machine_code.first_error(made.stderr)
        answer = machine_code.run([*under, program])
        return json.loads(answer.stdout) if answer.returncode == 0 else answer.stdout.strip()[-200:] or f"ended with {answer.returncode}"


def sweep_host(listing, chosen, deadline):
    """A few shapes at a time in one program, in turns with the present one: the machine's changes of clock meet all of them."""
    together = 6
    present = present_choices(listing)
    jobs = []
    for agent in agents_of(listing, chosen):
        now = present[agent["name"]]["host"]
        record = load(listing["families"][agent["family"]]["header"])["agents"].get(agent["name"], {}).get("host", [])
        known = [] if chosen.again else [s["tuning"] for s in record if s.get("beside") and same(s["beside"], now) and not seen_once(s)]
        fresh = [t for t in neighbours(agent, fields_of(listing, agent), now) if not any(same(t, k) for k in known)]
        jobs += [(i, agent, now, fresh[i:i + together - 1]) for i in range(0, len(fresh), together - 1)]
    jobs.sort(key=lambda job: job[0])            # stable: every agent's nearest neighbours first
    made = broken = 0
    for _, agent, now, tried in jobs:
        if time.monotonic() > deadline:
            break
        family = listing["families"][agent["family"]]
        found = time_host(agent, family["tuning"], [now] + tried, chosen.under.split())
        alone = [time_host(agent, family["tuning"], [now, t], chosen.under.split()) for t in tried] if isinstance(found, str) and len(tried) > 1 and "smalti:" in found else []
        if isinstance(found, str) and not any(isinstance(f, list) for f in alone):
            print(f"tune_gpu: {agent['name']}: {found}", file=sys.stderr)
            broken += 1
            continue
        if alone:                                # some of them do not compile
            found = [next(f for f in alone if isinstance(f, list))[0]] + [f[1] if isinstance(f, list) else {"error": f} for f in alone]
        record = load(family["header"])          # another run may have entered something meanwhile
        shapes = record["agents"].setdefault(agent["name"], {}).setdefault("host", [])
        entered = [{"tuning": now, PRESENT: True, "ms": found[0]["ms"]}] + [{"tuning": t, "beside": now, **f} for t, f in zip(tried, found[1:])]
        for s in shapes:
            s.pop(PRESENT, None)
            for e in entered[1:]:
                if "speed" in s and "speed" in e and same(s["tuning"], e["tuning"]) and same(s["beside"], now):
                    e["before"] = s["speed"]
        shapes[:] = entered[:1] + [s for s in shapes if not any(same(s["tuning"], e["tuning"]) for e in entered)] + entered[1:]
        keep(family["header"], record)
        made += 1
        for s in entered:
            print(f"host {agent['name']:<46} {initializers(s['tuning'], ','):<60} {s.get('error') or '%.3f ms, %.3f of the present speed' % (s['ms'], s.get('speed', 1))}", flush=True)
    print(f"{made} programs timed, {broken} broken, {len(jobs) - made - broken} left")
    return 1 if broken else 0


FASTER = 1.05     # of the present speed; the machine does other work, and one run may err


def seen_once(shape):
    return shape.get("speed", 0) > FASTER and "before" not in shape


def host_shapes(listing, header):
    """(agent, its present shape or None, the others of the record, those timed beside the present one, the fastest first)."""
    record = load(header)
    for agent in listing["host"]:
        if listing["families"][agent["family"]]["header"] == header:
            shapes = record["agents"].get(agent["name"], {}).get("host", [])
            now = next((s for s in shapes if s.get(PRESENT) and "ms" in s), None)
            others = [s for s in shapes if not s.get(PRESENT)]
            timed = [s for s in others if now and "speed" in s and same(s["beside"], now["tuning"])]
            yield agent, now, others, sorted(timed, key=lambda s: -s["speed"])


def aligned(lines):
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return ["// " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]


def host_table(listing, header):
    """One line an agent: the present shape, its time, and the fastest other one beside it."""
    lines = [["host", "present", "ms", "next best", "speed", "tried"]]
    for agent, now, others, timed in host_shapes(listing, header):
        if now:
            lines.append([agent["name"], shape_text(now["tuning"]), f"{now['ms']:.3f}", shape_text(timed[0]["tuning"]) if timed else "",
                          f"{timed[0]['speed']:.2f}" if timed else "", str(len(others) + 1)])
    if len(lines) == 1:
        return []
    return ["// The host, one thread of a Xeon with AMX, each shape beside the present one in turns; speed: of the next best over the present.",
            "// l: b_left or keys_left, s: strips, g: group."] + aligned(lines)


def rows(listing, header):
    """(agent, architecture, shapes) of a header's record, in the list's order."""
    record = load(header)
    for agent in listing["agents"]:
        if listing["families"][agent["family"]]["header"] == header:
            for arch in listing["architectures"]:
                yield agent, arch, record["agents"].get(agent["name"], {}).get(arch, [])


def shape_text(tuning):
    """64x128x64, with what is not an extent only where it is not the usual."""
    extents = "x".join(str(int(tuning[f])) for f in ("m", "n", "k", "c", "e", "heads", "groups") if f in tuning)
    usual = {"occupancy": 1, "cluster": 1, "strips": 1, "group": 0} if "occupancy" not in tuning else {"occupancy": 1, "cluster": 1}
    more = "".join(f" {f[0]}{int(tuning[f])}" for f in usual if tuning.get(f, usual[f]) != usual[f])
    return extents + more + (" l" if tuning.get("b_left") or tuning.get("keys_left") else "")


def table(listing, header):
    """One line an agent: the present shape on each architecture, and what is wrong with it, if anything is."""
    archs = listing["architectures"]
    lines = [["agent"] + [f"sm_{arch}" for arch in archs] + ["tried"]]
    for agent in listing["agents"]:
        if listing["families"][agent["family"]]["header"] != header:
            continue
        found = load(header)["agents"].get(agent["name"], {})
        line = [agent["name"]]
        for arch in archs:
            now = next((s for s in found.get(arch, []) if s.get(PRESENT)), None)
            why = is_clean(now, agent, arch) if now else "not tried"
            line.append((shape_text(now["tuning"]) if now else "") + (" " if now and why else "") + (why if len(why) < 20 else "does not compile" if why else ""))
        lines.append(line + [str(sum(len(shapes) for shapes in found.values()))])
    said = [f"{BEGIN} (bench/tune_gpu.py --write; registers, instructions and every shape tried are in {record_of(header).name})",
            f"// From machine code, nvcc {load(header).get('toolkit')}; not timed: not yet run on a GPU. o: occupancy, c: cluster. What is not clean is said."]
    return "\n".join(said + aligned(lines) + host_table(listing, header) + [END])


def write(listing):
    for header in dict.fromkeys(f["header"] for f in listing["families"].values()):
        if not record_of(header).exists():
            continue
        file = ROOT / header
        text = file.read_text()
        if BEGIN in text:
            text = text[: text.index(BEGIN)] + table(listing, header) + text[text.index(END) + len(END):]
        else:                                                      # above the first namespace
            at = text.index("\nnamespace ")
            text = text[:at] + "\n" + table(listing, header) + "\n" + text[at:]
        file.write_text(text)


def check(listing):
    bad = []
    for header in dict.fromkeys(f["header"] for f in listing["families"].values()):
        for agent, arch, shapes in rows(listing, header):
            now = next((s for s in shapes if s.get(PRESENT)), None)
            if now is None:
                bad.append(f"{agent['name']}, sm_{arch}: no record of the present choice")
                continue
            why = is_clean(now, agent, arch)
            allowed = agent.get("allow", {}).get(arch, {})
            if why and not ("error" not in now and now["stack"] <= allowed.get("stack", -1)) and why != allowed.get("why"):
                bad.append(f"{agent['name']}, sm_{arch}: {why}, and not listed")
        for agent, now, _, timed in host_shapes(listing, header):
            if now is None:
                bad.append(f"{agent['name']}, host: the present choice is not timed")
            for s in timed:
                if seen_once(s):
                    print(f"{agent['name']}, host: {shape_text(s['tuning'])} was {s['speed']} times as fast as the present choice in one run: time it again")
                elif min(s["speed"], s.get("before", s["speed"])) > FASTER and "kept" in agent:
                    print(f"{agent['name']}, host: {shape_text(s['tuning'])} is {s['speed']} times as fast as the present choice, which is kept: {agent['kept']}")
                elif min(s["speed"], s.get("before", s["speed"])) > FASTER:
                    bad.append(f"{agent['name']}, host: {shape_text(s['tuning'])} is {s['speed']} and was {s['before']} times as fast as the present choice")
    for text in bad:
        print(text)
    print(f"{len(bad)} of {len(listing['agents']) * len(listing['architectures']) + len(listing['host'])} agents and architectures fail")
    return 1 if bad else 0


def show(listing, chosen):
    for agent in agents_of(listing, chosen):
        header = listing["families"][agent["family"]]["header"]
        for a, arch, shapes in rows(listing, header):
            if a is not agent or not shapes:
                continue
            best = best_of(shapes, agent, arch)
            now = next((s for s in shapes if s.get(PRESENT)), None)
            mark = "" if best is not None and best is now else "   <- not the present one"
            print(f"sm_{arch:<4} {agent['name']:<44} {initializers(best['tuning'], ',') if best else 'nothing clean'}{mark}")
    return 0


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--agent", action="append", default=[], help="part of a name; may be repeated (all)")
    options.add_argument("--arch", default="", help="architectures, as 80,90 (all of the list)")
    options.add_argument("--shape", default="", help="only shapes with these fields, as m=64,n=128,occupancy=2")
    options.add_argument("--machine", choices=["gpu", "host"], default="gpu")
    options.add_argument("--budget", type=float, default=1e9, metavar="MINUTES", help="starts nothing after this time")
    options.add_argument("--again", action="store_true", help="also what is in the record")
    options.add_argument("--nvcc", metavar="ROOT", help="the toolkit's folder")
    options.add_argument("--under", default="", metavar="COMMAND", help="what timings run under, as 'taskset -c 1'")
    options.add_argument("--build", default=str(ROOT / "build"), help="where compilations are kept (build)")
    options.add_argument("--write", action="store_true", help="writes the tables into the headers")
    options.add_argument("--check", action="store_true", help="fails where the record has a gap or the present choice is not clean")
    options.add_argument("--show", action="store_true", help="prints the best shape of each agent and architecture")
    chosen = options.parse_args()
    listing = json.loads(AGENTS.read_text())
    if chosen.write:
        return write(listing)
    if chosen.check:
        return check(listing)
    if chosen.show:
        return show(listing, chosen)
    deadline = time.monotonic() + 60 * chosen.budget
    return sweep_host(listing, chosen, deadline) if chosen.machine == "host" else sweep_gpu(listing, chosen, deadline)


if __name__ == "__main__":
    sys.exit(main())
