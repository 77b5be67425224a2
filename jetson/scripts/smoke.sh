#!/bin/sh
# The smoke test of a version: its built-in picture, as many times as asked for, through the sites.
#
#   smoke.sh run ID FRAMES ARGUMENT...    pedsam run with these arguments
#   smoke.sh read FILE                    summary.json or masks.jsonl of the last one
set -eu
umask 077

folder=$HOME/pedsam/state/smoke
command=$1
shift
case $command in
run)
    version=$HOME/pedsam/versions/$1
    frames=$2
    shift 2
    rm -rf "$folder"
    mkdir -p "$folder/frames"
    number=100
    while [ "$number" -lt $((100 + frames)) ]; do
        cp "$version/config/smoke.jpg" "$folder/frames/$number.jpg"
        number=$((number + 1))
    done
    exec "$version/container.sh" smoke --source /pedsam/state/smoke/frames --out /pedsam/state/smoke/out \
        --ledger /pedsam/state/smoke/ledger.json --new-session \
        --bundle /pedsam/bundle --sites /pedsam/config/sites.toml "$@"
    ;;
read)
    cat "$folder/out/$1"
    ;;
*)
    echo "smoke.sh: unknown command $command" >&2
    exit 2
    ;;
esac
