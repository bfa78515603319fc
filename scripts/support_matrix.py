#!/usr/bin/env python3
"""Writes docs/support_matrix.md from docs/support_matrix.json, and fails where a proof that it names does not exist.

    support_matrix.py [--check] [--root FOLDER]     --check: writes nothing; fails where the page is not the one it would write
    support_matrix.py --self-test                   shows that false proofs are found

A proof is one of
    {"file": F, "case": C}   F is a test file that tests/CMakeLists.txt registers, with a test case named C
    {"file": F}              F is a file of tests/compile_fail/ that says what it expects
    {"twin": F}              F is registered with GPU: nvcc compiles it again
    {"kernel": K}            K is a kernel of tests/machine_code/kernels.json, for every architecture that the row names

`state` of a row is runs (proved by cases), compiles (by kernels) or builds (by twins). A row without a proof fails; a refusal may
stand without one where there is nothing to compile.
"""
import argparse
import json
import pathlib
import re
import shutil
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
CASE = r'(?:TEST_CASE|TEMPLATE_TEST_CASE|TEMPLATE_LIST_TEST_CASE|TEST_CASE_METHOD|// case)\(\s*"%s"'
KIND = {"runs": "case", "compiles": "kernel", "builds": "twin"}


class Proofs:
    def __init__(self, root):
        self.root = root
        self.registered = (root / "tests" / "CMakeLists.txt").read_text()
        listing = json.loads((root / "tests" / "machine_code" / "kernels.json").read_text())
        self.kernels = {kernel["name"]: self.compiled(kernel, listing) for kernel in listing["kernels"]}

    @staticmethod
    def compiled(kernel, listing):
        """The architectures on which the list demands that the kernel compiles."""
        found = set()
        for arch in listing["architectures"]:
            entry = {**kernel.get("every", {}), **kernel.get("architectures", {}).get(arch, {})}
            if not entry.get("skip") and not entry.get("refused"):
                found.add(arch)
        return found

    def is_registered(self, file, gpu=False):
        name = re.escape(file.removeprefix("tests/"))
        host = re.search(r"^\s*smalti_(test|dot_levels|mpi_test)\(" + name + (r"[^)]*\bGPU\b" if gpu else r"[\s)]"), self.registered, re.M)
        return host or (gpu and re.search(r"^\s*smalti_gpu_test\(" + name + r"\)", self.registered, re.M))

    def fault(self, proof, architecture):
        if "kernel" in proof:
            have = self.kernels.get(proof["kernel"])
            if have is None:
                return f"tests/machine_code/kernels.json has no kernel '{proof['kernel']}'"
            missing = [arch for arch in re.findall(r"\d+", architecture) if arch not in have]
            return f"the kernel '{proof['kernel']}' is not demanded for {', '.join(missing)}" if missing else ""
        if "twin" in proof:
            if not (self.root / proof["twin"]).is_file():
                return f"there is no {proof['twin']}"
            return "" if self.is_registered(proof["twin"], gpu=True) else f"{proof['twin']} is not registered with GPU"
        if "file" not in proof:
            return f"not a proof: {proof}"
        file = self.root / proof["file"]
        if not file.is_file():
            return f"there is no {proof['file']}"
        text = file.read_text()
        if "case" not in proof:
            fits = proof["file"].startswith("tests/compile_fail/") and re.search(r"^// expect: ", text, re.M)
            return "" if fits else f"{proof['file']} is no file that must not compile: name a case"
        if not self.is_registered(proof["file"]):
            return f"tests/CMakeLists.txt does not register {proof['file']}"
        return "" if re.search(CASE % re.escape(proof["case"]), text) else f"{proof['file']} has no test case '{proof['case']}'"


def shown(proof):
    if "kernel" in proof:
        return f"machine code of *{proof['kernel']}*"
    if "twin" in proof:
        return f"[{pathlib.Path(proof['twin']).stem}](../{proof['twin']})"
    name = f"[{pathlib.Path(proof['file']).stem}](../{proof['file']})"
    return name + (f": {proof['case']}" if "case" in proof else "")


def cell(text):
    return text.replace("|", "\\|")


def page_of(matrix, root):
    """The page and what is wrong with it."""
    proofs, faults = Proofs(root), []

    def how(row, name, architecture, needed):
        listed = row.get("proved", [])
        if needed and not listed:
            faults.append(f"{name}: nothing proves it")
        for proof in listed:
            fault = proofs.fault(proof, architecture)
            if fault:
                faults.append(f"{name}: {fault}")
        return "; ".join(shown(proof) for proof in listed)

    lines = ["# Support matrix", "",
             "Written by `scripts/support_matrix.py` from `docs/support_matrix.json`; a test checks that every proof named here exists. "
             "What is not listed is not claimed. **Nothing has run on a GPU yet.**", ""]
    lines += [f"- *{word}*: {meaning}" for word, meaning in matrix["words"].items()]
    lines += ["", "## What works", "", "| operation | type | machine | architecture | state | proved by |", "|---|---|---|---|---|---|"]
    for row in matrix["support"]:
        name = f"{row['op']}, {row['type']}, {row['machine']}"
        if row["state"] not in KIND:
            faults.append(f"{name}: no such state: {row['state']}")
        elif any(KIND[row["state"]] not in proof for proof in row.get("proved", [])):
            faults.append(f"{name}: '{row['state']}' is proved by a {KIND[row['state']]} and by nothing else")
        cells = [row["op"], row["type"], row["machine"], row["architecture"], row["state"], how(row, name, row["architecture"], True)]
        lines.append("| " + " | ".join(cell(c) for c in cells) + " |")
    lines += ["", "## What is refused, or not offered", "", "| what | why | instead | refused in |", "|---|---|---|---|"]
    for row in matrix["refusals"]:
        cells = [row["what"], row["reason"], row["instead"], how(row, row["what"], "", False)]
        lines.append("| " + " | ".join(cell(c) for c in cells) + " |")
    return "\n".join(lines) + "\n", faults


def run(root, check):
    matrix = json.loads((root / "docs" / "support_matrix.json").read_text())
    text, faults = page_of(matrix, root)
    page = root / "docs" / "support_matrix.md"
    if check and (not page.exists() or page.read_text() != text):
        faults.append("docs/support_matrix.md is out of date: run scripts/support_matrix.py")
    if not check and not faults:
        page.write_text(text)
    return faults


def self_test():
    """Each change of the matrix must be found."""
    def proof(matrix, state, change):
        row = next(row for row in matrix["support"] if row["state"] == state)
        row["proved"][0].update(change)

    changes = {
        "has no test case": lambda m: proof(m, "runs", {"case": "no such case"}),
        "there is no": lambda m: proof(m, "runs", {"file": "tests/ops/nothing_test.cpp"}),
        "does not register": lambda m: proof(m, "runs", {"file": "tests/support/catch_main.cpp"}),
        "has no kernel": lambda m: proof(m, "compiles", {"kernel": "no such kernel"}),
        "is not demanded for": lambda m: next(r for r in m["support"] if r["state"] == "compiles").update(architecture="sm_75"),
        "not registered with GPU": lambda m: proof(m, "builds", {"twin": "tests/ops/gemm_refusal_test.cpp"}),
        "nothing proves it": lambda m: m["support"][0].update(proved=[]),
        "no such state": lambda m: m["support"][0].update(state="surely"),
        "and by nothing else": lambda m: m["support"][0].update(state="compiles"),
        "no file that must not compile": lambda m: m["refusals"][0].update(proved=[{"file": "tests/ops/gemm_test.cpp"}]),
        "out of date": lambda m: m["support"][0].update(type="more types"),
    }
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / "root"
        root.mkdir()
        shutil.copytree(ROOT / "docs", root / "docs")
        shutil.copytree(ROOT / "tests", root / "tests", ignore=shutil.ignore_patterns("golden"))
        listing = root / "docs" / "support_matrix.json"
        good = listing.read_text()
        if run(root, check=False):
            failed.append("the matrix as it is has faults")
        for words, change in changes.items():
            matrix = json.loads(good)
            change(matrix)
            listing.write_text(json.dumps(matrix))
            faults = run(root, check=True)
            if not any(words in fault for fault in faults):
                failed.append(f"not found: {words}; got {faults}")
    return failed


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true")
    options.add_argument("--self-test", action="store_true")
    options.add_argument("--root", type=pathlib.Path, default=ROOT)
    chosen = options.parse_args()
    faults = self_test() if chosen.self_test else run(chosen.root, chosen.check)
    print("\n".join(faults) if faults else "every false proof is found" if chosen.self_test else "the support matrix holds")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
