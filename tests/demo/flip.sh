#!/bin/sh
# SPDX-License-Identifier: MIT
#
# flip.sh BUILD_DIR SOURCE_DIR
#
# One byte of one object is flipped in the image between the two processes of
# the demonstration. It must fail and name that file, and no other.
build=$1
source=$2
. "$source/tests/demo/tree.sh"

work=$(mktemp -d "$PWD/demo_flip.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
make_tree "$work/tree"
mkdir "$work/images"

# The marker begins with a t; an image with a T in its place differs by one bit.
cat > "$work/flip" <<'END'
places=$(grep -abo the-marker-of-the-victim "$1" | cut -d : -f 1)
[ "$(echo "$places" | wc -w)" -eq 1 ] || { echo "the marker is at: $places" >&2; exit 1; }
printf T | dd of="$1" bs=1 seek="$places" conv=notrunc,fsync status=none
END

DEMO_TMPDIR=$work/images DEMO_BETWEEN="sh $work/flip \"\$1\"" \
	sh "$source/examples/demo.sh" "$build" "$work/tree" > "$work/out" 2>&1
status=$?
cat "$work/out"
[ $status -eq 1 ] || fail "status $status, not 1"
mismatches=$(grep 'MISMATCH: ' "$work/out" | cut -d : -f 1-3)
[ "$mismatches" = "rawpack: MISMATCH: sub/deeper/deepest/the victim" ] ||
	fail "the file is not named, or not it alone: $mismatches"
grep -q 'done: every byte was right' "$work/out" && fail "and yet it says that all is well"
[ -z "$(ls -A "$work/images")" ] || fail "something was left behind"
echo ok
