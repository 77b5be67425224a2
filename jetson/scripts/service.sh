#!/bin/sh
# The service of the edge on this board.
#
#   service.sh switch ID SECONDS    make a version the current one and start it; when it finishes no frame in time
#                                   (exit 3) or cannot be started (exit 4), the one before runs again
#   service.sh remove               stop it and take it out of the board's start-up
#   service.sh status               lines of a name and a value: version, unit, container, health, restarts, since, frames
#   service.sh logs LINES           its last lines
#   service.sh stop | start
#   service.sh bench ID ARGUMENT...    pedsam bench with these arguments in a version's container, the service stopped
#                                   meanwhile; exit 5 when it cannot be started again
#   service.sh end-bench            end that now, and wait until the service is started again
#
# A lost connection does not end a switch: it goes on to one version or the other; nor does it keep the service
# from being started again after a bench. Nor does a power cut leave the board without a service: `previous` names
# the version before from the beginning of a switch, and a unit is replaced, not removed.
set -eu
umask 077

base=$HOME/pedsam
unit=${PEDSAM_BOARD_ROOT:-}/etc/systemd/system/pedsam.service

linked() { # linked NAME: the ID that a link names, where that version is there
    [ ! -d "$base/$1/" ] || basename "$(readlink -f "$base/$1")"
}

link() { # link NAME ID, at once; without ID there is none
    if [ -z "$2" ]; then
        rm -f "$base/$1"
        return
    fi
    ln -sfn "versions/$2" "$base/$1.new" && mv -T "$base/$1.new" "$base/$1"
}

remove_unit() {
    [ -e "$unit" ] || return 0
    sudo -n systemctl disable --now pedsam.service && sudo -n rm -f "$unit" && sudo -n systemctl daemon-reload
}

remove_container() {
    docker stop -t 20 pedsam > /dev/null 2>&1 || true
    docker rm --force pedsam > /dev/null 2>&1 || true
}

begin() { # begin ID: install and start a version
    link current "$1" || return
    rm -f "$base/state/starts"
    if [ -f "$base/current/pedsam.service" ]; then
        sudo -n install -m 644 "$base/current/pedsam.service" "$unit" || return
        sudo -n systemctl daemon-reload || return
        sudo -n systemctl enable pedsam.service || return
        sudo -n systemctl restart pedsam.service
    else
        remove_unit || return
        "$base/current/container.sh" start
    fi
}

last_lines() { # last_lines N: of the service's output
    if [ -e "$unit" ]; then
        sudo -n journalctl --unit=pedsam.service --lines="$1" --no-pager --output=cat 2>&1
    else
        docker logs --tail "$1" pedsam 2>&1
    fi
}

frames() { # how many the service has finished since it started
    said=$(docker exec pedsam cat /run/pedsam/heartbeat 2> /dev/null) || said=
    case $said in
    '' | *[!0-9]*) echo 0 ;;
    *) echo "$said" ;;
    esac
}

gave_up() { # whether the service has ended, or was started again and again
    if [ -e "$unit" ]; then
        starts=0
        [ ! -s "$base/state/starts" ] || read -r starts _ < "$base/state/starts" || true
        state=$(systemctl is-active pedsam.service) || true
        [ "${starts:-0}" -ge 3 ] || [ "$state" = inactive ] || [ "$state" = failed ]
    else
        restarts=$(docker inspect --format '{{.RestartCount}}' pedsam 2> /dev/null) || absent=$((absent + 1))
        [ "${restarts:-0}" -ge 3 ] || [ "$absent" -ge 3 ]
    fi
}

uptime() { # seconds, on a clock that nobody sets
    read -r seconds _ < /proc/uptime
    echo "${seconds%%.*}"
}

healthy() { # healthy SECONDS: whether it is healthy and has finished a frame within this time
    end=$(($(uptime) + $1))
    absent=0
    while [ "$(uptime)" -lt "$end" ] && ! gave_up; do
        health=$(docker inspect --format '{{.State.Health.Status}}' pedsam 2> /dev/null) || health=
        if [ "$health" = healthy ] && [ "$(frames)" -ge 1 ]; then
            return 0
        fi
        sleep 1
    done
    return 1
}

remove_unused() { # versions other than the current one and the one before, with their images
    keep=" $(linked current) $(linked previous) "
    for folder in "$base"/versions/*/; do
        name=$(basename "$folder")
        case $keep in
        *" $name "*) ;;
        *) rm -rf "$folder" ;;
        esac
    done
    used=" $(sed -n 's/^IMAGE=//p' "$base"/versions/*/version.env | tr '\n' ' ') "
    for image in $(docker image ls --format '{{.Repository}}:{{.Tag}}' pedsam-flashed); do
        case $used in
        *" $image "*) ;;
        *) docker image rm "$image" > /dev/null || true ;;
        esac
    done
}

switch() { # switch ID SECONDS
    before=$(linked current)
    older=$(linked previous)
    if [ -n "$before" ] && [ "$before" != "$1" ]; then
        link previous "$before" || return 4
    fi
    failure=4
    if reason=$(begin "$1" 2>&1); then
        failure=3
        if healthy "$2"; then
            rm -f "$base/pending"
            remove_unused || true
            return 0
        fi
        reason=$(last_lines 20) || true
    fi
    printf '%s\n' "$reason"
    echo "reason: $(printf '%s' "$reason" | tail -n 1)"
    [ "$before" != "$1" ] || return "$failure"
    if [ -n "$before" ]; then
        begin "$before" && link previous "$older"
    else
        remove_unit
        remove_container
        link current ""
    fi
    return "$failure"
}

stop_service() {
    if [ -e "$unit" ]; then
        sudo -n systemctl stop pedsam.service
    else
        docker stop -t 20 pedsam
    fi
}

start_service() {
    rm -f "$base/state/starts"
    if [ -e "$unit" ]; then
        sudo -n systemctl restart pedsam.service
    else
        "$base/current/container.sh" start
    fi
}

is_on() { # whether the service runs, or is about to be started again
    if [ -e "$unit" ]; then
        state=$(systemctl is-active pedsam.service) || true
    else
        state=$(docker inspect --format '{{.State.Status}}' pedsam 2> /dev/null) || true
    fi
    case $state in
    active | activating | reloading | running | restarting) ;;
    *) return 1 ;;
    esac
}

bench() { # bench ID ARGUMENT...
    version=$base/versions/$1
    shift
    rm -rf "$base/state/bench"
    on=
    if is_on; then
        on=yes
        stop_service > /dev/null || return
        echo "the service is stopped meanwhile"
    fi
    status=0
    "$version/container.sh" bench "$@" || status=$?
    docker stop -t 20 pedsam-bench > /dev/null 2>&1 || true # where nobody reads its words any more
    if [ -n "$on" ]; then
        start_service > /dev/null || return 5
        echo "the service is started again"
    fi
    return "$status"
}

command=$1
shift
case $command in
switch)
    trap '' HUP PIPE
    # One at a time, whatever became of the connections. Into a file: with the connection gone, programs fail at
    # writing to it.
    exec 9> "$base/switch.lock"
    flock 9
    status=0
    switch "$1" "$2" > "$base/state/switch.log" 2>&1 9>&- || status=$?
    cat "$base/state/switch.log"
    exit "$status"
    ;;
remove)
    remove_unit
    remove_container
    link current ""
    ;;
status)
    echo "version $(linked current)"
    if [ -e "$unit" ]; then
        echo "unit $(systemctl is-active pedsam.service || true)"
    fi
    docker inspect --format 'container {{.State.Status}}
health {{.State.Health.Status}}
restarts {{.RestartCount}}
since {{.State.StartedAt}}' pedsam 2> /dev/null || true
    echo "frames $(frames)"
    ;;
logs)
    last_lines "$1"
    ;;
stop)
    stop_service
    ;;
start)
    start_service
    ;;
bench)
    trap '' HUP PIPE
    exec 9> "$base/switch.lock"
    flock 9
    status=0
    bench "$@" 9>&- || status=$?
    exit "$status"
    ;;
end-bench)
    exec 9> "$base/switch.lock"
    until flock --nonblock 9; do
        docker stop -t 5 pedsam-bench > /dev/null 2>&1 || true
        sleep 1
    done
    ;;
*)
    echo "service.sh: unknown command $command" >&2
    exit 2
    ;;
esac
