#!/bin/sh
# SPDX-License-Identifier: MIT
#
# tool.sh BUILD_DIR SOURCE_DIR
#
# The program walpages, from the outside: the commands of its README print what it says there, and
# a run that is killed loses nothing that it has told to be durable.
PATH=$1/examples:$PATH
tool=$1/examples/walpages
readme=$2/examples/walpages/README.md

fail() {
	echo "walpages: $*" >&2
	exit 1
}

work=$(mktemp -d "${IOMAP_TEST_DIR:-$PWD}/walpages.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1

# The README: each command, and what it prints; numbers that are others each time are N there.
sed -n '/^```console$/,/^```$/p' "$readme" | sed '/^```/d' > session
[ "$(grep -c '^\$ ' session)" -ge 3 ] || fail "the README has no commands"
sed -n 's/^\$ //p' session > commands
while read -r command; do
	echo "\$ $command"
	sh -c "$command" 2>&1 || fail "$command failed"
done < commands > printed
# which backend there is depends on who runs this
sed -e '/^libiomap: warning: /d' -e '/^log: /s/[0-9][0-9]*/N/g; s/[0-9]* of them redone/N of them redone/' printed > got
sed 's/[0-9]* of them redone/N of them redone/' session > expected
diff expected got || fail "the README shows something else"

# Killed: whatever was durable is there.
for order in defer submit; do
	rm -f killed progress
	mkfifo progress
	"$tool" init killed --pages 16 --log 262144 > /dev/null || fail "init failed"
	"$tool" run killed --transfers 100000000 --threads 4 --order $order --progress > progress &
	pid=$!
	exec 3< progress
	for i in 1 2 3 4 5; do
		read -r word durable <&3 || fail "it ended by itself"
		[ "$word" = durable ] || fail "it printed $word"
	done
	kill -9 $pid
	wait $pid 2> /dev/null
	exec 3<&-
	"$tool" check killed > out || fail "check failed after kill -9"
	cat out
	found=$(sed -n 's/ transfers, .*//p' out)
	[ "$found" -ge "$durable" ] || fail "$durable transfers were durable, $found are there"
	"$tool" run killed --transfers 100 --order $order > /dev/null || fail "it does not go on"
	"$tool" check killed > out || fail "check failed"
	[ "$(sed -n 's/ transfers, .*//p' out)" -eq $((found + 100)) ] || fail "100 more are not"
done

# Damage that no power cut does is told.
printf 'x' | dd of=killed bs=1 seek=$((8192 + 262144 + 3 * 8192 + 500)) conv=notrunc 2> /dev/null
"$tool" check killed 2> out
[ $? -eq 65 ] || fail "a damaged page is not told"
head -c 100000 /dev/zero > nothing
"$tool" check nothing 2> out
[ $? -eq 65 ] || fail "a file of zeros is a store"

"$tool" check absent 2> out
[ $? -eq 66 ] || fail "a file that is not there is opened"
for arguments in "" "check" "init a --pages 1" "init a --log 5x" "run a --order never" \
	"check a --threads 2" "frobnicate a"; do
	"$tool" $arguments 2> out
	[ $? -eq 64 ] || fail "'$arguments' is accepted"
done
"$tool" check killed > /dev/full 2> out
[ $? -ne 0 ] || fail "an error of standard output is not told"
echo ok
