#!/usr/bin/env python3
"""What the compiler made of the kernels: compiles the kernels of a list to machine code and checks what must be there.

    scripts/machine_code.py [--nvcc ROOT] [--arch 80,90] [--kernel PATTERN]... [-j N] [--quick] [--build FOLDER]
                            [--json FILE] [--write-docs | --check-docs] [--no-cache]

For each kernel and architecture of tests/machine_code/kernels.json:
  - nvcc accepts it (or refuses it, where the list says so and why);
  - the stack is at most 16 bytes: no spill;
  - the Tile IR has no `alloca`: no closure holds an address;
  - the instructions that must be there are there, and those that must not multiply have not.
Exceptions are entries of the list and carry their reason; one that is no longer needed is named, so that it is removed.

A kernel of the list: `name`, `source`, `defines`, `profile` (instructions that every such kernel needs), `rarely` (a list of
architectures that --quick leaves out), `every` and
`architectures` (what holds on all architectures, and on one). In these: `tile` (a text for the table), `defines`,
`require` {pattern: at least}, `at_most` {pattern: at most}, `allow` {`stack`: bytes, `alloca`: count, `missing`: [patterns],
`reason`}, `refused`: why nvcc refuses it, `skip`: why it is not tried. Patterns are shell patterns over opcodes; one
without a dot is compared with the opcode's first part.

Needs no GPU. Results are kept in the build folder by the hash of the preprocessed source and the toolkit. The exit status
is 0 when everything holds, 1 when something does not, 77 when there is no nvcc.
"""
import argparse
import concurrent.futures
import fnmatch
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "machine_code" / "kernels.json"
PAGE = ROOT / "docs" / "machines.md"
BEGIN, END = "<!-- machine code: begin -->", "<!-- machine code: end -->"
STACK = 16
FORMAT = 1  # of the cached records
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P[0-9T]+\s+)?([A-Z][A-Z0-9_.]*)")
PRODUCTS = ["*MMA"]
COPIES = ["UTMALDG", "LDGSTS", "UTMASTG", "UTMAREDG", "RED", "LDG", "STG"]
SHOWN = COPIES + ["USETMAXREG", "LDSM", "LDS", "STS", "PRMT", "LOP3", "LDL", "STL", "MEMBAR", "ATOMG"]


def find_toolkit(given):
    if given:
        return pathlib.Path(given)
    answer = run(["bash", ROOT / "scripts" / "cuda.sh"])            # knows which nvcc is new enough
    last = answer.stdout.strip().splitlines()[-1:] or [""]
    return pathlib.Path(last[0]) if answer.returncode == 0 and last[0] else None


def matches(pattern, opcode):
    """A pattern without a dot is compared with the opcode's first part."""
    return fnmatch.fnmatchcase(opcode if "." in pattern else opcode.split(".")[0], pattern)


def count(instructions, pattern):
    return sum(n for opcode, n in instructions.items() if matches(pattern, opcode))


def run(command, **more):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)


class Compiler:
    def __init__(self, toolkit, build, use_cache):
        self.bin = toolkit / "bin"
        self.cache = build / "machine_code"
        self.cache.mkdir(parents=True, exist_ok=True)
        self.use_cache = use_cache
        version = run([self.bin / "nvcc", "--version"]).stdout
        self.version = (re.search(r"V(\d+\.\d+\.\d+)", version) or [None, "unknown"])[1]
        tree = hashlib.sha256(version.encode())
        for folder in (ROOT / "include", LIST.parent):
            for file in sorted(folder.rglob("*")):
                if file.suffix in (".hpp", ".cuh", ".cu", ".h"):
                    tree.update(str(file.relative_to(ROOT)).encode())
                    tree.update(file.read_bytes())
        self.tree = tree.hexdigest()

    def flags(self, arch, defines):
        return (["--enable-tile", "-std=c++20", f"-arch=sm_{arch}", "-tile-only", f"-I{ROOT / 'include'}", f"-I{ROOT / 'tests'}"]
                + [f"-D{name}={value}" for name, value in sorted(defines.items())])

    def load(self, key):
        file = self.cache / (key + ".json")
        if self.use_cache and file.exists():
            record = json.loads(file.read_text())
            if record.get("format") == FORMAT:
                return record
        return None

    def keep(self, key, record):
        file = self.cache / (key + ".json")
        part = file.with_suffix(f".{os.getpid()}.{key[:8]}")
        part.write_text(json.dumps(record))
        part.replace(file)

    def facts(self, source, arch, defines):
        """Facts of one kernel on one architecture; the compiler runs only if no file it reads has changed."""
        flags = self.flags(arch, defines)
        near = hashlib.sha256(f"{self.tree} {source} {flags}".encode()).hexdigest()
        record = self.load(near)
        if record:
            return record
        text = run([self.bin / "nvcc", "-E", *flags, source])
        if text.returncode == 0:   # line markers and paths do not matter
            body = "\n".join(line for line in text.stdout.splitlines() if not line.startswith("#"))
            far = hashlib.sha256(f"{self.version} {arch} {body}".encode()).hexdigest()
            record = self.load(far)
            if not record:
                record = self.compile(source, flags)
                self.keep(far, record)
        else:
            record = {"format": FORMAT, "error": first_error(text.stderr), "seconds": 0.0}
        self.keep(near, record)
        return record

    def compile(self, source, flags):
        with tempfile.TemporaryDirectory() as folder:
            cubin = pathlib.Path(folder) / "kernel.cubin"
            begin = time.monotonic()
            answer = run([self.bin / "nvcc", *flags, "-cubin", "-o", cubin, "--keep", "--keep-dir", folder, source])
            seconds = round(time.monotonic() - begin, 2)
            if answer.returncode != 0:
                return {"format": FORMAT, "error": first_error(answer.stderr + answer.stdout), "seconds": seconds}
            sass = run([self.bin / "cuobjdump", "-sass", cubin]).stdout
            usage = run([self.bin / "cuobjdump", "-res-usage", cubin])
            usage = usage.stdout + usage.stderr
            ir = "".join(run([self.bin / "tileirdisasm", file]).stdout for file in pathlib.Path(folder).glob("*.tilebc"))
            instructions = {}
            for line in sass.splitlines():
                found = INSTRUCTION.match(line)
                if found:
                    instructions[found[1]] = instructions.get(found[1], 0) + 1
            if not instructions or not ir:
                return {"format": FORMAT, "error": "cuobjdump or tileirdisasm gave nothing: is the toolkit whole?", "seconds": seconds}

            def most(name):
                return max([int(n) for n in re.findall(name + r":(\d+)", usage)] or [0])

            return {"format": FORMAT, "seconds": seconds, "registers": most("REG"), "stack": most("STACK"), "shared": most("SHARED"),
                    "alloca": len(re.findall(r"\balloca\b", ir)), "instructions": instructions}


def first_error(text):
    for line in text.splitlines():
        found = re.search(r"error:? (.*)", line)
        if found and "failed to compile Tile IR" not in line:
            return found[1].strip()[:300]
    return (text.strip().splitlines() or ["no message"])[-1][:300]


def merged(*parts):
    all_of = {}
    for part in parts:
        all_of.update(part or {})
    return all_of


def judge(facts, entry, profile):
    """Failures and notes of one kernel on one architecture."""
    failures, notes = [], []
    refused, allow = entry.get("refused"), entry.get("allow", {})
    if allow and not allow.get("reason"):
        failures.append("its exception has no reason")
    if "error" in facts:
        if refused:
            notes.append(f"refused: {refused}")
        else:
            failures.append(facts["error"])
        return failures, notes
    if refused:
        failures.append(f"compiles, though the list says it is refused ({refused}): remove the exception")
    most = allow.get("stack", STACK)
    if facts["stack"] > most:
        failures.append(f"stack of {facts['stack']} bytes, at most {most} allowed")
    elif most > STACK:
        notes.append(f"stack {facts['stack']}: {allow.get('reason', '')}"
                     if facts["stack"] > STACK else "the exception for the stack is no longer needed: remove it")
    if facts["alloca"] > allow.get("alloca", 0):
        failures.append(f"{facts['alloca']} alloca in the Tile IR: does a closure capture a reference or `this`?")
    waived = set(allow.get("missing", []))
    for pattern, least in merged(profile, entry.get("require")).items():
        have = count(facts["instructions"], pattern)
        if pattern in waived:
            notes.append(f"no {pattern}: {allow.get('reason', '')}" if have < least else f"the exception for {pattern} is no longer needed: remove it")
        elif have < least:
            failures.append(f"{have} {pattern}, at least {least} wanted")
    for pattern, bound in entry.get("at_most", {}).items():
        have = count(facts["instructions"], pattern)
        if have > bound:
            failures.append(f"{have} {pattern}, at most {bound} wanted")
    return failures, notes


def jobs_of(listing, wanted_archs, patterns):
    for kernel in listing["kernels"]:
        name = kernel["name"]
        if patterns and not any(fnmatch.fnmatchcase(name, pattern) or pattern in name for pattern in patterns):
            continue
        for arch in listing["architectures"]:
            if wanted_archs and arch not in wanted_archs:
                continue
            entry = merged(kernel.get("every", {}), kernel.get("architectures", {}).get(arch, {}))
            if entry.get("skip"):
                continue
            entry["defines"] = merged(kernel.get("defines"), kernel.get("architectures", {}).get(arch, {}).get("defines"))
            profile = listing["profiles"].get(kernel.get("profile", ""), {}).get(arch, {})
            yield kernel, arch, entry, profile


def shown(facts, patterns):
    totals = {}
    for opcode, n in facts["instructions"].items():
        first = opcode.split(".")[0]
        if any(fnmatch.fnmatchcase(first, pattern) for pattern in patterns):
            totals[first] = totals.get(first, 0) + n
    return ", ".join(f"{n} {first}" for first, n in sorted(totals.items(), key=lambda item: -item[1]))


def table(results, version):
    lines = [f"Compiled with nvcc {version} by `scripts/machine_code.py`; stack in bytes; counts are of instructions in the code.", "",
             "| kernel | arch | tile | registers, stack | products | copies | notes |", "|---|---|---|---|---|---|---|"]
    last = None
    for r in results:
        name = r["kernel"] if r["kernel"] != last else ""
        last = r["kernel"]
        f = r["facts"]
        if "error" in f:
            cells = [name, f"sm_{r['arch']}", r["tile"], "", "", ""]
        else:
            cells = [name, f"sm_{r['arch']}", r["tile"], f"{f['registers']}, {f['stack']}", shown(f, PRODUCTS), shown(f, COPIES)]
        lines.append("| " + " | ".join(cells + ["; ".join(["**fails**: " + text for text in r["failures"]] + r["notes"])]) + " |")
    return "\n".join(lines)


def page_with(text):
    """The page with the table between its markers, or None where there are no markers."""
    page = PAGE.read_text() if PAGE.exists() else ""
    if BEGIN not in page or END not in page:
        return None
    return page[: page.index(BEGIN) + len(BEGIN)] + "\n" + text + "\n" + page[page.index(END):]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--nvcc", metavar="ROOT", help="the toolkit's folder, which holds bin/nvcc (else the one scripts/cuda.sh finds)")
    options.add_argument("--arch", default="", help="architectures, as 80,90 (all of the list)")
    options.add_argument("--kernel", action="append", default=[], help="part of a name or a pattern; may be repeated (all)")
    options.add_argument("-j", type=int, default=1, metavar="N", help="compilations at a time (1: one takes a core and a gigabyte)")
    options.add_argument("--quick", action="store_true", help="leaves out what an entry's `rarely` names: architectures it hardly tells anything new on")
    options.add_argument("--build", default=str(ROOT / "build"), help="where results are kept (build)")
    options.add_argument("--json", metavar="FILE", help="writes the record here too")
    options.add_argument("--no-cache", action="store_true", help="compiles everything")
    options.add_argument("--write-docs", action="store_true", help="writes the table into docs/machines.md")
    options.add_argument("--check-docs", action="store_true", help="fails where the table in docs/machines.md is not this one")
    chosen = options.parse_args()

    listing = json.loads(LIST.read_text())
    toolkit = find_toolkit(chosen.nvcc)
    if toolkit is None or not (toolkit / "bin" / "nvcc").exists():
        print("machine_code: no nvcc: run scripts/cuda.sh or give --nvcc ROOT", file=sys.stderr)
        return 77
    compiler = Compiler(toolkit, pathlib.Path(chosen.build), not chosen.no_cache)
    wanted = [a for a in chosen.arch.replace("sm_", "").split(",") if a]
    unknown = set(wanted) - set(listing["architectures"])
    jobs = [job for job in jobs_of(listing, wanted, chosen.kernel) if not (chosen.quick and job[1] in job[0].get("rarely", []))]
    if unknown or not jobs:
        print(f"machine_code: nothing to do: {'no architecture ' + ', '.join(sorted(unknown)) if unknown else 'no kernel matches'}", file=sys.stderr)
        return 1

    def work(job):
        kernel, arch, entry, profile = job
        facts = compiler.facts(LIST.parent / kernel["source"], arch, entry["defines"])
        failures, notes = judge(facts, entry, profile)
        return {"kernel": kernel["name"], "arch": arch, "tile": entry.get("tile", ""), "facts": facts, "failures": failures, "notes": notes}

    results = []
    with concurrent.futures.ThreadPoolExecutor(max(1, chosen.j)) as pool:
        for r in pool.map(work, jobs):
            f = r["facts"]
            what = "" if "error" in f else f"{f['registers']} registers, {f['stack']} stack, {shown(f, PRODUCTS + SHOWN)}"
            print(f"{'FAILS' if r['failures'] else 'holds'}  {r['kernel']:<28} sm_{r['arch']:<4} {f['seconds']:5.1f} s  {what}", flush=True)
            for text in r["failures"] + r["notes"]:
                print(f"       {text}", flush=True)
            results.append(r)

    record = {"nvcc": compiler.version, "results": results}
    (compiler.cache / "record.json").write_text(json.dumps(record, indent=1))
    if chosen.json:
        pathlib.Path(chosen.json).write_text(json.dumps(record, indent=1) + "\n")
    failed = [r for r in results if r["failures"]]
    print(f"{len(results)} compilations, {sum(r['facts']['seconds'] for r in results):.0f} s of compiler time, {len(failed)} fail")

    if chosen.write_docs or chosen.check_docs:
        if chosen.arch or chosen.kernel or chosen.quick:
            print("machine_code: the table needs all kernels and architectures", file=sys.stderr)
            return 1
        page = page_with(table(results, compiler.version))
        if page is None:
            print(f"machine_code: {PAGE.relative_to(ROOT)} needs the lines {BEGIN} and {END}", file=sys.stderr)
            return 1
        if chosen.write_docs:
            PAGE.write_text(page)
        elif page != PAGE.read_text():
            print("machine_code: the table in docs/machines.md is out of date: run with --write-docs", file=sys.stderr)
            return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
