#!/bin/sh
# SPDX-License-Identifier: MIT
#
# cli_errors.sh BUILD_DIR SOURCE_DIR
#
# Whatever is wrong with the arguments, the directory, the image or the room for
# it: rawpack and rawfile say so in one line, end with a status of sysexits.h,
# and leave nothing half done behind.
build=$1
source=$2
rawpack=$build/examples/rawpack
rawfile=$build/examples/rawfile
. "$source/tests/demo/tree.sh"

work=$(mktemp -d "$PWD/demo_cli.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
make_tree tree
mkdir empty images

# expect STATUS PATTERN COMMAND...: it ends so, and standard error is one line
# that matches (after "usage:" may follow more). rawfile leaves the library's own
# log on standard error, which is not counted.
expect() {
	want=$1
	pattern=$2
	shift 2
	"$@" > stdout 2> stderr
	got=$?
	echo "$* -> $got: $(head -n 1 stderr)"
	[ $got -eq "$want" ] || fail "status $got, not $want: $(cat stderr)"
	grep -q "$pattern" stderr || fail "standard error does not match '$pattern': $(cat stderr)"
	if ! grep -q '^usage:' stderr; then
		[ "$(grep -vc '^libiomap: ' stderr)" -eq 1 ] || fail "not one line: $(cat stderr)"
	fi
	[ -z "$(ls -A images)" ] || fail "left behind: $(ls -A images)"
}

# patch FILE PLACE BYTES
patch() {
	printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none || exit 1
}

# ---- the command line

expect 64 '^usage: ' "$rawpack"
expect 64 '^usage: ' "$rawpack" pack images/image
expect 64 'no such command: frob' "$rawpack" frob images/image tree
expect 64 "'12X' is not a size" "$rawpack" pack images/image tree --cache 12X
expect 64 "'0' is not a size" "$rawpack" pack images/image tree --cache 0
expect 64 "'99999999999G' is not a size" "$rawpack" pack images/image tree --cache 99999999999G
expect 64 'unrecognized option' "$rawpack" pack images/image tree --frob
expect 64 'cannot start the library' "$rawpack" pack images/image tree --cache 4K
expect 64 'cannot start the library' "$rawpack" pack images/image tree --backend pigeons
expect 64 '^usage: ' "$rawfile" read tree/empty
expect 64 '^usage: ' "$rawfile" frob tree/empty 0
expect 64 '^usage: ' "$rawfile" read tree/empty -- -1

# ---- the directory

expect 66 'missing: No such file or directory' "$rawpack" pack images/image missing
expect 66 'tree/empty: not a directory' "$rawpack" pack images/image tree/empty
expect 66 'empty: no regular file' "$rawpack" pack images/image empty

# ---- where the image goes

expect 73 'missing/image: cannot create: No such file' "$rawpack" pack missing/image tree
expect 73 'tree: cannot replace it: Is a directory' "$rawpack" pack tree tree
# A limit on the size of files stands in for a full disk.
expect 73 'images/image: no room for the image' \
	sh -c 'trap "" XFSZ; ulimit -f 512; exec "$@"' sh "$rawpack" pack images/image tree

# ---- the image

"$rawpack" pack good tree > stdout || fail "cannot pack"
bytes=$(wc -c < good)
expect 66 'missing: No such file or directory' "$rawpack" verify missing tree
expect 66 'missing: No such file or directory' "$rawpack" verify good missing
expect 65 'not a rawpack image' "$rawpack" verify "tree/3 MiB" tree
expect 66 'tree' "$rawpack" verify tree tree
cp good bad
truncate -s 1536K bad
expect 65 "truncated: 1572864 bytes of at least [0-9]*" "$rawpack" verify bad tree
cp good bad
truncate -s 0 bad
expect 65 'not a rawpack image: too small' "$rawpack" verify bad tree
cp good bad
patch bad 8 '\002'
expect 65 'format version 2, this program knows version 1' "$rawpack" verify bad tree
cp good bad
patch bad 16 '\377'
expect 65 'the header is damaged' "$rawpack" verify bad tree
cp good bad
place=$(grep -abo 'ümlaut' bad | tail -n 1 | cut -d : -f 1)
patch bad "$place" u
expect 65 'the manifest is damaged' "$rawpack" verify bad tree
cp good bad
patch bad 0 '\0\0\0\0\0\0\0\0'
expect 65 'packing was not finished' "$rawpack" verify bad tree

# ---- sources that have changed since are said and counted, and no error

cp -R tree changed 2> /dev/null
rm changed/empty
printf y > "changed/one byte"
"$rawpack" verify good changed > stdout 2> stderr || fail "changed sources: $(cat stderr)"
grep -q 'one byte: the source has changed' stderr || fail "the changed file is not named"
grep -q 'empty: cannot read the source' stderr || fail "the missing file is not named"
grep -q ': 8 the same, 1 changed since, 1 gone since, 0 MISMATCHED' stdout || fail "not counted"
[ "$(wc -c < good)" -eq "$bytes" ] || fail "verify changed the size of the image"

# ---- interrupted

# The program waits in a write to a full pipe while the signal arrives, so that
# it arrives while the program runs, however fast or slow that is.
mkfifo pipe
exec 3<> pipe
dd if=/dev/zero of=pipe bs=4096 count=256 oflag=nonblock status=none 2> /dev/null
"$rawpack" pack images/image tree > pipe 2> stderr 3>&- &
pid=$!
until grep -q '^SigCgt:.*[2367abef]$' /proc/$pid/status; do
	grep -q '^State:.*[ZX]' /proc/$pid/status && fail "it ended before it was interrupted"
done
kill -INT $pid
dd of=/dev/null bs=4096 iflag=nonblock status=none <&3 2> /dev/null
wait $pid
got=$?
exec 3>&-
echo "interrupted -> $got: $(cat stderr)"
[ $got -eq 75 ] || fail "interrupted: status $got, not 75: $(cat stderr)"
[ "$(cat stderr)" = "rawpack: interrupted (Interrupt)" ] || fail "standard error: $(cat stderr)"
[ -z "$(ls -A images)" ] || fail "interrupted, and left behind: $(ls -A images)"

# ---- rawfile

truncate -s 8192 raw
printf 'hello' | "$rawfile" write raw 4093 || fail "rawfile write"
[ "$("$rawfile" read raw 4093 5)" = hello ] || fail "rawfile read"
[ "$("$rawfile" read raw 4090 | wc -c)" -eq 4102 ] || fail "rawfile reads to the end"
[ "$("$rawfile" read raw 9000 | wc -c)" -eq 0 ] || fail "rawfile reads beyond the end"
printf 'abc' > three
expect 74 'raw: No space left on device' sh -c '"$1" write raw 8190 < three' sh "$rawfile"
[ "$("$rawfile" read raw 8190)" = ab ] || fail "what fits is not written"
[ "$(wc -c < raw)" -eq 8192 ] || fail "the size has changed"
expect 66 'missing: No such file or directory' "$rawfile" read missing 0
echo ok
