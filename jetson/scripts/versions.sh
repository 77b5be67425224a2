#!/bin/sh
# Versions of the edge on this board, below ~/pedsam:
#
#   versions/ID/     bundle, config, keys, container.sh, version.env, pedsam.service
#   current          link to the version whose service is installed; previous: the one before
#   pending          ID of the version that a flash began and has not completed
#   rollback         what a rollback that has not ended is about
#   state/           what outlives versions: the exposure ledger, objects, recordings, clocks
#
#   versions.sh state                   the IDs of current, previous and pending
#   versions.sh begin ID                a flash of this version begins
#   versions.sh bundle ID               standard input: sha256sum lines; prints "wanted FILE" for what is missing
#   versions.sh put ID                  standard input: a tar, unpacked into the version
#   versions.sh verify ID               standard input: sha256sum lines
#   versions.sh discard ID              a flash of this version is given up
#   versions.sh read FILE               prints a small file below ~/pedsam
#   versions.sh encoded FILE            prints any file below ~/pedsam in base64
#   versions.sh write FILE HASH         standard input: its new content, of this sha256
#   versions.sh forget FILE             removes it
set -eu
umask 077

base=$HOME/pedsam

linked() { # linked NAME: the ID that a link names, where that version is there
    [ ! -d "$base/$1/" ] || basename "$(readlink -f "$base/$1")"
}

pending() {
    [ ! -e "$base/pending" ] || cat "$base/pending"
}

same() { # same HASH FILE: whether the file is there and has this hash
    [ -f "$2" ] && [ "$(sha256sum < "$2" | cut -d' ' -f1)" = "$1" ]
}

begin() { # begin ID
    mkdir -p "$base/versions/$1" "$base/state"
    rm -f "$base/rollback"
    [ "$(linked current)" != "$1" ] || return 0
    before=$base/versions/$1/before.json
    if [ "$(pending)" != "$1" ]; then
        rm -f "$before" # of an earlier time
        # how the board was before a flash that this one follows without its being completed
        if [ -n "$(pending)" ] && [ -e "$base/versions/$(pending)/before.json" ]; then
            cp "$base/versions/$(pending)/before.json" "$before"
        fi
    fi
    echo "$1" > "$base/pending.new"
    mv "$base/pending.new" "$base/pending"
}

command=$1
shift
case $command in
state)
    echo "current $(linked current)"
    echo "previous $(linked previous)"
    echo "pending $(pending)"
    ;;
begin)
    begin "$1"
    ;;
bundle)
    folder=$base/versions/$1/bundle
    old=$base/current/bundle
    mkdir -p "$folder"
    while read -r hash file; do
        mkdir -p "$(dirname "$folder/$file")"
        if same "$hash" "$folder/$file"; then
            continue
        fi
        rm -rf "${folder:?}/$file"
        if same "$hash" "$old/$file"; then
            ln "$old/$file" "$folder/$file"
        else
            echo "wanted $file"
        fi
    done
    # engines of the version before: pedsam build keeps those that still fit
    if [ ! -d "$folder/engines" ] && [ -d "$old/engines" ]; then
        cp -al "$old/engines" "$folder/engines"
    fi
    ;;
put)
    mkdir -p "$base/versions/$1"
    cd "$base/versions/$1"
    tar -x --no-same-owner --unlink-first --recursive-unlink --file=-
    ;;
verify)
    cd "$base/versions/$1"
    sha256sum --check --quiet --strict -
    ;;
discard)
    if [ "$(linked current)" != "$1" ] && [ "$(linked previous)" != "$1" ]; then
        rm -rf "$base/versions/$1"
    fi
    rm -f "$base/pending"
    ;;
read)
    [ ! -e "$base/$1" ] || cat "$base/$1"
    ;;
encoded)
    base64 "$base/$1"
    ;;
write)
    mkdir -p "$(dirname "$base/$1")"
    cat > "$base/$1.new"
    if ! same "$2" "$base/$1.new"; then
        rm -f "$base/$1.new"
        echo "$1 arrived damaged" >&2
        exit 1
    fi
    mv "$base/$1.new" "$base/$1"
    ;;
forget)
    rm -f "$base/$1"
    ;;
*)
    echo "versions.sh: unknown command $command" >&2
    exit 2
    ;;
esac
