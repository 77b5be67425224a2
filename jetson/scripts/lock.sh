#!/bin/sh
# Keeps ~/pedsam for one command of one workstation: until standard input ends, or says nothing for a minute, as of a
# workstation that went to sleep. Says "locked", or nothing when another command keeps it.
set -eu
umask 077

mkdir -p "$HOME/pedsam"
# shellcheck disable=SC2016
exec flock --nonblock "$HOME/pedsam/lock" sh -c '
    echo locked
    while [ -n "$(timeout 60 head -c 1)" ]; do :; done'
