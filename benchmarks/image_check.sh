#!/usr/bin/env bash
# Builds Dockerfile.jetson for arm64 under qemu, runs the edge in it on a picture, and compares the masks with those of
# this machine. `make image-check`; as root on Debian or Ubuntu, with 8 GB free in TMPDIR (/var/tmp).
#
# NVIDIA's images are behind its registry and their libraries need its boards. So BUILD_BASE and RUN_BASE are Debian 12
# roots for arm64, with stand-ins, which the output names. What is real: the Dockerfile, the architecture, the wheels
# and their hashes, pycuda's compilation, the edge, onnxruntime, OpenCV with GStreamer (Debian's).
#
#   benchmarks/image_check.sh [FILE]
#
# FILE gets what was found. PYCUDA=0 leaves out the compilation of pycuda, which takes most of the time; BASES=FOLDER
# keeps the Debian roots there and takes them from there the next time.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-.venv/bin/python}
PYCUDA=${PYCUDA:-1}
MIRROR=${MIRROR:-http://deb.debian.org/debian}
# Of a photograph in scikit-image: the astronaut, and the model of a space shuttle beside her.
BOXES=(--box "30,10,400,500" --box "350,30,470,330")
COMMANDS=(arch-test buildah mmdebstrap qemu-aarch64-static unshare)
CUDA_HEADERS=(nvidia-cuda-runtime-cu12==12.6.77 nvidia-cuda-profiler-api-cu12==12.6.77)

fail() {
    echo "image-check: $*" >&2
    exit 1
}

# In a mount namespace of its own, so that what is mounted goes with it.
if [ -z "${IMAGE_CHECK_INSIDE:-}" ]; then
    [ "$(id -u)" = 0 ] || fail "it mounts and changes root, so it must run as root"
    for command in "${COMMANDS[@]}"; do
        command -v "$command" > /dev/null || fail "$command is missing; on Debian:" \
            "apt-get install --no-install-recommends arch-test buildah crun mmdebstrap qemu-user-static"
    done
    exec env IMAGE_CHECK_INSIDE=1 unshare --mount --propagation private "$0" "$@"
fi

started=$SECONDS
WORK=$(mktemp -d "${TMPDIR:-/var/tmp}/pedsam-image.XXXXXX")
BASES=${BASES:-$WORK}
BINFMT=/proc/sys/fs/binfmt_misc
ENTRY=pedsam-image-check-$$

clean() {
    [ ! -e "$BINFMT/$ENTRY" ] || echo -1 > "$BINFMT/$ENTRY"
    # what buildah mounted for the containers, the innermost first
    awk -v work="$WORK/" 'index($5, work) == 1 { print $5 }' /proc/self/mountinfo | sort --reverse \
        | while read -r place; do umount --lazy "$place"; done
    rm -rf "$WORK"
}
trap clean EXIT
trap 'exit 130' INT TERM

# The kernel starts programs for arm64 with qemu, unless it does already. Flag F opens qemu now, so that it is found
# from within the roots.
register_qemu() {
    arch-test -n arm64 > /dev/null 2>&1 && return
    [ -e "$BINFMT/register" ] || mount -t binfmt_misc none "$BINFMT"
    arch-test arm64 > /dev/null 2>&1 && return
    local magic='\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    local mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    printf '%s' ":$ENTRY:M::$magic:$mask:$(command -v qemu-aarch64-static):OCF" > "$BINFMT/register"
}

step() {
    echo "== $* ($((SECONDS - started)) s)"
}

# Lines for the file besides.
report() {
    if [ $# -gt 0 ]; then echo "$*"; else cat; fi | tee -a "$WORK/report"
}

build() {
    buildah --root "$WORK/storage" --runroot "$WORK/run" --storage-driver "${STORAGE:-overlay}" "$@"
}

# A Debian root for arm64 with these packages and the certificate authorities of this machine, as an image.
base() {
    local name=$1 packages=$2 container tar=$BASES/$1.tar
    if [ ! -e "$tar" ]; then
        TMPDIR=$WORK mmdebstrap --quiet --architectures=arm64 --variant=minbase \
            --aptopt='Apt::Install-Recommends "false"' --include="ca-certificates,$packages" \
            --hook-dir="$WORK/hooks" bookworm "$tar.part" "$MIRROR" --format=tar
        mv "$tar.part" "$tar"
    fi
    container=$(build from --arch arm64 scratch)
    build add --quiet "$container" "$tar" / > /dev/null
    build commit --quiet --rm --format docker "$container" "localhost/$name" > /dev/null
}

# What only NVIDIA has, for the build stage: a module named tensorrt; for pycuda CUDA's headers and an idle libcuda.
stand_ins() {
    mkdir -p "$WORK/hooks" "$WORK/headers"
    "$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --platform manylinux2014_aarch64 --dest "$WORK/headers" "${CUDA_HEADERS[@]}"
    for wheel in "$WORK"/headers/*.whl; do "$PYTHON" -m zipfile -e "$wheel" "$WORK/headers"; done
    cat > "$WORK/hooks/customize00-stand-ins" << HOOK
#!/bin/sh
set -e
cp /usr/local/share/ca-certificates/*.crt "\$1/usr/local/share/ca-certificates/" 2> /dev/null || true
chroot "\$1" update-ca-certificates > /dev/null 2>&1
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' > "\$1/etc/pip.conf"
[ -e "\$1/usr/bin/gcc" ] || exit 0
mkdir -p "\$1/usr/lib/python3/dist-packages/tensorrt" "\$1/usr/local/cuda/lib64/stubs"
echo '__version__ = "none: a stand-in of make image-check"' > "\$1/usr/lib/python3/dist-packages/tensorrt/__init__.py"
cp -r "$WORK"/headers/nvidia/*/include "\$1/usr/local/cuda/"
grep -rohwE 'cu[A-Z][A-Za-z0-9]+(_v[0-9]+)?' "\$1/usr/local/cuda/include" | sort -u |
    sed 's/.*/int &(void) { return 999; }/' > "\$1/tmp/stub.c"
chroot "\$1" gcc -shared -Wl,-soname,libcuda.so.1 -o /usr/local/cuda/lib64/stubs/libcuda.so /tmp/stub.c
HOOK
    chmod +x "$WORK/hooks/customize00-stand-ins"
}

image() {
    local arguments=(--build-arg BUILD_BASE=localhost/build-base --build-arg RUN_BASE=localhost/run-base)
    arguments+=(--build-arg LIBRARIES= --build-arg DLA_COMPILER=)
    [ "$PYCUDA" = 1 ] || arguments+=(--build-arg PYCUDA=)
    build bud --format docker --isolation chroot --platform linux/arm64 --layers=false --pull-never \
        "${arguments[@]}" --file Dockerfile.jetson --tag localhost/pedsam-edge .
}

in_image() {
    build run --isolation chroot --volume "$PWD/stages/mini:/bundle:ro" --volume "$WORK/picture.png:/picture.png:ro" \
        --volume "$WORK/out:/out" "$container" -- "$@"
}

describe_image() {
    in_image python3 -c 'import platform, cv2, numpy, onnxruntime
print(f"in the image: {platform.machine()}, Python {platform.python_version()}, numpy {numpy.__version__},")
print(f"    onnxruntime {onnxruntime.__version__} (of PyPI), OpenCV {cv2.__version__} (of Debian)")'
    build push --quiet localhost/pedsam-edge "dir:$WORK/pushed" > /dev/null
    find "$WORK/pushed" -type f -printf '%s\n' |
        awk '{ sum += $1 } END { printf "size of the image, stand-ins included, compressed: %.0f MB\n", sum / 1e6 }'
    du --summarize --block-size=1MB "$(build mount "$container")" |
        awk '{ print "size of its files: " $1 " MB" }'
}

main() {
    register_qemu
    "$PYTHON" -c 'from benchmarks.machine import describe; [print(f"{k}: {v}") for k, v in describe().items()]' | report
    { buildah --version && qemu-aarch64-static --version | head -n 1; } | report
    report "stand-ins: Debian 12 for arm64 in place of l4t-jetpack:r36.4.0 and ubuntu:22.04; Debian's OpenCV in place of"
    report "    NVIDIA's; a Python module named tensorrt in place of TensorRT; CUDA's headers of PyPI and an idle libcuda"
    [ "$PYCUDA" = 1 ] || report "left out: pycuda"
    stand_ins

    step "Debian roots"
    base build-base g++,python3-dev,python3-venv,python3-opencv
    base run-base ca-certificates

    step "building Dockerfile.jetson"
    building=$SECONDS
    image
    report "Dockerfile.jetson was built in $((SECONDS - building)) s"

    step "running it, and the same here"
    mkdir -m 777 "$WORK/out"
    "$PYTHON" -c 'import sys, skimage.data, PIL.Image as I; I.fromarray(skimage.data.astronaut()).save(sys.argv[1])' \
        "$WORK/picture.png"
    container=$(build from --pull-never localhost/pedsam-edge)
    in_image /opt/pedsam/alive.sh
    describe_image | report
    in_image pedsam run --bundle /bundle --source /picture.png "${BOXES[@]}" --out /out/aarch64
    "$PYTHON" -m pedsam run --bundle mini --source "$WORK/picture.png" "${BOXES[@]}" --out "$WORK/out/x86_64"

    step "comparing"
    "$PYTHON" -m benchmarks.image_masks "$WORK/out/x86_64/masks.jsonl" "$WORK/out/aarch64/masks.jsonl" | report
    report "image-check took $((SECONDS - started)) s"
    [ $# = 0 ] || cp "$WORK/report" "$1"
}

main "$@"
