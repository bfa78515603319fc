#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: runs the GPU tests (verb conformance first), compute-sanitizer where it works on
# tile kernels, and the GPU benchmarks, in under 8 minutes. Writes tests.json, bench_*.json and README.md, a table of
# both, under docs/performance/<gpu>/.
#   scripts/gpu.sh [build folder = build/cuda] [folder for results = docs/performance]
#   scripts/gpu.sh --pack ARCHIVE.tar.xz [build folder = build/cuda]
# Binaries built elsewhere run as they are: they need a driver and nothing else. Without binaries they are built here,
# for this GPU. Exits 77 where there is no GPU, 1 where a test fails.
# --pack runs nothing on a GPU: it puts what a run needs into an archive, the binaries stripped and what the host's half
# of the verb conformance computed. On the machine with the GPU: mkdir -p build/cuda && tar -xf ARCHIVE.tar.xz -C build/cuda
#   SMALTI_COMMIT=...   what to write as the commit where there is no git
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."

if [ "${1:-}" = --pack ]; then
  [ -n "${2:-}" ] || { echo "gpu.sh: --pack needs the archive's name" >&2; exit 1; }
  archive=$(cd "$here" && realpath -m "$2")
  folder=$(realpath "${3:-build/cuda}")
  compgen -G "$folder/tests/*.gpu" >/dev/null || { echo "gpu.sh: there are no GPU tests in $folder/tests: build the target smalti.gpu" >&2; exit 1; }
  temporary=$(mktemp -d)
  trap 'rm -rf "$temporary"' EXIT
  mkdir -p "$temporary/tests/data" "$temporary/bench"
  for host in "$folder"/tests/*conformance*.host; do
    if [ -x "$host" ]; then (cd "$folder/tests" && SMALTI_TEST_DATA_DIR=$temporary/tests/data "$host" >/dev/null); fi
  done
  for room in tests bench; do
    for binary in "$folder/$room"/*.gpu; do
      if [ -x "$binary" ]; then strip -o "$temporary/$room/$(basename "$binary")" "$binary"; fi
    done
  done
  cp "$folder/cuda_toolkit" "$temporary/"
  tar -C "$temporary" -cf - . | xz -T0 -6 >"$archive"
  echo "gpu.sh: $archive: $(find "$temporary" -name '*.gpu' | wc -l) binaries, $(du -h "$archive" | cut -f1)"
  exit
fi

folder=${1:-build/cuda}
results=${2:-docs/performance}
budget=460                                     # seconds for everything that runs
begin=$SECONDS
say() { echo "gpu.sh: $*"; }
left() { echo $((budget - (SECONDS - begin))); }

if ! command -v nvidia-smi >/dev/null || ! facts=$(nvidia-smi --query-gpu=name,compute_cap,driver_version --format=csv,noheader 2>&1 | head -1) ||
  [[ $facts != *,*,* ]]; then
  say "no NVIDIA GPU here: ${facts:-nvidia-smi is not installed}; nothing was run"
  exit 77
fi
IFS=, read -r gpu capability driver <<<"$facts"
capability=${capability// /}
driver=${driver// /}
arch=${capability/./}

have_binaries() { compgen -G "$folder/tests/*.gpu" >/dev/null; }
if ! have_binaries; then
  say "no GPU binaries in $folder: building them for sm_$arch"
  bash scripts/setup.sh
  if [ -z "${CMAKE_GENERATOR:-}" ] && command -v ninja >/dev/null; then export CMAKE_GENERATOR=Ninja; fi
  root=$(bash scripts/cuda.sh)
  cmake --preset release -B "$folder" -DSMALTI_CUDA=ON -DCMAKE_CUDA_COMPILER="$root/bin/nvcc" -DSMALTI_CUDA_ARCHITECTURES="$arch" >/dev/null
  cmake --build "$folder" --target smalti.gpu -j "$(nproc)"
  begin=$SECONDS
fi
have_binaries || { say "there are no GPU tests in $folder/tests"; exit 1; }

folder=$(realpath "$folder")
toolkit=$(cat "$folder/cuda_toolkit" 2>/dev/null || echo unknown)
commit=${SMALTI_COMMIT:-$(git rev-parse --short HEAD 2>/dev/null || echo unknown)}
slug=$(tr '[:upper:] ' '[:lower:]-' <<<"$gpu" | tr -cd 'a-z0-9-')
out=$results/$slug
mkdir -p "$out" "$folder/tests/data"
out=$(realpath "$out")
export SMALTI_TEST_DATA_DIR=$folder/tests/data SMALTI_GOLDEN_DIR=$PWD/tests/golden SMALTI_COMMIT=$commit
say "$gpu, sm_$arch, driver $driver, toolkit $toolkit, commit $commit"

# Each line of `rows` is: kind|name|result|seconds|remark
rows=()
failed=0
record() { rows+=("$1|$2|$3|$4|$5"); printf '  %-12s %-44s %-8s %5s s  %s\n' "$1" "$2" "$3" "$4" "$5"; }
last_line() { grep -v '^ *$' "$1" | tail -1 | tr -d '|"\\' | cut -c1-160; }

# one KIND NAME LIMIT COMMAND...: runs it, records it, keeps its output
one() {
  local kind=$1 name=$2 limit=$3 rc=0 start=$SECONDS log
  shift 3
  log=$folder/$name.$kind.log
  [ "$limit" -le "$(left)" ] || limit=$(left)
  if [ "$limit" -le 0 ]; then
    record "$kind" "$name" "not run" 0 "out of time"
    return
  fi
  (cd "$folder/tests" && timeout -k 5 "$limit" "$@") >"$log" 2>&1 || rc=$?
  case $rc in
    0) record "$kind" "$name" passed $((SECONDS - start)) "$(last_line "$log")" ;;
    77) record "$kind" "$name" skipped $((SECONDS - start)) "$(last_line "$log")" ;;
    124 | 137) record "$kind" "$name" "timeout" $((SECONDS - start)) "more than $limit s"; failed=1 ;;
    *) record "$kind" "$name" failed $((SECONDS - start)) "$(last_line "$log")"; failed=1; tail -40 "$log" ;;
  esac
}

# The words first: where one is wrong, every kernel is.
conformance=()
others=()
for test in "$folder"/tests/*.gpu; do
  case $test in *conformance*) conformance+=("$test") ;; *) others+=("$test") ;; esac
done
for test in "${conformance[@]}"; do
  host=${test%.gpu}.host
  if [ -x "$host" ]; then one host "$(basename "$host")" 120 "$host"; fi       # writes what the GPU must say
  one conformance "$(basename "$test")" 120 "$test"
done
for test in "${others[@]}"; do one test "$(basename "$test")" 120 "$test"; done

ran=
for row in "${rows[@]}"; do
  case $row in
    host\|*) ;;
    *"|passed|"* | *"|failed|"* | *"|timeout|"*) ran=1 ;;
  esac
done
if [ -z "$ran" ]; then
  say "no GPU test could run, nothing is written: $(cut -d'|' -f5 <<<"${rows[-1]}")"
  rmdir "$out" 2>/dev/null || true
  exit 77
fi

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
if [ -z "$sanitizer" ]; then
  record sanitizer compute-sanitizer "not run" 0 "it is not installed"
else
  for test in "${conformance[@]}" "${others[@]}"; do
    [ "$(left)" -gt 150 ] || break
    one sanitizer "$(basename "$test")" 60 "$sanitizer" --error-exitcode 9 "$test"
  done
fi

benches=()
for bench in "$folder"/bench/*.gpu; do
  [ -x "$bench" ] || continue
  json=$out/bench_$(basename "${bench%.gpu}").json
  limit=$(($(left) < 240 ? $(left) : 240))
  # It stops by itself before the limit, and says which cases it left out.
  one bench "$(basename "$bench")" 240 "$bench" --benchmark_out="$json" --benchmark_out_format=json --seconds=$((limit - 15))
  [ -s "$json" ] && benches+=("$json")
done
[ ${#benches[@]} -gt 0 ] || say "no GPU benchmark was run"

{
  printf '{"gpu": "%s", "arch": %s, "driver": "%s", "toolkit": "%s", "commit": "%s", "date": "%s", "results": [' \
    "$gpu" "$arch" "$driver" "$toolkit" "$commit" "$(date -u +%F)"
  comma=
  for row in "${rows[@]}"; do
    IFS='|' read -r kind name result seconds remark <<<"$row"
    printf '%s\n  {"kind": "%s", "name": "%s", "result": "%s", "seconds": %s, "remark": "%s"}' "$comma" "$kind" "$name" "$result" "$seconds" "$remark"
    comma=,
  done
  printf '\n]}\n'
} >"$out/tests.json"
{
  printf '# %s\n\nsm_%s, driver %s, toolkit %s, commit %s, %s. Written by `scripts/gpu.sh`.\n\n' "$gpu" "$arch" "$driver" "$toolkit" "$commit" "$(date -u +%F)"
  printf '| kind | what | result | s | remark |\n|---|---|---|---:|---|\n'
  for row in "${rows[@]}"; do
    IFS='|' read -r kind name result seconds remark <<<"$row"
    printf '| %s | %s | %s | %s | %s |\n' "$kind" "$name" "$result" "$seconds" "$remark"
  done
  if [ ${#benches[@]} -gt 0 ] && [ -f bench/report.py ] && command -v python3 >/dev/null; then
    printf '\n'
    python3 bench/report.py "${benches[@]}" || echo "bench/report.py failed: the figures are in the JSON files beside this page"
  fi
} >"$out/README.md"
say "written: $out/tests.json, $out/README.md (in $((SECONDS - begin)) s)"
say "python3 bench/report.py --page puts the benchmarks on docs/performance.md"
exit $failed
