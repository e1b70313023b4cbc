#!/bin/sh
# SPDX-License-Identifier: MIT
#
# small.sh BUILD_DIR SOURCE_DIR
#
# The demonstration over a small directory with odd names and sizes: with caches
# of different sizes and both backends all is verified, only the regular files
# are imported, and nothing is left behind.
build=$1
source=$2
. "$source/tests/demo/tree.sh"

work=$(mktemp -d "$PWD/demo_small.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
make_tree "$work/tree"
mkdir "$work/images"
DEMO_TMPDIR=$work/images
export DEMO_TMPDIR

# Where the file system refuses O_DIRECT, the kernel's cache has to do.
buffered=
"$build/examples/xstore" mkfs "$work/probe" --size 1M 2> "$work/out" || buffered=--buffered

# demo ARGUMENTS...: run it, show it, leave its output in $work/out.
demo() {
	echo "---- demo.sh $*"
	sh "$source/examples/demo.sh" "$build" "$work/tree" "$@" $buffered > "$work/out" 2>&1
	status=$?
	cat "$work/out"
	[ $status -eq 0 ] || fail "status $status"
	grep -q '^imported 11 objects' "$work/out" || fail "not all files were imported, or others too"
	grep -q 'left out   3 symbolic links, 1 devices' "$work/out" || fail "not said what was left out"
	[ "$(grep -c '^verified 11 objects' "$work/out")" -eq 5 ] || fail "not all were verified"
	grep -q '^rewrote [1-9][0-9]* pieces' "$work/out" || fail "nothing was rewritten"
	grep -q '^== where the largest object lies: 3 MiB$' "$work/out" || fail "which is the largest?"
	grep -q ' data at ' "$work/out" || fail "no extent map"
	tail -n 1 "$work/out" | grep -qx '== done: every byte was right' || fail "not to the end"
}

demo
[ -z "$(ls -A "$work/images")" ] || fail "something was left behind"
demo --cache 2M
grep -q 'cache .* [1-9][0-9]* evictions' "$work/out" || fail "2 MiB of cache held 3 MiB"
demo --cache 2M --backend threads --keep
grep -q ' flushes, by threads$' "$work/out" || fail "the backend was not the one asked for"
store=$(sed -n 's/^== the store is //p' "$work/out")
"$build/examples/xstore" check "$store" $buffered || fail "the store was not kept"

# An object is the file, not what the verification makes of it: by another way.
mkdir "$work/out.tree"
"$build/examples/xstore" export "$store" "$work/out.tree" $buffered || fail "export"
(cd "$work/tree" && find . -type f) > "$work/names"
while IFS= read -r name; do
	cmp "$work/tree/$name" "$work/out.tree/$name" || fail "$name came out otherwise"
done < "$work/names"
echo ok
