#!/bin/sh
# Images on this board.
#
#   image.sh show TAG     its ID and size in bytes; nothing when it is not there
#   image.sh build TAG    standard input: the build context as a tar
#   image.sh tag TAG NAME give an image that is there another name
#   image.sh load TAG     standard input: what `docker save` wrote; tags what it holds
set -eu

command=$1
tag=$2
case $command in
show)
    docker image inspect --format '{{.Id}} {{.Size}}' "$tag" 2> /dev/null || true
    ;;
build)
    # the host's network: on Jetson kernels those of docker 28 and later may not work
    docker build --network=host --file Dockerfile.jetson --tag "$tag" -
    ;;
tag)
    docker tag "$3" "$tag"
    ;;
load)
    said=$(docker load)
    echo "$said"
    loaded=$(echo "$said" | sed -n 's/^Loaded image: //p; s/^Loaded image ID: //p' | tail -n 1)
    [ -n "$loaded" ] || exit 1
    docker tag "$loaded" "$tag"
    case $loaded in
    sha256:*) ;;
    *) docker image rm "$loaded" ;; # the name it had elsewhere
    esac
    ;;
*)
    echo "image.sh: unknown command $command" >&2
    exit 2
    ;;
esac
