#!/bin/sh
# Power mode and clocks of a Jetson.
#   query FILE            everything about them, in sections; changes nothing; FILE: where clocks are kept
#   set NUMBER            the mode; a reboot that it asks for is declined
#   set-and-reboot NUMBER the mode; a reboot that it asks for is confirmed, and happens at once
#   clocks-show | clocks-pin | clocks-store FILE | clocks-restore FILE
#   boot NAME             at each boot, as root: the mode by NAME (upper case, without MODE_), and pinned clocks
# A FILE that is no absolute path lies in the home folder. PEDSAM_BOARD_ROOT stands before the board's own files; tests
# set it. Root is asked for by `sudo -n`, which never waits for a password.
set -u
root=${PEDSAM_BOARD_ROOT:-}
PATH=$PATH:/usr/sbin:/sbin

section() { printf '@@ %s\n' "$1"; }

at_home() {
    case $1 in
        /*) printf '%s\n' "$1" ;;
        *) printf '%s\n' "$HOME/$1" ;;
    esac
}

# values FILE...: the readable ones as FILE:CONTENT.
values() { grep . /dev/null "$@" 2>/dev/null | cut -c "$((${#root} + 1))-"; }

clocks() {
    for folder in "$root"/sys/class/devfreq/*.gpu "$root"/sys/class/devfreq/*.ga10b \
        "$root"/sys/class/devfreq/gpu-gpc-* "$root"/sys/devices/platform/*.gpu/devfreq_dev; do
        [ -d "$folder" ] && values "$folder/min_freq" "$folder/max_freq" "$folder/available_frequencies"
    done
    cpus=$root/sys/devices/system/cpu
    values "$cpus"/cpu[0-9]*/cpufreq/scaling_m[ia][nx]_freq "$cpus"/cpu[0-9]*/cpufreq/cpuinfo_max_freq
}

over_current() { values "$root"/sys/class/hwmon/hwmon*/name "$root"/sys/class/hwmon/hwmon*/oc[0-9]_event_cnt; }

query() {
    section modes
    cat "$root/etc/nvpmodel.conf" 2>/dev/null || nvpmodel -p --verbose </dev/null 2>&1
    section current
    nvpmodel -q </dev/null 2>&1
    section status
    cat "$root/var/lib/nvpmodel/status" 2>/dev/null
    section clocks
    clocks
    section over-current
    over_current
    section compatible
    tr '\0' '\n' <"$root/proc/device-tree/compatible"
    section nvpower
    journalctl --boot --unit nvpower --quiet --no-pager 2>&1 | grep -i relink
    section stored
    [ -s "$(at_home "$1")" ] && echo yes
    section boot
    cat "$root/proc/sys/kernel/random/boot_id"
}

# set_mode NUMBER ANSWER. nvpmodel can ask whether to reboot, even for the mode it is in. Without an answer, or with
# its output thrown away, it hangs.
set_mode() { printf '%s\n' "$2" | sudo -n nvpmodel -m "$1" 2>&1; }

# A file that is there already makes jetson_clocks ask, and one that is half written would restore half of the clocks.
clocks_store() {
    kept=$(at_home "$1")
    mkdir -p "$(dirname "$kept")" && rm -f "$kept.new" || return
    sudo -n jetson_clocks --store "$kept.new" </dev/null 2>&1 || return
    [ -s "$kept.new" ] || { echo "jetson_clocks stored nothing"; return 1; }
    mv -f "$kept.new" "$kept"
}

# What was restored is not kept: the next pin stores anew.
clocks_restore() {
    kept=$(at_home "$1")
    sudo -n jetson_clocks --restore "$kept" </dev/null 2>&1 && rm -f "$kept"
}

number_of() {
    awk -v wanted="$1" '
        /^< *POWER_MODEL/ {
            gsub(/[<>]/, "")
            number = name = ""
            for (i = 1; i <= NF; i++) {
                if ($i ~ /^ID=/) number = substr($i, 4)
                if ($i ~ /^NAME=/) name = toupper(substr($i, 6))
            }
            sub(/^MODE_/, "", name)
            if (name == wanted) print number
        }' "$root/etc/nvpmodel.conf"
}

current_number() { nvpmodel -q </dev/null 2>&1 | sed -n '/NV Power Mode:/{n;p;}'; }

# For the first boot after this one: the version that runs, whose mode is another, leaves power to who asked.
announce() { mkdir -p "$HOME/pedsam/state" && touch "$HOME/pedsam/state/power-changes"; }

# Whether a mode survives a boot differs between JetPacks; pinned clocks never do.
boot() {
    announced=${0%/current/*}/state/power-changes # as ~/pedsam/current/power.sh
    if [ -e "$announced" ]; then
        rm -f "$announced"
        echo "power is left as it is: its change asked for this boot"
        return
    fi
    number=$(number_of "$1")
    [ -n "$number" ] || echo "this board has no power mode $1"
    if [ -n "$number" ] && [ "$(current_number)" != "$number" ]; then
        set_mode "$number" NO
    fi
    sudo -n jetson_clocks </dev/null 2>&1
}

case ${1:-} in
    query) query "$2" ;;
    set) set_mode "$2" NO ;;
    set-and-reboot) announce && set_mode "$2" YES ;;
    clocks-show) sudo -n jetson_clocks --show </dev/null 2>&1 ;;
    clocks-pin) sudo -n jetson_clocks </dev/null 2>&1 ;;
    clocks-store) clocks_store "$2" ;;
    clocks-restore) clocks_restore "$2" ;;
    boot) boot "$2" ;;
    *) echo "power.sh: unknown: ${1:-nothing}"; exit 2 ;;
esac
status=$?
[ "$status" -ne 255 ] || status=254 # 255 is ssh's own, for a lost connection
exit "$status"
