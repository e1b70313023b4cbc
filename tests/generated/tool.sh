#!/bin/sh
# SPDX-License-Identifier: MIT
#
# tool.sh BUILD_DIR
#
# The program generated, from the outside: what it prints is what awk computes, also in pieces
# that begin and end anywhere, and nothing of it comes from a device.
tool=$1/examples/generated

fail() {
	echo "generated: $*" >&2
	exit 1
}

work=$(mktemp -d "$PWD/generated.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT

awk 'BEGIN { for (n = 0; n < 5000; n++) printf "%10d %20d\n", n, n * n }' > "$work/all"
"$tool" --lines 5000 read 0 > "$work/out" || fail "reading failed"
cmp "$work/all" "$work/out" || fail "the file is another one"

"$tool" read 32000 64 > "$work/out" || fail "reading failed"
sed -n 1001,1002p "$work/all" | cmp - "$work/out" || fail "not lines 1000 and 1001"

for place in "1 1" "31 2" "4090 10" "65530 70000" "159990 100"; do
	set -- $place
	"$tool" --lines 5000 read "$1" "$2" > "$work/out" || fail "reading at $1 failed"
	tail -c +$(($1 + 1)) "$work/all" | head -c "$2" | cmp - "$work/out" ||
		fail "$2 bytes at $1 are others"
done

# far out: 2^32 - 1 squared
"$tool" --lines 4294967296 read $((4294967295 * 32)) > "$work/out" || fail "the end cannot be read"
[ "$(cat "$work/out")" = "4294967295 18446744065119617025" ] || fail "the last line is wrong"

"$tool" --lines 300000 verify > "$work/out" || fail "verify failed"
cat "$work/out"
grep -qx 'verified 9600000 bytes, twice' "$work/out" || fail "not all was verified"
grep -qx 'device bytes read 0' "$work/out" || fail "it came from a device"
grep -q '^read ahead [1-9]' "$work/out" || fail "nothing was read ahead"

"$tool" --lines 0 verify 2> "$work/out"
[ $? -eq 64 ] || fail "no lines are accepted"
"$tool" write 0 2> "$work/out"
[ $? -eq 64 ] || fail "an unknown command is accepted"
"$tool" read 32000 64 > /dev/full 2> "$work/out"
[ $? -eq 74 ] || fail "an error of standard output is not told"
echo ok
