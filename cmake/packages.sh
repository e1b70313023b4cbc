#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Installs the Debian 12 packages that building and testing need, if any is
# missing. Says what it installs; without root or apt it says what to install
# and ends with status 69 (EX_UNAVAILABLE). IOMAP_SKIP_PACKAGES=1 leaves it all
# to you.
[ "${IOMAP_SKIP_PACKAGES:-0}" = 1 ] && exit 0

# Build tools; then what the library and its I/O queues need; then what the
# tests, the sanitizers and the examples need besides.
packages="
gcc g++ clang make cmake ninja-build pkg-config patch valgrind spin
liburing-dev libaio-dev
libcriterion-dev libclang-rt-14-dev libseccomp-dev libssl-dev libxxhash-dev libjemalloc-dev
"

missing=
if command -v dpkg-query > /dev/null; then
	for package in $packages; do
		status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null)
		[ "$status" = installed ] || missing="$missing $package"
	done
else
	missing=" "$(echo $packages)
fi
[ -z "$missing" ] && exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
	cat >&2 <<-END
	These Debian packages (or what your system calls them) are missing:
	 $missing
	On Debian or Ubuntu, as root:  apt-get install$missing
	If they are there in some other way, set IOMAP_SKIP_PACKAGES=1.
	END
	exit 69
fi

echo "installing:$missing"
DEBIAN_FRONTEND=noninteractive
export DEBIAN_FRONTEND
install() {
	apt-get install -y --no-install-recommends $missing < /dev/null
}
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
# The lists of packages are fetched only when those at hand do not do.
install > "$log" 2>&1 || {
	echo "fetching the lists of packages first"
	apt-get update < /dev/null > "$log" 2>&1 && install > "$log" 2>&1
} || {
	cat "$log" >&2
	echo "could not install:$missing" >&2
	exit 69
}
