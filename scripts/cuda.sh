#!/usr/bin/env bash
# Prints the root of a CUDA toolchain whose bin/nvcc knows tile code (13.3 or newer): the one of SMALTI_NVCC, of the
# PATH or of /usr/local/cuda; where there is none, the pinned packages of the Python index are installed once, in a
# cache folder that checkouts share. The root is the only thing on stdout. Nothing here needs a GPU.
#   scripts/cuda.sh [--no-install]
set -euo pipefail
version=13.5.37
minimum=13.3
packages=(nvidia-cuda-nvcc==$version nvidia-cuda-crt==$version nvidia-cuda-tileiras==$version nvidia-cuda-runtime==$version
  nvidia-cuda-cccl==13.3.5.0.6 nvidia-cuda-cuobjdump==$version nvidia-cuda-nvdisasm==$version nvidia-nvvm==$version
  nvidia-nvjitlink==$version)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/smalti
home=$cache/cuda-$version

say() { echo "cuda.sh: $*" >&2; }

# new_enough NVCC: true if it runs and is at least the minimum
new_enough() {
  local text release
  text=$("$1" --version 2>/dev/null) || return 1
  release=$(sed -nE 's/.*release ([0-9]+\.[0-9]+).*/\1/p' <<<"$text" | head -1)
  [ -n "$release" ] && [ "$(printf '%s\n%s\n' "$minimum" "$release" | sort -V | head -1)" = "$minimum" ]
}
root_of() { dirname "$(dirname "$(readlink -f "$1")")"; }
pinned() { [ -x "$1/nvidia/cu13/bin/nvcc" ] && new_enough "$1/nvidia/cu13/bin/nvcc"; }

if [ -n "${SMALTI_NVCC:-}" ]; then
  if new_enough "$SMALTI_NVCC"; then root_of "$SMALTI_NVCC"; exit; fi
  say "SMALTI_NVCC=$SMALTI_NVCC is not an nvcc of $minimum or newer: unset it or name a newer one"
  exit 1
fi
for nvcc in "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc; do
  [ -n "$nvcc" ] && [ -x "$nvcc" ] || continue
  if new_enough "$nvcc"; then root_of "$nvcc"; exit; fi
  say "$nvcc is older than $minimum: passed over"
done
if pinned "$home"; then echo "$home/nvidia/cu13"; exit; fi
if [ "${1:-}" = --no-install ]; then say "no nvcc of $minimum or newer is installed"; exit 1; fi

mkdir -p "$cache"
exec 9>"$cache/cuda-$version.lock"
flock 9                                            # another checkout may be installing it now
if pinned "$home"; then echo "$home/nvidia/cu13"; exit; fi
python=
for candidate in python3 /usr/bin/python3; do
  if "$candidate" -m pip --version >/dev/null 2>&1; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
  say "no nvcc of $minimum or newer, and no pip to install one with: install python3-pip or a CUDA toolkit"
  exit 1
fi
say "installing CUDA $version (about 600 MB) into $home"
temporary=$(mktemp -d "$cache/installing.XXXXXX")
trap 'rm -rf "$temporary"' EXIT
if ! "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --no-cache-dir --only-binary :all: \
    --target "$temporary/tree" "${packages[@]}" >"$temporary/log" 2>&1; then
  say "CUDA $version could not be installed from the Python package index (is there a network? pip: $(tail -1 "$temporary/log")): install a CUDA toolkit of $minimum or newer, or set SMALTI_NVCC"
  exit 1
fi
if ! pinned "$temporary/tree"; then
  say "the installed nvcc does not run on this machine: $("$temporary/tree/nvidia/cu13/bin/nvcc" --version 2>&1 | head -1)"
  exit 1
fi
rm -rf "$home"                                     # a broken earlier copy: a whole one was found above
mv "$temporary/tree" "$home"
echo "$home/nvidia/cu13"
