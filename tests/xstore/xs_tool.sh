#!/bin/sh
# SPDX-License-Identifier: MIT
#
# xs_tool.sh BUILD_DIR SOURCE_DIR
#
# The xstore program: what goes in comes out; what is wrong gets one line and a
# status of sysexits.h, and harms no store; a writer that is killed harms none.
xstore=$1/examples/xstore
source=$2
work=$(mktemp -d "$PWD/xs_tool.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

. "$source/tests/xstore/tool.sh"

# ---- round trips

xs mkfs store --size 24M || fail mkfs
for size in 0 1 4095 4096 4097 100000 3000001; do
	head -c $size /dev/urandom > "in.$size"
	# what one way has put the other gets
	for ways in ": --direct" "--direct :"; do
		xs put store "o.$size" "in.$size" $(echo "${ways% *}" | tr -d :) || fail "put $size"
		xs get store "o.$size" "out.$size" $(echo "${ways#* }" | tr -d :) || fail "get $size"
		cmp "in.$size" "out.$size" || fail "$size bytes came back otherwise: $ways"
		xs check store || fail "check after put $size"
	done
done
xs stat store o.3000001 | grep -qx 'extents 1' || fail "not in one piece: $(xs map store o.3000001)"
truncate -s 5M sparse
printf data | dd of=sparse bs=1 seek=4000000 conv=notrunc status=none
xs put store sparse - < sparse || fail "put from a pipe"
xs get store sparse --cache 2M | cmp - sparse || fail sparse
xs map store sparse | grep -q ' hole$' || fail "no hole in: $(xs map store sparse)"
# A file's holes are the object's, and the object's are those of a file.
[ "$(stat -c %b sparse)" -ge 1000 ] && echo "no holes on this file system" || {
	for direct in "" --direct; do
		xs put store sparse sparse $direct || fail "put a sparse file"
		xs map store sparse | grep -q ' hole$' || fail "no hole: $(xs map store sparse)"
		xs get store sparse out $direct || fail "get into a file"
		cmp out sparse || fail "sparse, to a file"
		[ "$(stat -c %b out)" -lt 1000 ] || fail "the holes are filled"
	done
}
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

# ---- holes, zeros, space for later

cp in.3000001 model
xs put store space model || fail put
xs punch store space 100000 1000000 || fail punch
head -c 1000000 /dev/zero | dd of=model bs=1M seek=100000 oflag=seek_bytes conv=notrunc status=none
xs get store space - | cmp - model || fail "punched"
xs map store space | grep -qx ' *102400 *995328 hole' || fail "no hole: $(xs map store space)"
xs zero store space 1M 1M || fail zero
head -c 1M /dev/zero | dd of=model bs=1M seek=1 conv=notrunc status=none
xs get store space - | cmp - model || fail "zeroed"
xs map store space | grep -q ' 1048576 *1048576 unwritten' || fail "$(xs map store space)"
xs zero store space 2990000 20000 --keep-size || fail "zero the end"
head -c 10001 /dev/zero | dd of=model bs=1M seek=2990000 oflag=seek_bytes conv=notrunc status=none
xs get store space - | cmp - model || fail "zeroed at the end"
xs fallocate store space 3M 64K --keep-size || fail fallocate
xs get store space - | cmp - model || fail "another size"
xs fallocate store space 3M 64K --json | grep -q '"offset":3145728,"length":65536,"size":3211264' ||
	fail "fallocate: json"
truncate -s 3211264 model
xs get store space - | cmp - model || fail "allocated behind the end"
xs check store || fail "check after punch, zero and fallocate"
expect 64 'x. is not an offset' punch store space x 1
expect 64 '0. is not a length' zero store space 0 0
expect 64 'takes no --keep-size' punch store space 0 1 --keep-size
xs rm store space || fail rm

# ---- the store itself

xs put store store in.1 || fail put
expect 73 'store: is the store itself' get store o.1 store
ln -s store alias
expect 73 'alias: is the store itself' get store o.1 alias
expect 66 'store: is the store itself' put store new store
xs get store o.1 - >> store 2> stderr && fail "onto the store itself"
grep -q 'standard output: is the store itself' stderr || fail "$(cat stderr)"
expect 73 'store: is the store itself' export store .
xs rm store store || fail rm
rm alias

# ---- names and links that lead out of a directory

mkdir below outer
cp in.3000001 up
cp in.3000001 outer/file
ln -s ../outer below/dir
for name in ../up dir/file; do
	xs mkfs other --size 8M && xs put other $name in.3000001 || fail "put $name"
	xs rewrite other below --seed 1 2> stderr
	[ $? -eq 66 ] || fail "read what $name leads to"
	grep -q "below/$name" stderr || fail "$(cat stderr)"
	xs get other $name - | cmp - in.3000001 || fail "rewritten with what $name leads to"
	rm other
done
rm -r below outer up

# ---- copies and clones

xs mkfs twins --size 16M && xs put twins one in.3000001 || fail "put in.3000001"
free=$(xs stat twins | sed -n 's/^free //p')
xs cp twins one two --reflink || fail "cp --reflink"
[ $((free - $(xs stat twins | sed -n 's/^free //p'))) -lt 4 ] || fail "a clone takes space"
xs stat twins | grep -qx 'shared 733' || fail "stat: $(xs stat twins)"
xs stat twins two | grep -qx 'shared 3002368' || fail "stat two: $(xs stat twins two)"
xs map twins two | grep -q ' shared$' || fail "map: $(xs map twins two)"
xs truncate twins two 1000000 && xs truncate twins two 3000001 || fail truncate
head -c 1000000 in.3000001 > in.cut
truncate -s 3000001 in.cut
xs get twins one - | cmp - in.3000001 || fail "the other of a clone that was truncated"
xs get twins two - | cmp - in.cut || fail "a clone that was truncated"
xs cp twins two three && xs cp twins one two || fail cp
xs get twins two - | cmp - in.3000001 || fail "cp in place of another"
xs get twins three - | cmp - in.cut || fail cp
xs rm twins one && xs get twins two - | cmp - in.3000001 || fail "what is left of a copy"
xs stat twins | grep -qx 'shared 0' || fail "shared: $(xs stat twins)"
xs check twins || fail "check of clones"
expect_json 0 '"name":"two","to":"four","objects":1,"bytes":3000001' cp twins two four --reflink
expect_json 0 '"kind":"data","address":[0-9]*,"shared":true' map twins four
expect_json 0 '"shared_bytes":3002368,' check twins
xs unshare twins four 4096 4096 || fail "unshare a part"
xs stat twins four | grep -qx 'shared 2998272' || fail "unshared: $(xs stat twins four)"
expect_json 0 '"name":"four","shared":0' unshare twins four
xs get twins four - | cmp - in.3000001 || fail unshare
xs check twins || fail "check of what is unshared"
expect 64 "'x' is not an offset" unshare twins four x 1
expect 64 "a length goes with" unshare twins four 1
expect 66 'nothing: no such object' unshare twins nothing
expect 66 'nothing: no such object' cp twins nothing five
expect 64 'cannot be a name' cp twins two ''
expect 64 'cp takes no --direct' cp twins two five --direct
rm twins

# ---- JSON

cp store whole
odd=$(printf 'caf\351 "\\ \303\251')
xs put store "$odd" in.1 || fail "a name that is not UTF-8"
expect_json 0 '{"name":"caf\\ufffd \\"\\\\ é","name_hex":"636166e920225c20c3a9","size":1,' ls store
expect_json 0 '"name":"o.1","extents":\[{"offset":0,"length":8192,"kind":"data","address":' map store o.1
expect_json 0 '"kind":"hole"}' map store sparse
expect_json 0 '"size":4097,"extents":1,"written":8192,"unwritten":0' stat store o.1
expect_json 0 '"objects":8,' stat store
expect_json 0 '"ok":true,"bytes":25165824,"data_bytes":' check store
expect_json 0 '"objects":1,"bytes":3000001,"seconds":[0-9.]*,"library":{"backend":' \
	put store o.3000001 in.3000001
expect_json 0 '"objects":1,"bytes":3000001,"seconds":' get store o.3000001 out --direct
cmp out in.3000001 || fail "get --json"
expect_json 0 '"name":"o.1","size":4097' truncate store o.1 4097
expect_json 0 '"name":"o.4095"' rm store o.4095
expect_json 0 '"command":"mkfs","bytes":1048576' mkfs probe --size 1M --force
expect_json 66 '"error":"nothing: no such object"' get store nothing out
expect_json 66 '"command":"map","status":66,"error":"nothing: no such object"}$' map store nothing
expect_json 66 '{"command":"ls","status":66,"error":"not-there: No such file' ls not-there
expect_json 64 'standard output gets the object' get store o.1
expect_json 64 'ls takes no --direct' ls store --direct
cp whole store

# ---- what is wrong

head -c 40000000 /dev/zero | tr '\0' z > big
head -c 100000 /dev/urandom > noise
expect 64 '^usage: '
expect 64 'no such command: frob' frob store
expect 64 '^usage: ' rm store
expect 64 'name is too long' put store "$(printf '%0300d' 1)" noise
expect 64 'cannot be a name' put store '' noise
expect 64 "'12X' is not a size" truncate store o.1 12X
expect 64 "'0' is not a size" ls store --cache 0
expect 64 "'99999999999G' is not a size" ls store --cache 99999999999G
expect 64 'cannot start the library' ls store --cache 4K
expect 64 'cannot start the library' ls store --backend pigeons
expect 64 'unrecognized option' ls store --frob
expect 64 'check takes no --seed' check store --seed 1
expect 64 'rewrite needs --seed' rewrite store .
expect 64 'do not go together' mkfs new --size 1M --for .
expect 66 'no such object' get store nothing
expect 66 'no such object' rm store nothing
expect 66 'no such object' map store nothing
expect 66 'No such file' put store new not-there
expect 66 'Is a directory' put store new .
expect 73 'No such file' get store o.1 not-there/out
expect 73 'No such file' mkfs not-there/store --size 1M
expect 66 'No such file' ls not-there
expect 65 'not an xstore' ls noise
expect 65 'not an xstore' check noise
expect 73 'is a store already' mkfs store
expect 73 'is a store already' mkfs store --size 100M
expect 73 'too small: [0-9]* of 1048576 bytes' mkfs noise --size 1M
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
expect 65 'wrong checksum' import store .
expect 65 'wrong checksum' export store exported
expect 65 'wrong checksum' verify store .
expect_json 65 '"ok":false,"status":65,"error":"store: super block 0: wrong checksum"' check store
[ -e exported ] && fail "a directory for a store that is none"
cp whole store

# ---- kill -9 in mid-put

round=0
while [ $round -lt 8 ]; do
	rm -f pipe
	mkfifo pipe
	"$xstore" put store o.1 pipe --cache 2M $buffered &
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
