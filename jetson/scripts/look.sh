#!/bin/sh
# Reads what there is on the board, in one run, and prints it in sections. It changes nothing and writes nothing:
# whether a folder can be written is read from the mount flags and asked of the kernel with `test -w`.
#
# $1 is a random word. A section begins with the line "WORD NAME STATUS"; no file's content can imitate it.
# STATUS is the exit status of the program asked, 127 where it is missing; of a file 0, or 1 where it is missing.
# PEDSAM_BOARD_ROOT is a prefix of every file read here, except the home folder. Only tests set it.
set -u
word=$1
root=${PEDSAM_BOARD_ROOT-}

begin() { printf '\n%s %s %s\n' "$word" "$1" "$2"; }

has() { command -v "$1" >/dev/null 2>&1; }

# A docker daemon that hangs must not hang us.
limited() {
    if has timeout; then timeout -k 2 20 "$@"; else "$@"; fi
}

# ask NAME PROGRAM [ARGUMENT..]: a section with all that a program says. The answer stays in $said.
ask() {
    section=$1
    shift
    said=
    status=127
    if has "$1"; then
        said=$(limited "$@" 2>&1 </dev/null)
        status=$?
    fi
    begin "$section" "$status"
    printf '%s\n' "$said"
}

# file NAME PATH: a section with a file, NULs as new lines. No file here has a reason to be long.
file() {
    if [ -r "$root$2" ]; then
        begin "$1" 0
        head -c 65536 "$root$2" 2>/dev/null | tr '\000' '\n'
    else
        begin "$1" 1
    fi
}

# free NAME PATH: a section with the free space where PATH is or would be made.
free() {
    place=$2
    while [ ! -e "$place" ] && [ "$place" != / ]; do
        place=${place%/*}
        place=${place:-/}
    done
    ask "$1" df -Pk "$place"
}

# yes_no NAME CONDITION..: a section with "yes" or "no".
yes_no() {
    begin "$1" 0
    shift
    if "$@"; then echo yes; else echo no; fi
}

# First of all, so that it is read when the answer's first line arrives.
ask clock date -u +%s

ask user id -un
ask uid id -u
ask groups id -nG
# The groups that a new login would have: membership given since this one shows only here.
ask registered_groups id -nG "$(id -un 2>/dev/null)"
begin home 0
printf '%s\n' "${HOME-}"
ask host uname -n
ask kernel uname -r
ask architecture uname -m
ask timedatectl timedatectl

file model /proc/device-tree/model
file compatible /proc/device-tree/compatible
file chosen_ids /proc/device-tree/chosen/ids
file release /etc/nv_tegra_release
file boot_control /etc/nv_boot_control.conf
# shellcheck disable=SC2016  # dpkg-query's own fields
ask packages dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\n' \
    nvidia-l4t-core nvidia-container-toolkit

file meminfo /proc/meminfo
file buddyinfo /proc/buddyinfo
ask page_size getconf PAGESIZE
ask default_target systemctl get-default
ask desktops systemctl is-active display-manager.service gdm.service gdm3.service lightdm.service

ask root_mount grep -E '^[^ ]+ / ' "$root/proc/mounts"
yes_no home_writable test -w "${HOME-}"
free free_home "${HOME-/}"

file daemon_json /etc/docker/daemon.json
ask docker_version docker --version
ask docker_info docker info --format '{{json .}}'
case $said in
    *'{'*) ;;
    *) ask docker_info docker info ;;
esac
place=$(printf '%s\n' "$said" | sed -n -e 's/.*"DockerRootDir":"\([^"]*\)".*/\1/p' -e 's/^ *Docker Root Dir: //p' | head -n 1)
if [ -z "$place" ] && [ -r "$root/etc/docker/daemon.json" ]; then
    place=$(sed -n 's/.*"data-root"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/p' "$root/etc/docker/daemon.json")
fi
free free_docker "$root${place:-/var/lib/docker}"
free free_containerd "$root/var/lib/containerd"

ask sudo sudo -n true

ask group_ids getent group video render docker
begin devices 0
for node in "$root"/dev/nvmap "$root"/dev/nvhost-gpu "$root"/dev/nvhost-ctrl-gpu "$root"/dev/nvhost-as-gpu \
    "$root"/dev/nvgpu/igpu0/* "$root"/dev/v4l2-nvdec "$root"/dev/dri/renderD* "$root"/dev/video*; do
    if [ -e "$node" ]; then
        printf '%s\t%s\n' "${node#"$root"}" "$(stat -c %g "$node" 2>/dev/null)"
    fi
done

begin cameras 0
for node in "$root"/sys/class/video4linux/video*; do
    if [ -r "$node/name" ]; then
        printf '%s\t%s\t%s\t%s\n' "/dev/${node##*/}" "$(head -n 1 "$node/name")" \
            "$(readlink -f "$node/device/driver")" "$(readlink -f "$node/device")"
    fi
done
ask v4l2 v4l2-ctl --list-devices
yes_no argus_socket test -e "$root/tmp/argus_socket"

begin end 0
