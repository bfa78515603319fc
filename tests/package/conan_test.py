#!/usr/bin/env python3
"""`conan create .` passes its test package without a network, with and without the components io and mpi.

    conan_test.py --work FOLDER [--conan CONAN] [--compiler CXX] [--json INCLUDE_DIR] [--mpi]

Conan works in a home of its own in FOLDER, with no remote. Exit status 77, and a line that says what is missing, where there
is no Conan 2: scripts/conan.sh installs one.
"""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

here = pathlib.Path(__file__).resolve().parent
root = here.parents[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--conan", default="")
    parser.add_argument("--compiler", default="c++")
    parser.add_argument("--json", default="", help="folder that holds nlohmann/json.hpp; without it io is not tested")
    parser.add_argument("--mpi", action="store_true", help="there is an MPI: test the component, too")
    args = parser.parse_args()
    conan = args.conan
    if not conan:
        found = subprocess.run(["bash", root / "scripts/conan.sh", "--no-install"], capture_output=True, text=True)
        if found.returncode != 0:
            print("skipped: no Conan 2 here: `bash scripts/conan.sh` installs one where there is a network")
            sys.exit(77)
        conan = found.stdout.strip()

    work = args.work.resolve()
    if work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True)
    environment = {**os.environ, "CONAN_HOME": str(work / "home"), "SMALTI_TEST_JSON_INCLUDE": args.json, "CXX": args.compiler,
                   "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}      # nobody listens there

    def run(*words, expect=0):
        done = subprocess.run([conan, *map(str, words)], capture_output=True, text=True, env=environment, cwd=work)
        text = done.stdout + done.stderr
        if (done.returncode == 0) != (expect == 0):
            sys.exit(f"conan {' '.join(map(str, words))}\nended with {done.returncode}:\n{text}")
        return text

    def create(*options, expect=0):
        return run("create", root, "--no-remote", "-c", f"tools.cmake.cmake_layout:test_folder={work / 'test'}", *options, expect=expect)

    run("profile", "detect")
    header = (root / "include/smalti/core/version.hpp").read_text()
    version = ".".join(re.search(rf"#define SMALTI_VERSION_{p} (\d+)", header)[1] for p in ("MAJOR", "MINOR", "PATCH"))
    said = f"smalti {version}: 1 + 2 + 3 + 4 = 10"
    if said not in create():
        sys.exit(f"the test package did not say '{said}'")
    print(said)
    more = []
    if args.json:
        run("create", here / "nlohmann_json", "--version", "3.11.2", "--no-remote")
        more += ["-o", "smalti/*:io=True"]
    if args.mpi:
        more += ["-o", "smalti/*:mpi=True"]
    if more:
        if said not in create(*more):
            sys.exit(f"the test package did not run with {' '.join(more)}")
        print(f"and with {' '.join(more)}")
    refusals = [("smalti supports Linux only", ["-s:a", "os=Windows"])]
    refusals += [(f"this version of smalti has no component {c}", ["-o", f"smalti/*:{c}=True"])
                 for c in ("mpi", "nccl") if not (root / f"include/smalti/comm/{c}.hpp").exists()]
    for sentence, options in refusals:
        if sentence not in create(*options, expect=1):
            sys.exit(f"refused without the sentence '{sentence}'")


if __name__ == "__main__":
    main()
