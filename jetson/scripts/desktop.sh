#!/bin/sh
# The desktop of this board, which takes memory that engines need.
#
#   desktop.sh show              the target that the board starts into
#   desktop.sh set TARGET        start into this one from now on, and go there
set -eu

case $1 in
show)
    systemctl get-default
    ;;
set)
    sudo -n systemctl set-default "$2"
    sudo -n systemctl isolate "$2"
    ;;
*)
    echo "desktop.sh: unknown command $1" >&2
    exit 2
    ;;
esac
