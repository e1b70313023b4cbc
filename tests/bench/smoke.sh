#!/bin/sh
# SPDX-License-Identifier: MIT
#
# smoke.sh IOMAP-BENCH BENCH-JSON
#
# The harness runs: one short round of some cases of each kind, and its JSON is
# what bench/report.c says it is.  Says nothing about speed.
bench=$1
json=$2
dir=$(mktemp -d "${IOMAP_TEST_DIR:-${TMPDIR:-/var/tmp}}/bench-smoke.XXXXXX") || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM

"$bench" list > "$dir/list" || exit 1
"$bench" run --smoke --dir "$dir" --json "$dir/json" \
	bdev-rand/io_uring/read-4k/qd8 bdev-rand/threads/write-4k/qd8 bdev-rand/inline bdev-rand/memory \
	bdev-rand/libaio/read-4k/qd8 bdev-seq/memory self hit-read-64 hit-write-4k hit-same/64 \
	write-2t hit-pin-256m > "$dir/table" || {
	cat "$dir/table"
	exit 1
}
"$json" "$dir/json" || {
	cat "$dir/json"
	exit 1
}
left=$(ls "$dir" | grep -vE '^(list|table|json)$')
[ -z "$left" ] || {
	echo "left behind: $left"
	exit 1
}
"$bench" run --smoke no-such-scenario > /dev/null 2>&1 && {
	echo "a scenario that does not exist is not noticed"
	exit 1
}
exit 0
