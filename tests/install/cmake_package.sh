#!/bin/sh
# SPDX-License-Identifier: MIT
#
# cmake_package.sh CMAKE PREFIX CC: find_package(libiomap), both targets.
cmake=$1 prefix=$2 cc=$3
work=$prefix.package
rm -rf "$work"
mkdir -p "$work" && cd "$work" || exit 1

cat > main.c <<'END'
#include <iomap/iomap.h>

int main(void)
{
	return iomap_version()[0] == '\0';
}
END
cat > CMakeLists.txt <<'END'
cmake_minimum_required(VERSION 3.22)
project(consumer C)
find_package(libiomap 0.1 REQUIRED)
add_executable(with_shared main.c)
target_link_libraries(with_shared libiomap::iomap)
add_executable(with_static main.c)
target_link_libraries(with_static libiomap::iomap_static)
END
{
	"$cmake" -S . -B build -DCMAKE_C_COMPILER="$cc" -DCMAKE_PREFIX_PATH="$prefix" &&
		"$cmake" --build build && build/with_shared && build/with_static
} > log 2>&1 || {
	cat log >&2
	exit 1
}
