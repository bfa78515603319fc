#!/usr/bin/env python3
"""Files compiled with different flags and compilers, linked into one program in both orders.

unit.cpp is compiled once for each combination of compiler, processor and threads (and by nvcc, if given: twice for one
architecture, once for another, once for both). Each unit prints what its templates saw. Linked alone a unit tells the truth; linked among the others, first to last and
last to first, it must print the same line. Without the flags in the namespace's name it does not:
`--break` takes them out and expects this test to notice.
"""
import argparse
import itertools
import os
import pathlib
import shutil
import subprocess
import sys

here = pathlib.Path(__file__).resolve().parent


def run(command, **more):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **more)
    if done.returncode != 0:
        sys.exit(f"odr: {' '.join(str(c) for c in command)}\nfailed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--include", default=here.parents[1] / "include")
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--compilers", nargs="+", default=["g++"])
    parser.add_argument("--nvcc")
    parser.add_argument("--gemm", action="store_true", help="each unit also runs smalti/ops/gemm.hpp")
    parser.add_argument("--break", dest="broken", action="store_true", help="one namespace for all flags: must be noticed")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)

    common = ["-std=c++20", "-O1", "-I", args.include] + (["-DODR_GEMM"] if args.gemm else [])
    if args.broken:
        common += ["-include", here / "one_namespace.hpp"]
    units = []
    processors = {"plain": [], "avx2": ["-mavx2", "-mfma"], "native": ["-march=native"]}
    threads = {"serial": [], "omp": ["-fopenmp"]}
    for (which, compiler), (processor, p), (thread, t) in itertools.product(
            enumerate(args.compilers), processors.items(), threads.items()):
        name = f"c{which}_{processor}_{thread}"
        units.append((name, [compiler, *common, *p, *t, f"-DODR_UNIT={name}", "-c", here / "unit.cpp"]))
    if args.nvcc:
        for name, architectures in (("nvcc_one", [90]), ("nvcc_other", [90]), ("nvcc_older", [80]), ("nvcc_both", [80, 90])):
            code = [f"--generate-code=arch=compute_{a},code=sm_{a}" for a in architectures]
            units.append((name, [args.nvcc, *common, "--enable-tile", *code, "-x", "cu", f"-DODR_UNIT={name}", "-c", here / "unit.cpp"]))
    objects = {}
    for name, command in units:
        objects[name] = args.work / f"{name}.o"
        run([*command, "-o", objects[name]])

    # clang's libomp also answers g++'s calls, not the other way round: one library of threads for both.
    libraries = ["-fopenmp"]
    for compiler in args.compilers:
        if "clang" in run([compiler, "--version"]):
            folder = pathlib.Path(run([compiler, "-print-resource-dir"]).strip()).parents[2] / "lib"
            if not (folder / "libomp.so").exists():
                folder = pathlib.Path(shutil.which(compiler)).resolve().parents[1] / "lib"
            libraries = ["-L", folder, f"-Wl,-rpath,{folder}", "-lomp", "-lpthread"]
    if args.nvcc:
        root = pathlib.Path(args.nvcc).resolve().parents[1]
        folder = next((root / d for d in ("lib64", "lib", "targets/x86_64-linux/lib") if (root / d / "libcudart_static.a").exists()), None)
        if folder is None:
            sys.exit(f"odr: no libcudart_static.a beside {args.nvcc}")
        libraries += ["-L", folder, "-lcudart_static", "-lrt", "-lpthread", "-ldl"]

    def program(label, names):
        """Links the named units, in this order, behind a main that calls each."""
        main_file = args.work / f"main_{label}.cpp"
        lines = ["#include <cstdio>", "#include <cstring>", "#include <smalti/core/status.hpp>"]
        for name in names:
            lines += [f'extern "C" int odr_{name}(char*, unsigned);', f"smalti::status odr_status_{name}();"]
        lines.append("int main() {\n  char line[512];")
        for name in names:
            lines += [f"  odr_{name}(line, sizeof line); std::puts(line);",
                      f"  if (const auto s = odr_status_{name}(); s.got != 3 || s.need != 4 || std::strcmp(s.what, \"{name}\")) return 1;"]
        lines.append("}")
        main_file.write_text("\n".join(lines) + "\n")
        out = args.work / f"program_{label}"
        run([args.compilers[0], "-std=c++20", "-O1", "-I", args.include, main_file, *[objects[n] for n in names], "-o", out, *libraries])
        return run([out], env={**os.environ, "OMP_NUM_THREADS": "2"}).splitlines()

    names = list(objects)
    alone = {name: program(f"alone_{name}", [name])[0] for name in names}
    bad = []
    for label, order in (("forward", names), ("backward", names[::-1])):
        for name, line in zip(order, program(label, order)):
            if line != alone[name]:
                bad.append(f"{label}: alone '{alone[name]}', among others '{line}'")
    for name in names:
        print(alone[name])
        if " gemm -" in alone[name] and not name.startswith("nvcc"):
            bad.append(f"wrong product: {alone[name]}")
    if args.broken:
        if not bad:
            sys.exit("odr: the namespaces were taken out, and nothing was noticed")
        print(f"noticed, as it must be: {len(bad)} lines, the first: {bad[0]}")
        return
    if bad:
        sys.exit("odr: units answer with each other's bodies:\n" + "\n".join(bad))
    print(f"{len(names)} units, alone and in both orders: the same answers")


if __name__ == "__main__":
    main()
