#!/usr/bin/env bash
# Installs Slurm and munge for the tests, without starting their services now or at the next boot.
set -euo pipefail
# shellcheck source=launcher/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../launcher/setup.sh"

# Each of the first three brings a service of its own name.
PACKAGES=(munge slurmctld slurmd slurm-client)
POLICY=/usr/sbin/policy-rc.d

# Debian's own way to keep a package's scripts from starting services.
forbid_starting() {
  if [[ ! -e $POLICY ]]; then
    trap 'as_root rm -f "$POLICY"' EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY" >/dev/null
    as_root chmod +x "$POLICY"
  fi
}

disable_service() {
  if [[ -e /etc/init.d/$1 ]]; then
    as_root update-rc.d "$1" disable
  fi
}

missing=()
for package in "${PACKAGES[@]}"; do
  is_installed "$package" || missing+=("$package")
done
if ((${#missing[@]})); then
  forbid_starting
  install_packages "${missing[@]}"
  for package in "${missing[@]}"; do
    disable_service "$package"
  done
fi
