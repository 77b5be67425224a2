#!/bin/sh
# The container's healthcheck: whether the edge's loop still moves.
#
# The edge touches a file as its loop moves. Docker marks a container unhealthy and leaves it running, so this script
# ends the processes of one whose file has not been touched for PEDSAM_HEARTBEAT_LIMIT_S seconds. With `docker run
# --init` the init process stays, exits as its child died, and the restart policy starts the container again.
#
# Nothing is said about a container without the file (it is still starting, or runs another command than `run`), nor by
# a file from before the container started: a restarted container finds the one of the run before. The same holds for a
# file that seems older than the container because the clock was set meanwhile, as on a board without a clock battery.
set -u

file=${PEDSAM_RUN_HEARTBEAT:-/run/pedsam/heartbeat}
limit_s=${PEDSAM_HEARTBEAT_LIMIT_S:-30}

case $limit_s in
'' | *[!0-9]*)
    echo "PEDSAM_HEARTBEAT_LIMIT_S is \"$limit_s\", expected whole seconds like 30"
    exit 1
    ;;
esac

# Seconds since the first process of this container started.
container_age_s() {
    stat=$(cat /proc/1/stat)
    uptime=$(cat /proc/uptime)
    # shellcheck disable=SC2086 # fields after the name, which may hold blanks
    set -- ${stat##*) }
    echo $((${uptime%%.*} - ${20} / $(getconf CLK_TCK)))
}

touched=$(stat -c %Y -- "$file" 2>/dev/null) || exit 0
age_s=$(($(date +%s) - touched))
if [ "$age_s" -le "$limit_s" ] || [ "$age_s" -gt "$(container_age_s)" ]; then
    exit 0
fi

echo "the edge last moved $age_s s ago, more than the $limit_s s allowed: its processes are killed"
# Every process of this container that may be killed, but for its first and this script.
kill -9 -1
exit 1
