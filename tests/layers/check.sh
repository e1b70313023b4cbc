#!/bin/sh
# SPDX-License-Identifier: MIT
#
# check.sh SOURCE_DIR: dependencies go one way, base <- block <- cache <- iomap, and nothing
# of a layer is seen outside it but its one private header.
cd "$1/lib" || exit 1
bad=0

# allowed LAYER FILE: may a file of LAYER include "FILE"?
allowed() {
	case "$1 $2" in
	"base base/"* | "block block/"* | "cache cache/"* | "iomap iomap/"*) ;;
	"block base/base.h" | "cache base/base.h" | "iomap base/base.h") ;;
	"cache block/block.h" | "iomap block/block.h") ;;
	"iomap cache/cache.h") ;;
	*) return 1 ;;
	esac
}

for layer in base block cache iomap; do
	for file in "$layer"/*.[ch]; do
		for header in $(sed -n 's/^#include "\(.*\)"/\1/p' "$file"); do
			case $header in
			*/*) ;;
			*) header=$layer/$header ;;
			esac
			if ! allowed "$layer" "$header"; then
				echo "$file includes $header: $layer must not know it"
				bad=1
			fi
		done
	done
done

# Symbols of the cache are not used below it, and so on: the linker would not notice.
if grep -n 'iomap_folio_\|iomap__folio_[^c]\|iomap__filemap\|iomap__cache_' base/*.[ch] block/*.[ch] | grep -v '/\*\|^\S*:[0-9]*: \*'; then
	echo "the cache is used below it"
	bad=1
fi
exit $bad
