#!/usr/bin/env python3
"""Bits per byte of a model for every format of weights, keys and values, held to a bound for each: what the format loses beside bf16.

usage: formats_check.py --generate PATH --table FILE.md [--model FOLDER] [--activations bf16|int8]
The bounds lie a quarter above what was measured. Without --model SmolLM2-135M-Instruct is taken, where scripts/model.sh has left it (else exit status 77):
its file has 4-bit weights already, and what another 4-bit format loses comes on top.
"""
import argparse
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

# Bits per byte more than bf16 weights with bf16 activations and a bf16 cache.
LOSS = {
    "bf16": {"native": 0.0002, "bf16": 0.0002, "int8": 0.001, "int4:g128": 0.0134, "nf4": 0.0098, "mxfp4": 0.0175, "q4_0": 0.0101, "q4_1": 0.0094, "q8_0": 0.001, "fp8": 0.0015, "int6": 0.001, "int3": 0.0443},
    "int8": {"int8": 0.001, "int4:g128": 0.0142, "mxfp4": 0.0175, "q4_0": 0.0101, "q4_1": 0.0094, "q8_0": 0.001, "int6": 0.001, "int3": 0.0443},
}
CACHE_LOSS = {"bf16": 0.0002, "fp8": 0.001, "int8": 0.001, "int4": 0.0038}
# The same of SmolLM2-135M-Instruct. Its weights as they are in 4 bits are native; q4_1 from their numbers is near them.
SMOLLM_LOSS = {"native": 0.001, "bf16": 0.0002, "q8_0": 0.001, "int8": 0.001, "fp8": 0.0098, "int6": 0.0152, "q4_0": 0.1258, "nf4": 0.1492, "int4:g128": 0.1716, "mxfp4": 0.4332, "int3": 0.8156}
SMOLLM_CACHE_LOSS = {"bf16": 0.001, "fp8": 0.0021, "int8": 0.001, "int4": 0.0339}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generate", required=True)
    parser.add_argument("--model")
    parser.add_argument("--table", required=True)
    parser.add_argument("--activations", default="bf16")
    options = parser.parse_args()
    loss, cache_loss, base = LOSS, CACHE_LOSS, "bf16"
    if options.model:
        text = ["--model", options.model, "--eval", os.path.join(options.model, "eval.txt"), "--window", "256", "--windows", "16"]
    else:
        found = subprocess.run(["bash", os.path.join(ROOT, "scripts", "model.sh"), "--no-download"], capture_output=True, text=True)
        if found.returncode != 0:
            print("the model is not here: scripts/model.sh fetches it")
            return 77
        loss, cache_loss, base = {"bf16": SMOLLM_LOSS}, SMOLLM_CACHE_LOSS, "native"
        text = ["--model", found.stdout.strip(), "--eval", os.path.join(ROOT, "examples", "models", "smollm2-135m", "eval.txt"), "--window", "512", "--skip", "257", "--windows", "8", "--context", "512"]

    def rows_of(path, *more):
        if os.path.exists(path):      # --matrix carries a table on: here each is measured anew
            os.remove(path)
        subprocess.run([options.generate, *text, "--matrix", path, *more], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with open(path) as file:
            lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in file if line.startswith("| ")]
        return [dict(zip(lines[0], line)) for line in lines[1:]]

    plain = float(rows_of(options.table, "--weights", "bf16")[0]["bits per byte"])
    wrong = []

    def held(what, row, bounds):
        loss, bound = float(row["bits per byte"]) - plain, bounds.get(row[what])
        print(f"{what} {row[what]:10} {loss:+.5f} bits per byte, at most {bound}")
        if bound is None or not loss <= bound:
            wrong.append(row[what])
        return row[what]

    bounds = loss[options.activations]
    asked = "all" if options.model else ",".join(bounds)
    seen = {held("weights", row, bounds) for row in rows_of(options.table, "--weights", asked, "--activations", options.activations)}
    wrong += sorted(set(bounds) - seen)
    if options.activations == "bf16":
        for row in rows_of(options.table + ".kv.md", "--weights", base, "--kv", "all"):
            held("kv", row, cache_loss)
    if wrong:
        sys.exit("too much is lost, or nothing is known: " + ", ".join(wrong))
    return 0


if __name__ == "__main__":
    sys.exit(main())
