#!/usr/bin/env python3
"""Checks the library's published claims about speed and cost.

usage: claims.py [options] [ID or prefix ...]        (no ID: every claim)

Builds what the claims need, runs their commands and prints one line for each claim: id, figure, bound, and
`holds`, `falls short` or `not measured here: reason`. Exits with 1 when a claim falls short, when a prefix
yields no `holds`, or when nothing was asked for that exists. bench/README.md describes claims.json.
"""
import argparse
import json
import operator
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
COMPARE = {">=": operator.ge, "<=": operator.le}
SKIPPED = 77  # a command that exits with it was not able to measure here, and says why in its last line
TIME_LIMIT = 1800


class BadClaims(Exception):
    """claims.json breaks a rule of its own."""


def load_claims(path):
    with open(path) as file:
        claims = json.load(file)["claims"]
    seen = set()
    for claim in claims:
        name = claim.get("id", "?")
        for key in ("id", "title", "command", "counter", "op", "bound", "source"):
            if key not in claim:
                raise BadClaims(f"claim {name}: no {key!r}")
        if name in seen:
            raise BadClaims(f"claim {name}: there are two of it")
        seen.add(name)
        for condition in [claim] + claim.get("when", []):
            if condition["op"] not in COMPARE:
                raise BadClaims(f"claim {name}: op is '>=' or '<=', not {condition['op']!r}")
            if not isinstance(condition["bound"], (int, float)):
                raise BadClaims(f"claim {name}: bound must be a number")
        command = claim["command"]
        if ("target" in command) == ("script" in command):
            raise BadClaims(f"claim {name}: command needs either 'target' or 'script'")
        if "target" in command and "filter" not in command:
            raise BadClaims(f"claim {name}: a target needs a 'filter'")
        for need in claim.get("needs", []):
            if need.split(":")[0] not in ("cpu", "threads", "gpu", "peer", "python", "idle"):
                raise BadClaims(f"claim {name}: unknown need {need!r}")
    return claims


def selected(claims, prefixes):
    """Claims whose id is a prefix or continues it after a dot; in the order of the file."""
    def asked(claim):
        return any(claim["id"] == p.rstrip(".") or claim["id"].startswith(p.rstrip(".") + ".") for p in prefixes)
    return [c for c in claims if not prefixes or asked(c)]


class Machine:
    """What this machine has, as far as claims may ask."""

    def __init__(self, cpuinfo="/proc/cpuinfo"):
        self.flags = set()
        try:
            with open(cpuinfo) as file:
                for line in file:
                    if line.split(":")[0].strip() in ("flags", "Features"):
                        self.flags = set(line.split(":", 1)[1].split())
                        break
        except OSError:
            pass
        self.threads = len(os.sched_getaffinity(0))
        self.gpu = os.path.exists("/dev/nvidiactl")

    def lacks(self, need):
        """Why a need is not met, or None. Needs of the build ('peer:') and of the moment ('idle') come later."""
        kind, _, value = need.partition(":")
        if kind == "cpu" and value not in self.flags:
            return f"the processor has no {value}"
        if kind == "threads" and self.threads < int(value):
            return f"it has {self.threads} of {value} processors"
        if kind == "gpu" and not self.gpu:
            return "no NVIDIA GPU"
        if kind == "python" and subprocess.run([sys.executable, "-c", f"import {value}"], capture_output=True).returncode != 0:
            return f"Python has no module {value}"
        return None


class Runner:
    """Builds targets and runs commands, each once."""

    def __init__(self, build, do_build=True, log=None):
        self.build, self.do_build, self.log = Path(build), do_build, log or sys.stderr
        self.built, self.results = {}, {}

    def configure(self):
        """Configures the build folder unless it is one that builds benchmarks already."""
        cache = self.build / "CMakeCache.txt"
        if cache.exists() and re.search(r"^SMALTI_BENCH:BOOL=(ON|1|TRUE|YES)$", cache.read_text(), re.M | re.I):
            return None
        command = ["cmake", "--preset", "release", "-S", str(ROOT), "-B", str(self.build), "-DSMALTI_BENCH=ON"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        return None if done.returncode == 0 else f"does not configure: {last_line(done.stderr)}"

    def make(self, target):
        """None, or why the target cannot be run."""
        if target not in self.built:
            self.built[target] = None
            if self.do_build:
                print(f"building {target}", file=self.log, flush=True)
                problem = self.configure()
                if problem is None:
                    done = subprocess.run(["cmake", "--build", str(self.build), "--target", target], capture_output=True, text=True)
                    if done.returncode != 0:
                        print(done.stdout[-4000:] + done.stderr[-4000:], file=self.log)
                        problem = "does not build"
                self.built[target] = problem
        return self.built[target]

    def executable(self, target):
        return self.build / "bench" / target

    def run(self, command):
        """(result as Google Benchmark's JSON, None), or (None, (verdict, reason))."""
        key = json.dumps(command, sort_keys=True)
        if key not in self.results:
            self.results[key] = self.run_new(command)
        return self.results[key]

    def run_new(self, command):
        for target in [command["target"]] if "target" in command else command.get("builds", []):
            problem = self.make(target)
            if problem is None and not self.executable(target).exists():
                problem = f"no executable {target}"
            if problem is not None:
                return None, ("falls short", problem)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.json"
            if "target" in command:
                line = [str(self.executable(command["target"])), f"--benchmark_filter={command['filter']}",
                        f"--benchmark_out={out}", "--benchmark_out_format=json"]
            else:
                places = {"bench": str(self.build / "bench"), "root": str(ROOT)}
                line = [sys.executable, str(ROOT / command["script"])] + [a.format(**places) for a in command.get("arguments", [])]
                line += ["--json", str(out)]
            print("running", " ".join(line[:2]), file=self.log, flush=True)
            environment = dict(os.environ, **command.get("environment", {}))
            try:
                done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=TIME_LIMIT)
            except subprocess.TimeoutExpired:
                return None, ("falls short", f"took more than {TIME_LIMIT} s")
            if done.returncode == SKIPPED:
                return None, ("not measured here", last_line(done.stdout) or "the command says it cannot")
            if done.returncode != 0:
                return None, ("falls short", f"exit status {done.returncode}: {last_line(done.stderr) or last_line(done.stdout)}")
            try:
                return json.loads(out.read_text()), None
            except (OSError, ValueError):
                return None, ("falls short", "the command wrote no JSON")


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def figure_of(claim, cases):
    """The worst of the cases, as the bound sees it."""
    values = [case[claim["counter"]] for case in cases]
    return min(values) if claim["op"] == ">=" else max(values)


def judge(claim, machine, runner):
    """A record of the claim with 'verdict', and 'figure' or 'reason'."""
    record = {key: claim[key] for key in ("id", "title", "counter", "op", "bound", "source")}

    def verdict(what, reason=None, figure=None):
        record.update(verdict=what, reason=reason, figure=figure)
        return record

    for need in claim.get("needs", []):
        lack = machine.lacks(need)
        if lack is not None:
            return verdict("not measured here", lack)
    result, failure = runner.run(claim["command"])
    if failure is not None:
        return verdict(*failure)
    context = result.get("context", {})
    record["context"] = context
    for need in claim.get("needs", []):
        kind, _, value = need.partition(":")
        if kind == "peer" and value.lower() not in context.get("peers", "").lower():
            return verdict("not measured here", f"this build has no {value}")

    wanted = re.compile(claim["cases"]) if "cases" in claim else None
    cases = [c for c in result.get("benchmarks", []) if wanted is None or wanted.search(c["name"])]
    if not cases:
        return verdict("falls short", "no case has the claim's name")
    record["cases"] = cases
    for case in cases:
        if case.get("error_occurred"):
            return verdict("falls short", f"{case['name']}: {case.get('error_message', 'error')}")
    for condition in claim.get("when", []):
        if any(condition["counter"] not in case for case in cases):
            return verdict("falls short", f"the command gives no {condition['counter']}")
        if not all(COMPARE[condition["op"]](case[condition["counter"]], condition["bound"]) for case in cases):
            return verdict("not measured here", condition["otherwise"])
    if any(claim["counter"] not in case for case in cases):
        return verdict("falls short", f"the command gives no {claim['counter']}")
    disturbed = max(case.get("disturbed", 0) for case in cases)
    if "idle" in claim.get("needs", []) and disturbed > 0.1:
        return verdict("not measured here", f"other programs had the processors in {disturbed:.0%} of the samples")
    figure = figure_of(claim, cases)
    holds = COMPARE[claim["op"]](figure, claim["bound"])  # false for NaN
    return verdict("holds" if holds else "falls short", None, figure)


def line_of(record):
    figure = "-" if record["figure"] is None else f"{record['figure']:.3f}"
    said = record["verdict"] + (f": {record['reason']}" if record["reason"] else "")
    return f"{record['id']:<36} {figure:>8}  {record['op']} {record['bound']:<6} {said}"


def main(arguments=None, machine=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", nargs="*", metavar="ID or prefix")
    parser.add_argument("--list", action="store_true", help="print the claims and their commands, run nothing")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "claims.json", help="where the records go (default: build/claims.json)")
    parser.add_argument("--build-dir", type=Path, default=ROOT / "build" / "release")
    parser.add_argument("--no-build", action="store_true", help="run the executables as they are")
    parser.add_argument("--from", dest="source", type=Path, default=HERE / "claims.json", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        claims = load_claims(options.source)
    except BadClaims as problem:
        print(f"{options.source}: {problem}", file=sys.stderr)
        return 1
    if options.list:
        for claim in selected(claims, options.claims):
            command = claim["command"]
            what = f"{command['target']} --benchmark_filter='{command['filter']}'" if "target" in command else \
                " ".join([command["script"]] + command.get("arguments", []))
            print(f"{claim['id']}: {claim['title']}\n    {claim['counter']} {claim['op']} {claim['bound']}    {what}")
        return 0

    machine = machine or Machine()
    runner = Runner(options.build_dir, not options.no_build)
    records = []
    for claim in selected(claims, options.claims):
        records.append(judge(claim, machine, runner))
        print(line_of(records[-1]), flush=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    with open(options.json, "w") as file:
        json.dump({"machine": platform.node(), "claims": records}, file, indent=1)

    failed = any(r["verdict"] == "falls short" for r in records)
    for prefix in options.claims or [""]:
        mine = selected(records, [prefix] if prefix else [])
        if not any(r["verdict"] == "holds" for r in mine):
            print(f"no claim {'of ' + prefix + ' ' if prefix else ''}was seen to hold", file=sys.stderr)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
