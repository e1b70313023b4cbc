#!/bin/sh
# SPDX-License-Identifier: MIT
#
# demo.sh BUILD_DIR [DIR] [--cache SIZE] [--backend NAME] [--buffered] [--keep]
#
# Imports every regular file under DIR (default /usr/include) into a store of
# examples/xstore, made for it in one file, and then, each step a process of its
# own that finds nothing in a cache: verifies every byte against the files,
# through buffered and through direct I/O; rewrites thousands of pieces and
# verifies again, both ways; puts back what was there and verifies; checks the
# metadata; prints where the largest object lies. The status is 0 only if every
# byte was right.
#
# --keep leaves the store where it is; the other options are xstore's.
#
# The store lies in a directory of its own beside BUILD_DIR, because a build is
# usually on a real file system and /tmp often is not. Environment:
#   DEMO_TMPDIR   where to make that directory instead
#   DEMO_BETWEEN  a shell command that is run when the import is done, with the
#                 path of the store as $1; its failure is the demo's
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

xstore=$build/examples/xstore
if [ ! -x "$xstore" ]; then
	echo "demo.sh: no $xstore: it is built where xxHash (libxxhash-dev) is found" >&2
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
store=$scratch/store

xs() {
	"$xstore" ${cache:+--cache "$cache"} ${backend:+--backend "$backend"} \
		${buffered:+--buffered} "$@"
}

# step WHAT ARGUMENTS...: one process, whose failure is the demo's.
step() {
	echo "== $1"
	shift
	xs "$@" || exit
}

step "a store for $dir" mkfs "$store" --for "$dir"
step "import" import "$store" "$dir" --stats
if [ -n "${DEMO_BETWEEN:-}" ]; then
	sh -c "$DEMO_BETWEEN" sh "$store" || exit
fi
step "verify, in a new process" verify "$store" "$dir" --stats
step "verify through direct I/O" verify "$store" "$dir" --direct --stats
step "rewrite pieces of the objects" rewrite "$store" "$dir" --seed 1 --stats
step "verify what was rewritten" verify "$store" "$dir" --seed 1
step "verify it through direct I/O" verify "$store" "$dir" --seed 1 --direct
step "put back what was there" rewrite "$store" "$dir" --seed 1 --restore
step "verify" verify "$store" "$dir"
step "check the metadata" check "$store"
largest=$(xs ls "$store" | sort -n | tail -n 1 | cut -c 14- | sed 's|\\134|\\|g')
if [ -n "$largest" ]; then
	step "where the largest object lies: $largest" map "$store" "$largest"
fi
if [ -n "$keep" ]; then
	echo "== the store is $store"
fi
echo "== done: every byte was right"
