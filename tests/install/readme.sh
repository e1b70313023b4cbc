#!/bin/sh
# SPDX-License-Identifier: MIT
#
# readme.sh README INCLUDE_DIR LIB_DIR CC
#
# The first C example of the README builds without a warning, and runs.
readme=$1 include=$2 libdir=$3 cc=$4
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT

awk '/^```c[ \t]*$/ { inside = 1; next } inside && /^```/ { exit } inside' "$readme" > "$dir/example.c"
if [ ! -s "$dir/example.c" ]; then
	echo "$readme has no C example" >&2
	exit 1
fi
"$cc" -Wall -Wextra -Werror -O1 -I"$include" "$dir/example.c" -o "$dir/example" \
	-L"$libdir" -Wl,-rpath,"$libdir" -liomap -pthread || exit 1
mkdir "$dir/run" && cd "$dir/run" || exit 1
timeout 60 ../example
rc=$?
[ $rc -eq 0 ] || echo "the example ended with status $rc" >&2
exit $rc
