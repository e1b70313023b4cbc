# SPDX-License-Identifier: MIT
# Sourced by the tests of the demonstration.
#
# make_tree DIR: what a small directory can hold to make an import stumble: 11
# regular files, 3 symbolic links and a pipe.
fail() {
	echo "FAILED: $*" >&2
	exit 1
}

make_tree() {
	mkdir -p "$1/sub/deeper/deepest" "$1/empty directory" || exit 1
	: > "$1/empty"
	: > "$1/sub/empty too"
	printf x > "$1/one byte"
	printf 'spaces\n' > "$1/ name with  spaces "
	printf 'quotes\n' > "$1/\"quotes\" and 'apostrophes'"
	printf 'no UTF-8\n' > "$1/$(printf 'caf\351 \377')"
	printf 'umlaut\n' > "$1/sub/ümlaut-日本"
	printf 'backslash\n' > "$1/sub/back\\slash"
	# 4095, 4097: just below and just above a block; the marker is there once.
	awk 'BEGIN { for (i = 0; i < 4095; i++) printf "%c", 97 + i % 26 }' > "$1/sub/deeper/block-1"
	{
		printf 'the-marker-of-the-victim'
		awk 'BEGIN { for (i = 0; i < 4073; i++) printf "%c", 65 + i % 26 }'
	} > "$1/sub/deeper/deepest/the victim"
	awk 'BEGIN { for (i = 0; i < 393216; i++) printf "%07d\n", i * 7 % 9999991 }' > "$1/3 MiB"
	ln -s "3 MiB" "$1/link"
	ln -s nowhere "$1/dangling"
	ln -s .. "$1/sub/loop"
	mkfifo "$1/fifo" || exit 1
}
