#!/bin/sh
# SPDX-License-Identifier: MIT
#
# demo.sh BUILD_DIR [DIR] [--cache SIZE] [--backend NAME] [--buffered] [--keep]
#
# Packs every regular file under DIR (default /usr/include) into one raw image
# through libiomap, and has a new process verify it: read all back, compare with
# the files, rewrite pieces, compare again. examples/rawpack does the work and
# says what it did; the status is 0 only if every byte was right.
#
# --keep leaves the image where it is; the other options are rawpack's.
#
# The image lies in a directory of its own beside BUILD_DIR, because a build is
# usually on a real file system and /tmp often is not. Environment:
#   DEMO_TMPDIR   where to make that directory instead
#   DEMO_BETWEEN  a shell command that is run between the two processes, with the
#                 path of the image as $1; its failure is the demo's
usage() {
	echo "usage: demo.sh BUILD_DIR [DIR] [--cache SIZE] [--backend NAME] [--buffered] [--keep]" >&2
	exit 64
}

build="" dir="" keep="" cache="" backend="" buffered=""
while [ $# -gt 0 ]; do
	case $1 in
	--cache)
		[ $# -ge 2 ] || usage
		cache=$2
		shift
		;;
	--backend)
		[ $# -ge 2 ] || usage
		backend=$2
		shift
		;;
	--buffered) buffered=1 ;;
	--keep) keep=1 ;;
	-*) usage ;;
	*)
		if [ -z "$build" ]; then
			build=$1
		elif [ -z "$dir" ]; then
			dir=$1
		else
			usage
		fi
		;;
	esac
	shift
done
[ -n "$build" ] || usage
dir=${dir:-/usr/include}

rawpack=$build/examples/rawpack
if [ ! -x "$rawpack" ]; then
	echo "demo.sh: no $rawpack: it is built where libcrypto (libssl-dev) is found" >&2
	exit 69
fi

scratch=""
cleanup() {
	if [ -n "$scratch" ] && [ -z "$keep" ]; then
		rm -rf "$scratch"
	fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
beside=$(cd "$build/.." && pwd) || exit 66
scratch=$(mktemp -d "${DEMO_TMPDIR:-$beside}/iomap-demo.XXXXXX") || exit 73
image=$scratch/image

rawpack() {
	command=$1
	"$rawpack" ${cache:+--cache "$cache"} ${backend:+--backend "$backend"} \
		${buffered:+--buffered} -- "$command" "$image" "$dir"
}

echo "== pack: $dir"
rawpack pack || exit
if [ -n "${DEMO_BETWEEN:-}" ]; then
	sh -c "$DEMO_BETWEEN" sh "$image" || exit
fi
echo "== verify, in a new process"
rawpack verify || exit
if [ -n "$keep" ]; then
	echo "== the image is $image"
fi
echo "== done: every byte was right"
