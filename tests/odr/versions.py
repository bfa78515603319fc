#!/usr/bin/env python3
"""Several versions of the library in one program, linked in both orders.

Two copies of the headers get other version numbers (the next patch, the next minor) and other contents: a type that grew, a
body and a sentence that changed. version_unit.cpp is compiled against each. A unit prints the same line whether it is linked
alone or among the others. Without the version in the namespaces' names it does not: `--break` takes it out and expects this
test to notice.
"""
import argparse
import pathlib
import re
import shutil
import subprocess
import sys

here = pathlib.Path(__file__).resolve().parent

# What another version has changed: file, text, text instead (@ stands for the version).
CHANGES = [
    ("core/status.hpp", "std::int64_t got = 0, need = 0;", "std::int64_t got = 0, need = 0; long since@[@COUNT] = {};"),
    ("core/describe.hpp", 'const char* colon = *what == \'\\0\' ? "" : ": ";', 'const char* colon = *what == \'\\0\' ? "" : " [as @ says] ";'),
    ("core/view.hpp", "constexpr int round_up(int a, int b) { return ceil_div(a, b) * b; }",
     "constexpr int round_up(int a, int b) { return ceil_div(a, b) * b + 1000 * @COUNT; }"),
    ("prim/scan.hpp", "in is null: it needs count elements", "in is null in version @: it needs count elements"),
]


def run(command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"versions: {' '.join(str(c) for c in command)}\nfailed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def edit(path, old, new):
    text = path.read_text()
    if text.count(old) != 1:
        sys.exit(f"versions: {path} has {text.count(old)} times '{old}': this test changes it in a copy and must be told the new text")
    path.write_text(text.replace(old, new))


def number_of(include):
    text = (include / "smalti/core/version.hpp").read_text()
    return tuple(int(re.search(rf"#define SMALTI_VERSION_{part} (\d+)", text)[1]) for part in ("MAJOR", "MINOR", "PATCH"))


def copy_of(include, to, count, number):
    """The headers with another version number and other contents."""
    if to.exists():
        shutil.rmtree(to)
    shutil.copytree(include / "smalti", to / "smalti")
    for part, now, then in zip(("MAJOR", "MINOR", "PATCH"), number_of(include), number):
        edit(to / "smalti/core/version.hpp", f"#define SMALTI_VERSION_{part} {now}\n", f"#define SMALTI_VERSION_{part} {then}\n")
    name = "_".join(str(n) for n in number)
    for file, old, new in CHANGES:
        edit(to / "smalti" / file, old, new.replace("@COUNT", str(count)).replace("@", name))
    return to


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--include", type=pathlib.Path, default=here.parents[1] / "include")
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--break", dest="broken", action="store_true", help="one namespace for all versions: must be noticed")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)

    major, minor, patch = number_of(args.include)
    versions = {"ours": args.include,
                "next_patch": copy_of(args.include, args.work / "next_patch", 1, (major, minor, patch + 1)),
                "next_minor": copy_of(args.include, args.work / "next_minor", 2, (major, minor + 1, 0))}
    objects = {}
    for name, include in versions.items():
        objects[name] = args.work / f"{name}.o"
        same = ["-include", here / "one_version.hpp"] if args.broken else []
        run([args.compiler, "-std=c++20", "-O0", "-I", include, *same, f"-DUNIT={name}", "-c", here / "version_unit.cpp", "-o", objects[name]])

    def program(label, names):
        """Links the named units, in this order, behind a main that calls each and knows no version."""
        main_file = args.work / f"main_{label}.cpp"
        lines = ["#include <cstdio>"] + [f'extern "C" int version_unit_{name}(char*, unsigned);' for name in names]
        lines += ["int main() {", "  char line[512];"] + [f"  version_unit_{name}(line, sizeof line); std::puts(line);" for name in names] + ["}"]
        main_file.write_text("\n".join(lines) + "\n")
        out = args.work / f"program_{label}"
        run([args.compiler, "-O0", main_file, *[objects[n] for n in names], "-o", out])
        return run([out]).splitlines()

    names = list(objects)
    alone = {name: program(f"alone_{name}", [name])[0] for name in names}
    bad = [f"{name} alone does not say its version: {line}" for name, line in alone.items()
           if not line.startswith(".".join(map(str, number_of(versions[name]))) + ": ")]
    if len({re.sub(r"^\S+ ", "", line) for line in alone.values()}) != len(names):
        bad.append("two versions answer alike: this test has nothing to tell them by")
    for label, order in (("forward", names), ("backward", names[::-1])):
        bad += [f"{label}: alone '{alone[n]}', among others '{line}'" for n, line in zip(order, program(label, order)) if line != alone[n]]
    print("\n".join(alone.values()))
    if args.broken:
        if not bad:
            sys.exit("versions: the version was taken out of the names, and nothing was noticed")
        print(f"noticed, as it must be: {len(bad)} lines, the first: {bad[0]}")
        return
    if bad:
        sys.exit("versions: parts answer with each other's bodies:\n" + "\n".join(bad))
    print(f"{len(names)} versions in one program, in both orders: each has its own types and bodies")


if __name__ == "__main__":
    main()
