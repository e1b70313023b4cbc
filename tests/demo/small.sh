#!/bin/sh
# SPDX-License-Identifier: MIT
#
# small.sh BUILD_DIR SOURCE_DIR
#
# The demonstration over a small directory with odd names and sizes: with caches
# of different sizes and both backends all is verified, only the regular files
# are packed, and nothing is left behind.
build=$1
source=$2
. "$source/tests/demo/tree.sh"

work=$(mktemp -d "$PWD/demo_small.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
make_tree "$work/tree"
mkdir "$work/images"
DEMO_TMPDIR=$work/images
export DEMO_TMPDIR

# demo ARGUMENTS...: run it, show it, leave its output in $work/out.
demo() {
	echo "---- demo.sh $*"
	sh "$source/examples/demo.sh" "$build" "$work/tree" "$@" > "$work/out" 2>&1
	status=$?
	cat "$work/out"
	[ $status -eq 0 ] || fail "status $status"
	[ -z "$(ls -A "$work/images")" ] || fail "something was left behind"
	grep -q '^packed 10 objects' "$work/out" || fail "not all files were packed, or others too"
	grep -q 'compared with sources .*: 10 the same, 0 changed since, 0 gone since' "$work/out" ||
		fail "not all files were compared"
	grep -q '^verified: all 10 objects, .* rewriting [1-9][0-9]* pieces' "$work/out" ||
		fail "nothing was rewritten"
}

demo
demo --cache 2M
grep -q 'cache .* [1-9][0-9]* evictions' "$work/out" || fail "2 MiB of cache held 3 MiB"
demo --cache 2M --backend threads
grep -q 'libiomap (threads)' "$work/out" || fail "the backend was not the one asked for"
echo ok
