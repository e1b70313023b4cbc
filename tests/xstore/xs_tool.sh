#!/bin/sh
# SPDX-License-Identifier: MIT
#
# xs_tool.sh BUILD_DIR
#
# The xstore program: what goes in comes out; what is wrong gets one line and a
# status of sysexits.h, and harms no store; a writer that is killed harms none.
xstore=$1/examples/xstore
work=$(mktemp -d "$PWD/xs_tool.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

fail() {
	echo "FAILED: $*"
	exit 1
}

# Where the file system refuses O_DIRECT, the kernel's cache has to do.
direct=
"$xstore" mkfs probe --size 1M 2> /dev/null || direct=--buffered
xs() {
	"$xstore" "$@" $direct
}

# expect STATUS PATTERN ARGS...: ends so, with one line that matches; the store
# is as it was.
expect() {
	want=$1
	pattern=$2
	shift 2
	cp store before
	xs "$@" > stdout 2> stderr
	got=$?
	echo "xstore $* -> $got: $(head -n 1 stderr)"
	[ $got -eq "$want" ] || fail "status $got, not $want"
	grep -q "$pattern" stderr || fail "'$pattern' is not in: $(cat stderr)"
	grep -q '^usage:' stderr || [ "$(wc -l < stderr)" -eq 1 ] || fail "not one line"
	cmp -s store before || fail "the store has changed"
}

# ---- round trips

xs mkfs store --size 24M || fail mkfs
for size in 0 1 4095 4096 4097 100000 3000001; do
	head -c $size /dev/urandom > "in.$size"
	xs put store "o.$size" "in.$size" || fail "put $size"
	xs get store "o.$size" "out.$size" || fail "get $size"
	cmp "in.$size" "out.$size" || fail "$size bytes came back otherwise"
done
truncate -s 5M sparse
printf data | dd of=sparse bs=1 seek=4000000 conv=notrunc status=none
xs put store sparse - < sparse || fail "put from a pipe"
xs get store sparse --cache 2M | cmp - sparse || fail sparse
xs map store sparse | grep -q ' hole$' || fail "no hole in: $(xs map store sparse)"
xs truncate store sparse 4000002 || fail truncate
truncate -s 4000002 sparse
xs get store sparse - | cmp - sparse || fail "truncated"
xs put store o.1 in.4097 || fail "put again"
xs get store o.1 - | cmp - in.4097 || fail "put again"
xs rm store o.4096 || fail rm
[ "$(xs ls store | wc -l)" -eq 7 ] || fail "ls: $(xs ls store)"
xs stat store o.1 | grep -q '^size 4097$' || fail stat
xs stat store | grep -q '^objects 7$' || fail stat
[ -z "$(xs check store 2>&1)" ] || fail "check: $(xs check store 2>&1)"

# ---- what is wrong

head -c 40000000 /dev/zero | tr '\0' z > big
head -c 100000 /dev/urandom > noise
expect 64 '^usage: '
expect 64 'no such command: frob' frob store
expect 64 '^usage: ' rm store
expect 64 'name is too long' put store "$(printf '%0300d' 1)" noise
expect 64 'cannot be a name' put store '' noise
expect 64 "'12X' is not a size" truncate store o.1 12X
expect 66 'no such object' get store nothing
expect 66 'no such object' rm store nothing
expect 66 'no such object' map store nothing
expect 66 'No such file' put store new not-there
expect 66 'No such file' ls not-there
expect 65 'not an xstore' ls noise
expect 65 'not an xstore' check noise
expect 73 'is a store already' mkfs store
expect 73 'too small' mkfs small --size 8K

# A put that finds no room leaves the old object; what it wrote is free space.
xs put store o.1 big 2> stderr
[ $? -eq 73 ] && grep -q 'the store is full' stderr || fail "full: $(cat stderr)"
xs get store o.1 - | cmp - in.4097 || fail "a full store lost the old object"
xs check store || fail "check of a full store"

# In use: a put that waits for its pipe has the store.
mkfifo pipe
xs put store fifo pipe &
put=$!
# opening the pipe waits until put has opened it too, and the store before
exec 9> pipe
xs ls store 2> stderr
[ $? -eq 75 ] && grep -q 'in use' stderr || fail "in use: $(cat stderr)"
printf through >&9
exec 9>&-
wait $put || fail "put from a fifo"
[ "$(xs get store fifo)" = through ] || fail "fifo"

# Cut off, and damaged.
cp store whole
truncate -s 1M store
expect 65 'cut off' ls store
cp whole store
printf X | dd of=store bs=1 seek=33 conv=notrunc status=none
expect 65 'wrong checksum' get store o.1
expect 65 'wrong checksum' check store
cp whole store

# ---- kill -9 in mid-put

# The kernel takes a killed process's io_uring apart, and gives up its lock on the
# store, a little after the process is gone.
wait_free() {
	tries=0
	while xs stat store > /dev/null 2>&1; [ $? -eq 75 ]; do
		tries=$((tries + 1))
		[ $tries -lt 2000 ] || fail "still in use"
	done
}

round=0
while [ $round -lt 8 ]; do
	rm -f pipe
	mkfifo pipe
	"$xstore" put store o.1 pipe --cache 2M $direct &
	put=$!
	exec 9> pipe
	head -c $((round * 900000)) big >&9
	kill -9 $put
	wait $put 2> /dev/null
	exec 9>&-
	wait_free
	xs check store || fail "check after kill -9"
	xs get store o.1 - | cmp - in.4097 || fail "half a put after kill -9"
	xs get store o.3000001 - | cmp - in.3000001 || fail "another object after kill -9"
	round=$((round + 1))
done
echo "all as expected"
