#!/bin/sh
# One version of the edge in its container; `pedsam flash` puts this file beside the version's bundle.
#
#   container.sh service     run the loop in the foreground, as the systemd unit does
#   container.sh start       run it in the background; docker starts it again after a failure or a reboot
#   container.sh stop        end it
#   container.sh build ...   pedsam build
#   container.sh smoke ...   pedsam run, of the built-in picture
#   container.sh bench ...   pedsam bench
set -eu

here=$(cd "$(dirname "$0")" && pwd -P)
base=$(dirname "$(dirname "$here")")
state=$base/state
root=${PEDSAM_BOARD_ROOT:-}
# IMAGE, MEMORY_MB and RUN_ARGUMENTS of this version
# shellcheck source=/dev/null
. "$here/version.env"

flags() { # what every container of the edge gets; one a line
    echo "--init"
    echo "--pull=never"
    echo "--runtime=nvidia"
    echo "--network=host"
    echo "--cap-drop=ALL"
    echo "--security-opt=no-new-privileges"
    echo "--memory=${MEMORY_MB}m"
    echo "--user=$(id -u):$(id -g)"
    # by number: inside the image these groups may have other numbers or none
    for group in video render; do
        number=$(getent group "$group" | cut -d: -f3)
        [ -z "$number" ] || echo "--group-add=$number"
    done
    for device in "$root"/dev/video* "$root"/dev/media*; do
        [ ! -e "$device" ] || echo "--device=$device"
    done
    # names that stay the same; links to the devices above
    [ ! -d "$root/dev/v4l" ] || echo "--volume=$root/dev/v4l:/dev/v4l:ro"
    echo "--tmpfs=/run/pedsam:mode=1777"
    echo "--volume=/tmp:/tmp" # the socket of nvargus-daemon, which a restart of it makes anew
    for file in /etc/nv_tegra_release /usr/bin/tegrastats; do
        [ ! -e "$root$file" ] || echo "--volume=$root$file:$file:ro"
    done
    echo "--volume=$here/bundle:/pedsam/bundle"
    echo "--volume=$here/config:/pedsam/config:ro"
    echo "--volume=$here/keys:/pedsam/keys:ro"
    echo "--volume=$state:/pedsam/state"
    echo "--env=NVIDIA_DRIVER_CAPABILITIES=compute,utility,video,graphics"
    echo "--env=PEDSAM_IMAGE=$(docker image inspect --format '{{.Id}}' "$IMAGE")"
    echo "--env=HOME=/tmp"
}

run() { # run DOCKER_FLAG... -- ARGUMENT_OF_PEDSAM...
    own=
    while [ "$1" != -- ]; do
        own="$own $1"
        shift
    done
    shift
    # flags and $own hold no spaces: paths below the home folder, numbers and words
    # shellcheck disable=SC2046,SC2086
    exec docker run $(flags) $own "$IMAGE" "$@"
}

remove_old() { # remove_old NAME: a container that was left
    docker stop -t 20 "$1" > /dev/null 2>&1 || true
    docker rm --force "$1" > /dev/null 2>&1 || true
}

wait_after_failures() { # 1, 4, 9, ... 60 s, when it was started several times within 5 minutes
    now=$(date +%s)
    count=
    last=
    [ ! -e "$state/starts" ] || read -r count last < "$state/starts" || true
    case $count$last in
    *[!0-9]* | '') count=-1 last=$now ;; # none, or a file that a full disk left
    esac
    if [ $((now - last)) -lt 300 ]; then
        count=$((count + 1))
    else
        count=0
    fi
    # a disk that is full does not keep the service from starting
    { echo "$count $now" > "$state/starts.new" && mv "$state/starts.new" "$state/starts"; } || true
    delay=$((count * count))
    [ "$delay" -le 60 ] || delay=60
    sleep "$delay"
}

command=$1
shift
case $command in
service)
    wait_after_failures
    remove_old pedsam
    # what it says goes to the journal
    # shellcheck disable=SC2086
    run --rm --name=pedsam --log-driver=none -- $RUN_ARGUMENTS
    ;;
start)
    remove_old pedsam
    # shellcheck disable=SC2086
    run --detach --restart=always --name=pedsam --log-driver=local -- $RUN_ARGUMENTS
    ;;
stop)
    docker stop -t 20 pedsam
    ;;
build)
    remove_old pedsam-build
    run --rm --name=pedsam-build --no-healthcheck -- build "$@"
    ;;
smoke)
    remove_old pedsam-smoke
    run --rm --name=pedsam-smoke --no-healthcheck -- run "$@"
    ;;
bench)
    remove_old pedsam-bench
    run --rm --name=pedsam-bench --no-healthcheck -- bench "$@"
    ;;
*)
    echo "container.sh: unknown command $command" >&2
    exit 2
    ;;
esac
