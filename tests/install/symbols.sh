#!/bin/sh
# SPDX-License-Identifier: MIT
#
# symbols.sh SHARED STATIC SOURCE_DIR NM [HEADER]
#
# The shared library exports what the headers declare with IOMAP_API, no more
# and no less; the static one defines nothing outside our prefix. HEADER: it is
# a library of its own that this one header declares. STATIC may be "-".
shared=$1 static=$2 source=$3 nm=$4 header=$5
failed=0
if [ -n "$header" ]; then
	headers=$source/include/iomap/$header
else
	headers=$(ls "$source"/include/iomap/*.h | grep -v '/jemalloc\.h$')
fi

# "ADDRESS TYPE NAME"; the symbol of the version itself is absolute.
exported=$("$nm" -D --defined-only "$shared" |
	awk 'NF >= 3 && $2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort -u)
declared=$(awk -f "$source/tests/install/api_names.awk" $headers |
	awk '{ print $2 }' | sort -u)

alien=$(printf '%s\n' "$exported" | grep -v '^iomap_[^_]')
if [ -n "$alien" ]; then
	echo "exported, but not ours to export:" $alien >&2
	failed=1
fi

a=$(mktemp) b=$(mktemp)
trap 'rm -f "$a" "$b"' EXIT
printf '%s\n' "$exported" > "$a"
printf '%s\n' "$declared" > "$b"
undeclared=$(comm -23 "$a" "$b")
missing=$(comm -13 "$a" "$b")
if [ -n "$undeclared" ]; then
	echo "exported, but in no public header:" $undeclared >&2
	failed=1
fi
if [ -n "$missing" ]; then
	echo "declared in a public header, but not exported:" $missing >&2
	failed=1
fi

[ "$static" = - ] || alien=$("$nm" -g --defined-only "$static" | awk 'NF == 3 && $3 !~ /^iomap_/ { print $3 }' | sort -u)
if [ -n "$alien" ]; then
	echo "global in the static library without our prefix:" $alien >&2
	failed=1
fi

[ $failed -eq 0 ] && echo "$(printf '%s\n' "$exported" | grep -c .) symbols exported"
exit $failed
