#!/bin/sh
# SPDX-License-Identifier: MIT
#
# demo.sh [DIR] [--cache SIZE] ...
#
# Installs what a build needs, builds a release, and runs the demonstration in
# examples/demo.sh, which knows what the arguments mean.
root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
tree=$root/build/demo
log=$tree/build.log

sh "$root/cmake/packages.sh" || exit
mkdir -p "$tree" || exit 1
echo "building in $tree"
if ! { cmake -S "$root" -B "$tree" -G Ninja -DCMAKE_BUILD_TYPE=Release -DIOMAP_BUILD_TESTS=OFF &&
	ninja -C "$tree"; } > "$log" 2>&1; then
	tail -n 60 "$log" >&2
	exit 1
fi
exec sh "$root/examples/demo.sh" "$tree" "$@"
