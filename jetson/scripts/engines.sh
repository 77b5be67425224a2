#!/bin/sh
# engines.sh ID ARGUMENT...: build a version's engines in its container.
#
# Memory that programs freed may not be there for the GPU while the kernel caches files in it or has it in
# small pieces, so both are mended first where this user may.
set -eu

folder=$HOME/pedsam/versions/$1
shift
if sudo -n true 2> /dev/null; then
    sync
    sudo -n sysctl -q -w vm.drop_caches=3 || true
    sudo -n sysctl -q -w vm.compact_memory=1 || true
fi
"$folder/container.sh" build "$@"
mv "$HOME/pedsam/state/engines.json" "$folder/engines.json"
