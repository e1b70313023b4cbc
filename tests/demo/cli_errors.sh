#!/bin/sh
# SPDX-License-Identifier: MIT
#
# cli_errors.sh BUILD_DIR SOURCE_DIR
#
# Whatever is wrong with its arguments or the directory: demo.sh says so in one
# line, ends with a status of sysexits.h, and leaves nothing behind; likewise
# rawfile. tests/xstore/xs_tool.sh does the same with xstore.
build=$1
source=$2
rawfile=$build/examples/rawfile
. "$source/tests/demo/tree.sh"

work=$(mktemp -d "$PWD/demo_cli.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
make_tree tree
mkdir odd images
: > "odd/new
line"
DEMO_TMPDIR=$work/images
export DEMO_TMPDIR

# expect STATUS PATTERN COMMAND...: it ends so, and standard error is one line
# that matches. rawfile leaves the library's own log on standard error, which is
# not counted.
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

demo() {
	sh "$source/examples/demo.sh" "$@"
}

# ---- the demonstration

buffered=
"$build/examples/xstore" mkfs probe --size 1M 2> stderr || buffered=--buffered
expect 64 '^usage: ' demo
expect 64 '^usage: ' demo "$build" tree tree
expect 64 '^usage: ' demo "$build" --frob
expect 64 '^usage: ' demo "$build" tree --cache
expect 69 'no .*/examples/xstore' demo "$work" tree
expect 64 "'12X' is not a size" demo "$build" tree --cache 12X
expect 64 'cannot start the library' demo "$build" tree --backend pigeons
expect 66 'missing: No such file or directory' demo "$build" missing $buffered
expect 66 'tree/empty: Not a directory' demo "$build" tree/empty $buffered
expect 65 'odd/new\\012line: cannot be the name of an object' demo "$build" odd $buffered

# A limit on the size of files stands in for a full disk.
expect 73 'store: File too large' \
	sh -c 'trap "" XFSZ; ulimit -f 512; exec "$@"' sh \
	sh "$source/examples/demo.sh" "$build" tree $buffered

# What changes after it has been imported is a difference, and said.
cp -R "tree/sub/deeper" changed
expect 65 'store: 1 objects are different, 0 missing, 1 too much' \
	env DEMO_BETWEEN='printf y >> changed/block-1; rm changed/deepest/the*' \
	sh "$source/examples/demo.sh" "$build" changed $buffered
grep -q '^block-1: different: 4095 bytes, the file has 4096$' stdout || fail "the changed file"
grep -q '^deepest/the victim: extra: no such file$' stdout || fail "the missing file"

# ---- rawfile

expect 64 '^usage: ' "$rawfile" read tree/empty
expect 64 '^usage: ' "$rawfile" frob tree/empty 0
expect 64 '^usage: ' "$rawfile" read tree/empty -- -1
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
