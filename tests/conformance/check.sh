#!/bin/sh
# SPDX-License-Identifier: MIT
#
# check.sh TABLE IDS RESULTS_DIR [TESTS_LIST]
#
# Holds docs/conformance.md (TABLE) against what the tests did. TABLE has rows
#   | ID | meaning | state | tests |
# with a state of "works", "not yet" or "cannot here: reason". IDS lists every
# ID that must have a row. RESULTS_DIR holds one TAP file, test_<name>.tap, for
# each Criterion program; with TESTS_LIST only the programs named there are
# read, so that the results of a test removed since do not count.
#
# A row that is said to work needs a passing test whose name contains its ID in
# lower case as a word between underscores, and no failing one. A skipped test
# proves nothing: with IOMAP_CI=1 the row fails, elsewhere it is listed. What
# stands in `backticks` in the last column has to be a test that ran, or a file.
#
# Exit: 0 all true, 1 something is not, 2 cannot tell.
if [ $# -lt 3 ]; then
	echo "usage: check.sh TABLE IDS RESULTS_DIR [TESTS_LIST]" >&2
	exit 2
fi
table=$1 ids=$2 results=$3 list=${4:-}
here=$(cd "$(dirname "$0")" && pwd)

for file in "$table" "$ids" ${list:+"$list"}; do
	if [ ! -r "$file" ]; then
		echo "conformance: cannot read $file" >&2
		exit 2
	fi
done

# "ok", "not ok" or "skip", the test's name without its suite, and the reason of
# a skip. Criterion writes, e.g.:
#   ok - suite::name  (0.00s)
#   ok - suite::name  # SKIP reason
#   not ok - suite::name unexpected signal after file.c:10
tap_lines() {
	awk '
		/^ok / || /^not ok / {
			verdict = /^not/ ? "not_ok" : "ok"
			line = $0
			sub(/^(not )?ok [0-9]*[ ]*-[ ]*/, "", line)
			name = line
			sub(/[ \t].*/, "", name)
			sub(/^.*::/, "", name)
			reason = ""
			if (match(line, /# [Ss][Kk][Ii][Pp]/)) {
				verdict = verdict == "ok" ? "skip" : verdict
				reason = substr(line, RSTART + RLENGTH)
				sub(/^[ \t]+/, "", reason)
			}
			print verdict, name, reason
		}' "$1"
}

scratch=$(mktemp) || exit 2
trap 'rm -f "$scratch"' EXIT

if [ -n "$list" ]; then
	while read -r name; do
		[ -n "$name" ] || continue
		if [ -s "$results/test_$name.tap" ]; then
			tap_lines "$results/test_$name.tap"
		else
			echo "conformance: test_$name has left no results" >&2
		fi
	done < "$list" > "$scratch"
else
	for tap in "$results"/*.tap; do
		[ -s "$tap" ] && tap_lines "$tap"
	done > "$scratch"
fi

awk -v ids="$ids" -v taps="$scratch" -v table="$table" -v ci="${IOMAP_CI:-0}" \
	-v root="$here/../.." -f "$here/check.awk" "$table"
