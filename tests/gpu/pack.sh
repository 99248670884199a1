#!/usr/bin/env bash
# Packs the tests for a machine with a GPU: into one archive that needs nothing there but a Python with torch.
set -euo pipefail
# shellcheck source=launcher/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../launcher/setup.sh"

if [[ ${1:-} == --help || $# -gt 2 ]]; then
  cat <<'TEXT'
Usage: tests/gpu/pack.sh [cuda|cpu] [DIRECTORY]

Builds the program and its GPU tests (default: cuda; no GPU is needed for that) and writes
DIRECTORY/bipo-gpu-tests.tar.gz (default: the current directory), of 60 MiB at most: what launcher/bundle.sh packs, the
tests, a tiny model with pairs, and tests/gpu/run.py, which runs them. `cpu` packs the program for CPUs, to test this
script. On the machine with the GPU, unpack it and start
  python3 bipo-gpu-tests/run.py
BIPO_BUILD=FOLDER takes the programs of that build folder as they are.
TEXT
  exit 0
fi
KIND=${1:-cuda}
TARGET=$(cd "${2:-.}" && pwd)
[[ $KIND == cpu || $KIND == cuda ]] || fail "unknown kind $KIND: cuda or cpu"
MOST_BYTES=$((60 << 20))

# Test programs beside the one that is tested; the suite is there in CUDA builds only.
tests=(mpi_test)
[[ $KIND == cpu ]] || tests+=(gpu_suite_test)

cd "$BIPO_SOURCE"
ensure_venv full
build=${BIPO_BUILD:-}
if [[ -z $build && $KIND == cuda ]]; then
  build="build-cuda"
  configure_cuda
  build_targets "$build" bipo-dist bipo-dist-compute "${tests[@]}"
elif [[ -z $build ]]; then
  build=build
  configure_release
  build_targets "$build" bipo-dist bipo-dist-compute "${tests[@]}"
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
BIPO_BUILD=$build launcher/bundle.sh "$KIND" "$folder" >/dev/null
tar -xzf "$folder/bipo-dist-$KIND.tar.gz" -C "$folder"
root=$folder/bipo-gpu-tests
mv "$folder/bipo-dist-$KIND" "$root"
for test in "${tests[@]}"; do
  program=$(find "$build/tests" -type f -name "$test" -perm -u+x)
  [[ -n $program ]] || fail "$build/tests holds no program $test: build it first"
  strip -o "$root/libexec/$test" "$program"
  ln -s bipo-dist "$root/bin/$test"
done
cp tests/gpu/run.py "$root/"
mkdir "$root/tiny"
PYTHONPATH=tests/reference "$BIPO_CACHE/venv-full/bin/python" -c '
import sys
from pathlib import Path
from tiny_models import TinyModel, write_model, write_pairs
folder = Path(sys.argv[1])
write_model(folder / "model", TinyModel(hidden_size=96, intermediate_size=256, layers=6))
write_pairs(folder / "train.csv", 32)
' "$root/tiny"

foreign=$(find "$root" -regextype posix-extended -regex '.*/(libtorch|libc10|libnccl|libcudart|libcublas|libcudnn|libgomp)[^/]*')
[[ -z $foreign ]] || fail "these files are torch's, and must not be packed: $foreign"
archive=$TARGET/bipo-gpu-tests.tar.gz
tar -C "$folder" --owner=0 --group=0 -czf "$archive" bipo-gpu-tests
bytes=$(stat -c %s "$archive")
if ((bytes > MOST_BYTES)); then
  rm "$archive"
  fail "the archive would have $bytes bytes, more than $MOST_BYTES"
fi
say "$archive: $((bytes >> 20)) MiB"
