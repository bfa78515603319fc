#!/usr/bin/env python3
"""All-reduce over MPI on 2 ranks of this machine beside the MPI's own MPI_Allreduce: runs bench.comm under mpiexec and writes
what claims.py reads.

usage: all_reduce.py --executable PATH/bench.comm --json FILE [--least BYTES] [--most BYTES]
Exits with 77 and a sentence where there is no MPI.
"""
import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executable", required=True)
    parser.add_argument("--json", required=True)
    parser.add_argument("--least", type=int, default=8)
    parser.add_argument("--most", type=int, default=64 << 20)
    options = parser.parse_args()
    mpiexec = shutil.which("mpiexec")
    if mpiexec is None:
        print("no mpiexec: install an MPI (Debian: openmpi-bin)")
        return 77
    version = subprocess.run([mpiexec, "--version"], capture_output=True, text=True).stdout.splitlines()
    version = version[0] if version else "an MPI"
    open_mpi = re.search("Open MPI|OpenRTE|PRRTE", version)
    command = [mpiexec, "-n", "2"] + (["--allow-run-as-root"] if open_mpi else []) + [options.executable, str(options.least), str(options.most)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 77:
        print("this build has no MPI")
        return 77
    if done.returncode != 0:
        sys.exit(done.stderr or done.stdout)
    benchmarks = []
    for line in done.stdout.splitlines():
        word = line.split()
        if word[:1] == ["case"]:
            benchmarks.append({"name": f"comm/all_reduce/{word[2]}/bytes:{word[1]}/ranks:2", "real_time": float(word[3]) * 1e6, "time_unit": "us",
                               "peer_ratio": float(word[4]), "spread": float(word[5]), "disturbed": float(word[6]), "bytes/s": float(word[1]) / float(word[3])})
        elif word[:1] == ["fit"]:
            benchmarks.append({"name": f"comm/fit/bytes:{word[1]}/ranks:2", "alpha": float(word[2]), "beta": float(word[3]), "off": float(word[4]), "disturbed": float(word[5])})
    context = {"date": time.strftime("%Y-%m-%dT%H:%M:%S"), "host_name": platform.node(), "peers": f"Open MPI {version.split()[-1]}" if open_mpi else version}
    with open(options.json, "w") as file:
        json.dump({"context": context, "benchmarks": benchmarks}, file, indent=1)
    for b in benchmarks:
        print(f"{b['name']:<48} " + (f"{b['real_time']:12.1f} us  {b['peer_ratio']:6.2f} x" if "peer_ratio" in b else f"off by {b['off']:.1%}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
