#!/bin/sh
# SPDX-License-Identifier: MIT
#
# xs_dirs.sh BUILD_DIR SOURCE_DIR
#
# The xstore program and directories: import, export, verify, rewrite. What goes
# wrong gets one line and a status of sysexits.h; an import that is cut off, by a
# signal, kill -9 or a full store, leaves whole files only, and another completes it.
xstore=$1/examples/xstore
source=$2
work=$(mktemp -d "$PWD/xs_dirs.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
. "$source/tests/xstore/tool.sh"
. "$source/tests/demo/tree.sh"

# all_in DIR [OPTION...]: the store holds these files, and is well.
all_in() {
	xs verify store "$@" > stdout 2> stderr || fail "verify $*: $(cat stdout stderr)"
	[ ! -s stderr ] || fail "verify $*: $(cat stderr)"
	xs check store || fail "check"
}

# ---- there and back

make_tree tree
truncate -s 20M tree/sparse
printf data | dd of=tree/sparse bs=1 seek=9000000 conv=notrunc status=none
xs mkfs store --for tree || fail "mkfs --for"
expect_json 0 '"files":12,"complete":true,"same":0,"links":3,"specials":1,"unreadable":0,"objects":12,' \
	import store tree
for cache in 256M 2M; do
	all_in tree --cache $cache
	all_in tree --cache $cache --direct
done
expect_json 0 '"differences":\[\],"same":12,"different":0,"missing":0,"extra":0,' verify store tree
expect 73 'out/of/it: No such file' export store out/of/it
mkdir out
printf old > "out/3 MiB"
expect_json 0 '"complete":true,"objects":12,"bytes":2' export store out
(cd tree && find . -type f | sort) > in.names
(cd out && find . | grep '[.]xstore-') && fail "a temporary file was left"
(cd out && find . -type f | sort) > out.names
cmp in.names out.names || fail "not the same files"
while IFS= read -r name; do
	cmp "tree/$name" "out/$name" || fail "$name came out otherwise"
done < in.names
[ "$(stat -c %b tree/sparse)" -ge 1000 ] || [ "$(stat -c %b out/sparse)" -lt 1000 ] ||
	fail "the holes are filled"

# What is in already is left alone; what is not is replaced.
cp store before
expect_json 0 '"same":12,.*"objects":0,"bytes":0,' import store tree
cmp store before || fail "an import of the same has changed the store"
cp -R out changed
printf X | dd of="changed/3 MiB" bs=1 seek=2000000 conv=notrunc status=none
printf more >> changed/empty
rm "changed/one byte"
expect 65 'store: 2 objects are different, 0 missing, 1 too much$' verify store changed
cat > wanted <<'END'
3 MiB: different at byte 2000000
empty: different: 0 bytes, the file has 4
one byte: extra: no such file
END
grep -v '^verified' stdout | cmp - wanted || fail "differences: $(cat stdout)"
expect_json 65 '{"kind":"different","name":"3 MiB","offset":2000000},{"kind":"different","name":"empty","size":0,"file_size":4},{"kind":"extra","name":"one byte"}\]' \
	verify store changed --direct
expect_json 0 '"same":9,.*"objects":2,' import store changed
xs rm store "one byte" || fail rm
all_in changed
expect 65 'store: 2 objects are different, 1 missing, 0 too much$' verify store tree

# ---- rewrite

expect_json 0 '"command":"rewrite","pieces":[1-9]' rewrite store changed --seed 7 --cache 2M
expect 65 'objects are different, 0 missing' verify store changed
expect 65 'objects are different, 0 missing' verify store changed --seed 8
all_in changed --seed 7
all_in changed --seed 7 --direct --cache 2M
xs rewrite store changed --seed 7 --restore > stdout || fail "rewrite --restore"
grep -q '^restored [1-9][0-9]* pieces' stdout || fail "restored: $(cat stdout)"
all_in changed

# ---- what is wrong

expect 66 'not-there: No such file' import store not-there
expect 66 'wanted: Not a directory' import store wanted
expect 66 'not-there: No such file' verify store not-there
expect 66 'not-there: No such file' rewrite store not-there --seed 1
expect 64 '^usage: ' import store
mkdir odd
long=odd/$(printf '%0200d/%0100d' 1 2)
mkdir "${long%/*}"
printf x > "$long"
printf y > odd/a
expect 65 'odd/0*1/0*2: the name is too long: 301 bytes, at most 255' import store odd
rm -r odd/0*
printf x > "odd/b$(printf '\001')"
expect 65 'odd/b\\001: cannot be the name of an object' import store odd
xs verify store odd 2> stderr
grep -q ' 2 missing' stderr || fail "something of a refused import is in: $(cat stderr)"

# Names that lead out of the directory, and a link that does.
cp store whole
for name in ../out /etc/out a/../../b a//b ./a a/ ..; do
	xs put store "$name" wanted || fail "put $name"
	expect 65 'cannot be the name of a file below exported$' export store exported
	[ -e exported ] && fail "something was exported"
	xs rm store "$name"
done
cp whole store
mkdir exported elsewhere
ln -s ../elsewhere exported/sub
expect 73 'exported/sub/.*: Not a directory' export store exported
[ -z "$(ls -A elsewhere)" ] || fail "export went through a link"
(cd exported && find . | grep '[.]xstore-') && fail "a temporary file was left"
xs put store sub wanted || fail "put sub"
rm -r exported
expect 73 'exported/sub/.*: Not a directory' export store exported
xs rm store sub

# What may not be read is counted, all else is in.
as=
mkdir locked
printf a > locked/a
printf b > locked/b
chmod 0 locked/a
if [ "$(id -u)" -eq 0 ]; then
	as="setpriv --reuid=65534 --regid=65534 --clear-groups"
	chmod 666 store
	chmod 711 .
fi
if ! $as "$xstore" ls store $buffered > stdout 2> stderr; then
	echo "left out: nobody cannot use the store here: $(cat stderr)"
else
	$as "$xstore" import store locked $buffered > stdout 2> stderr
	[ $? -eq 77 ] || fail "unreadable: $(cat stdout stderr)"
	[ "$(cat stderr)" = "xstore: locked: 1 cannot be read, first of all a: Permission denied" ] ||
		fail "unreadable: $(cat stderr)"
	grep -q '^imported 1 objects' stdout || fail "unreadable: $(cat stdout)"
	[ "$(xs get store b)" = b ] || fail "the other file is not in"
	$as "$xstore" verify store locked $buffered > stdout 2> stderr
	[ $? -eq 65 ] || [ $? -eq 77 ] || fail "verify of what cannot be read"
fi

# ---- cut off

mkdir big
for i in 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29; do
	head -c 3000$i /dev/urandom > big/$i
	head -c 2000000 /dev/zero | tr '\0' "$i" > big/large.$i
done
printf old > big/10.old
files=$(ls big | wc -l)

# only_whole: what is in is right, and in the store's order nothing is half in.
only_whole() {
	xs check store || fail "check: $1"
	xs verify store big > stdout 2> stderr
	case $? in
	0 | 65) ;;
	*) fail "verify: $1: $(cat stderr)" ;;
	esac
	grep ': different' stdout && fail "half in: $1"
	[ "$(grep -c ': missing' stdout)" -eq $((files - $2)) ] || fail "not $2 files are in: $1: $(cat stdout)"
}

# A full store.
rm store
xs mkfs store --size 12M
xs import store big > stdout 2> stderr
[ $? -eq 73 ] || fail "full: $(cat stderr)"
in=$(sed -n "s/^xstore: store: the store is full: \([0-9]*\) of $files files are in\$/\1/p" stderr)
[ -n "$in" ] && [ "$in" -ge 10 ] || fail "full: $(cat stderr)"
only_whole "full" "$in"
# It does not help to try again, nor does it harm.
expect_json 73 "\"complete\":false,\"same\":$in," import store big
only_whole "full again" "$in"

# start_import: in the background, as $import.
start_import() {
	rm -f store
	xs mkfs store --for big
	xs put store 10.old wanted
	"$xstore" import store big --cache 4M $buffered > stdout 2> stderr &
	import=$!
}

# until_written BYTES: wait until $import has written so much, and stop it there.
# Return: whether it still runs.
until_written() {
	while written=$(sed -n 's/^write_bytes: //p' /proc/$import/io 2> /dev/null); do
		[ "${written:-0}" -lt "$1" ] || break
		grep -q '^State:.*[ZX]' /proc/$import/status && return 1
	done
	kill -STOP $import 2> /dev/null
	grep -q '^State:.*[Tt]' /proc/$import/status 2> /dev/null
}

# Signals. It may have come to its end before it is stopped: then there is another try.
for signal in INT TERM HUP KILL KILL; do
	tries=0
	at=$((at + 7000000))
	got=0
	until [ $got -ne 0 ]; do
		start_import
		if until_written $at; then
			kill -$signal $import
		fi
		kill -CONT $import 2> /dev/null
		wait $import 2> /dev/null
		got=$?
		tries=$((tries + 1))
		[ $tries -lt 50 ] || fail "no import could be interrupted"
	done
	wait_free
	if [ $signal = KILL ]; then
		[ $got -eq 137 ] || fail "killed: $got: $(cat stderr)"
		xs get store 10.old - > got || fail "the old object is gone"
		cmp -s got wanted || cmp -s got big/10.old || fail "half an object"
		cmp -s got wanted && cp wanted big/10.old
		in=$(xs ls store | wc -l)
	else
		[ $got -eq 75 ] || fail "$signal: $got: $(cat stdout stderr)"
		in=$(sed -n "s/^xstore: store: interrupted: \([0-9]*\) of $files files are in\$/\1/p" stderr)
		[ -n "$in" ] && [ "$in" -gt 0 ] && [ "$in" -lt "$files" ] || fail "$signal: $(cat stderr)"
	fi
	echo "SIG$signal: $in of $files"
	only_whole "SIG$signal" "$in"
	printf old > big/10.old
	xs import store big > stdout || fail "import after SIG$signal"
	all_in big
done
echo "all as expected"
