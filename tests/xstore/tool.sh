# SPDX-License-Identifier: MIT
# Sourced by the tests of the xstore program, with its path in $xstore, in a
# directory of their own.
fail() {
	echo "FAILED: $*"
	exit 1
}

# Where the file system refuses O_DIRECT, the kernel's cache has to do.
buffered=
"$xstore" mkfs probe --size 1M 2> /dev/null || buffered=--buffered
xs() {
	"$xstore" "$@" $buffered
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

# The kernel takes a killed process's io_uring apart, and gives up its lock on the
# store, a little after the process is gone.
wait_free() {
	tries=0
	while xs stat store > /dev/null 2>&1; [ $? -eq 75 ]; do
		tries=$((tries + 1))
		[ $tries -lt 2000 ] || fail "still in use"
	done
}

# json FILE: whether it is one line with one JSON document. Strings become s, all
# that is a value v, and what consists of these v, until nothing else is left.
json() {
	[ "$(wc -l < "$1")" -eq 1 ] || return 1
	iconv -f UTF-8 -t UTF-8 "$1" > /dev/null || return 1
	tr -d '\n' < "$1" | LC_ALL=C grep -q '[[:cntrl:]]' && return 1
	LC_ALL=C awk '{
		gsub(/"([^"\\]|\\(["\\\/bfnrt]|u[0-9a-f][0-9a-f][0-9a-f][0-9a-f]))*"/, "s")
		gsub(/-?(0|[1-9][0-9]*)(\.[0-9]+)?/, "v")
		gsub(/true|false|null/, "v")
		while (gsub(/\{(s:[sv](,s:[sv])*)?\}|\[([sv](,[sv])*)?\]/, "v"))
			;
		exit $0 == "v" ? 0 : 1
	}' "$1"
}

# expect_json STATUS PATTERN ARGS...: the same with --json, on standard output.
expect_json() {
	want=$1
	pattern=$2
	shift 2
	xs "$@" --json > stdout 2> stderr
	got=$?
	[ $got -eq "$want" ] || fail "$*: status $got, not $want: $(cat stderr)"
	json stdout || fail "$*: not a JSON document: $(cat stdout)"
	grep -q "$pattern" stdout || fail "$*: '$pattern' is not in: $(cat stdout)"
	grep -q "\"status\":$want[,}]" stdout || fail "$*: not the status: $(cat stdout)"
	[ "$want" -ne 0 ] || [ ! -s stderr ] || fail "$*: $(cat stderr)"
}
