#!/usr/bin/env bash
# Prints a folder with include/nccl.h and lib/libnccl.so and nothing else of CUDA: links to the NCCL of NCCL_ROOT, of the system or of a toolkit;
# where there is none, the pinned package of the Python index is installed once, in a cache folder that checkouts share. The folder
# is the only thing on stdout. Nothing here needs a GPU.
#   scripts/nccl.sh [--no-install]
set -euo pipefail
version=2.28.9
cache=${XDG_CACHE_HOME:-$HOME/.cache}/smalti
home=$cache/nccl

say() { echo "nccl.sh: $*" >&2; }
whole() { [ -e "$home/include/nccl.h" ] && [ -e "$home/lib/libnccl.so" ]; }
# A folder of its own: beside nccl.h a toolkit has headers that are not those of the nvcc in use.
link_to() {
  mkdir -p "$home/include" "$home/lib"
  ln -sfn "$1" "$home/include/nccl.h"
  ln -sfn "$2" "$home/lib/libnccl.so"
  ln -sfn "$2" "$home/lib/libnccl.so.2"
}
found() {     # found HEADER LIBRARY...: links them if the header and one of the libraries are there
  local header=$1 library
  shift
  [ -e "$header" ] || return 1
  for library in "$@"; do
    if [ -e "$library" ]; then link_to "$(readlink -f "$header")" "$(readlink -f "$library")"; return; fi
  done
  return 1
}

machine=$(uname -m)-linux-gnu
for root in ${NCCL_ROOT:+"$NCCL_ROOT"} /usr /usr/local /usr/local/cuda /usr/local/cuda-13*; do
  if found "$root/include/nccl.h" "$root/lib/libnccl.so" "$root/lib/libnccl.so.2" "$root/lib64/libnccl.so" "$root/lib/$machine/libnccl.so"; then echo "$home"; exit; fi
done
if whole; then echo "$home"; exit; fi
if [ "${1:-}" = --no-install ]; then say "no NCCL is installed"; exit 1; fi
mkdir -p "$cache"
exec 9>"$home.lock"
flock 9
if whole; then echo "$home"; exit; fi
if ! python3 -m pip --version >/dev/null 2>&1; then say "no NCCL, and no pip to install one with"; exit 1; fi
say "installing nvidia-nccl-cu13 $version (about 200 MB) into $home"
temporary=$(mktemp -d "$cache/installing.XXXXXX")
trap 'rm -rf "$temporary"' EXIT
if ! python3 -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --no-cache-dir --only-binary :all: \
    --target "$temporary/tree" nvidia-nccl-cu13==$version >"$temporary/log" 2>&1; then
  say "NCCL could not be installed from the Python package index (is there a network? pip: $(tail -1 "$temporary/log"))"
  exit 1
fi
rm -rf "$home-$version"
mv "$temporary/tree/nvidia/nccl" "$home-$version"
found "$home-$version/include/nccl.h" "$home-$version/lib/libnccl.so.2" || { say "the package holds no nccl.h or libnccl.so.2"; exit 1; }
echo "$home"
