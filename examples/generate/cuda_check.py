#!/usr/bin/env python3
"""Compiles and links generate with its GPU half, without a GPU: each unit by nvcc for one architecture, the rest by the host's compiler, with both
machines in one program. Then runs it: on the host it answers as ever, and --machine cuda without a GPU is refused by a sentence. Objects are kept in
the build folder and made again when a source or header is newer.

usage: cuda_check.py --nvcc ROOT --cxx PATH --build FOLDER --units "a;b;..." --model FOLDER [--pcre2 LIBRARY] [--arch 90] [--include FOLDER] [--only PATTERN]
"""
import argparse
import fnmatch
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
HOST = ("main", "options", "reports", "matrix", "model_file", "tokenizer", "chat_template", "engine_host", "engine_f32", "ranks")


def stale(target, depends):
    if not os.path.exists(target) or not os.path.exists(depends):
        return True
    with open(depends) as file:
        names = re.sub(r"\\\n", " ", file.read()).split(":", 1)[1].split()
    made = os.path.getmtime(target)
    return any(not os.path.exists(name) or os.path.getmtime(name) > made for name in names)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvcc", required=True)
    parser.add_argument("--cxx", required=True)
    parser.add_argument("--build", required=True)
    parser.add_argument("--units", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pcre2", default="-lpcre2-8")
    parser.add_argument("--arch", default="90")
    parser.add_argument("--include", default=os.path.join(ROOT, "include"))
    parser.add_argument("--only", help="compile units that match, and do not link")
    options = parser.parse_args()
    os.makedirs(options.build, exist_ok=True)
    units = options.units.split(";")
    host = ["-std=c++20", "-O1", "-march=native", "-Wno-psabi", "-fopenmp", "-I", options.include]
    device = ["-std=c++20", "--enable-tile", f"--generate-code=arch=compute_{options.arch},code=sm_{options.arch}",
              "-Xcompiler=-Wall,-Wextra,-Wno-unused-parameter,-Wno-unused-but-set-parameter", "-I", options.include, "-I", HERE]
    nvcc = os.path.join(options.nvcc, "bin", "nvcc")
    objects, failed = [], []

    def compiled(name, source, compiler, flags):
        target = os.path.join(options.build, name + ".o")
        objects.append(target)
        if options.only and not fnmatch.fnmatch(name, options.only):
            return
        if not stale(target, target + ".d"):
            return
        done = subprocess.run([compiler, *flags, "-MMD", "-MF", target + ".d", "-c", "-o", target, source], capture_output=True, text=True)
        print(f"{name}: {'compiled' if done.returncode == 0 else 'FAILED'}", flush=True)
        if done.returncode != 0:
            failed.append(name)
            print(done.stdout + done.stderr)

    for name in (*HOST, *units):
        compiled(name, os.path.join(HERE, name + ".cpp"), options.cxx, host)
    for name in units:
        twin = os.path.join(options.build, name + ".cu")
        text = f'#include "{os.path.join(HERE, name)}.cpp"\n'
        if not os.path.exists(twin) or open(twin).read() != text:
            with open(twin, "w") as file:
                file.write(text)
        compiled(name + ".gpu", twin, nvcc, device)
    compiled("engine_cuda.gpu", os.path.join(HERE, "engine_cuda.cu"), nvcc, device)
    if failed:
        sys.exit("not compiled: " + ", ".join(failed))
    if options.only:
        return 0
    program = os.path.join(options.build, "generate.cuda")
    libraries = [f"-L{os.path.join(options.nvcc, folder)}" for folder in ("lib", "lib64")]
    linked = subprocess.run([nvcc, f"--generate-code=arch=compute_{options.arch},code=sm_{options.arch}", *libraries, *objects, options.pcre2, "-lgomp", "-lpthread", "-o", program],
                            capture_output=True, text=True)
    if linked.returncode != 0:
        sys.exit("not linked: " + linked.stdout + linked.stderr)
    on = lambda machine: subprocess.run([program, "--model", options.model, "--machine", machine, "--greedy", os.path.join(options.model, "greedy.json")], capture_output=True, text=True)
    host_run, gpu_run = on("host"), on("cuda")
    print("host: " + host_run.stdout.strip())
    print("cuda: " + (gpu_run.stdout + gpu_run.stderr).strip())
    if host_run.returncode != 0:
        return 1
    refused = gpu_run.returncode == 2 and "--machine cuda: " in gpu_run.stderr
    return 0 if refused or gpu_run.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
