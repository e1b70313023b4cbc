#!/bin/sh
# SPDX-License-Identifier: MIT
# prefix.sh CMAKE BUILD_DIR PREFIX: installs into a fresh PREFIX.
rm -rf "$3"
"$1" --install "$2" --prefix "$3" > "$3.log" 2>&1 || {
	cat "$3.log" >&2
	exit 1
}
