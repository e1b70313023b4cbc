#!/bin/sh
# SPDX-License-Identifier: MIT
#
# flip.sh BUILD_DIR SOURCE_DIR
#
# One byte of one object is flipped in the store when the demonstration has
# imported it. The demonstration must fail and name that object, and no other.
build=$1
source=$2
. "$source/tests/demo/tree.sh"

work=$(mktemp -d "$PWD/demo_flip.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
make_tree "$work/tree"
mkdir "$work/images"

# The marker begins with a t; a store with a T in its place differs by one bit.
cat > "$work/flip" <<'END'
places=$(grep -abo the-marker-of-the-victim "$1" | cut -d : -f 1)
[ "$(echo "$places" | wc -w)" -eq 1 ] || { echo "the marker is at: $places" >&2; exit 1; }
printf T | dd of="$1" bs=1 seek="$places" conv=notrunc,fsync status=none
END

# Where the file system refuses O_DIRECT, the kernel's cache has to do.
buffered=
"$build/examples/xstore" mkfs "$work/probe" --size 1M 2> "$work/out" || buffered=--buffered

DEMO_TMPDIR=$work/images DEMO_BETWEEN="sh $work/flip \"\$1\"" \
	sh "$source/examples/demo.sh" "$build" "$work/tree" $buffered > "$work/out" 2>&1
status=$?
cat "$work/out"
[ $status -eq 65 ] || fail "status $status, not 65"
differences=$(grep ': different' "$work/out")
[ "$differences" = "sub/deeper/deepest/the victim: different at byte 0" ] ||
	fail "the object is not named, or not it alone: $differences"
grep -q 'done: every byte was right' "$work/out" && fail "and yet it says that all is well"
[ -z "$(ls -A "$work/images")" ] || fail "something was left behind"
echo ok
