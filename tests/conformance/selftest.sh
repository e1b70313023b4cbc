#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Feeds check.sh small tables and results, good and bad: a checker that passes
# everything is worse than none.
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/results"
printf 'AA01\nAA02\n' > "$dir/ids"
failures=0
cases=0

# expect STATUS TEXT CI WHAT: the table and the results are in $dir.
expect() {
	cases=$((cases + 1))
	out=$(IOMAP_CI=$3 sh "$here/check.sh" "$dir/table" "$dir/ids" "$dir/results" 2>&1)
	rc=$?
	if [ $rc -ne "$1" ] || ! printf '%s\n' "$out" | grep -qF -- "$2"; then
		echo "FAILED: $4: status $rc instead of $1, or no \"$2\" in:"
		printf '%s\n' "$out" | sed 's/^/    /'
		failures=$((failures + 1))
	fi
}

# table STATE1 STATE2 [TESTS1]
table() {
	cat > "$dir/table" <<-END
	Some words first.

	| ID | meaning | state | tests |
	|----|:-------:|-------|-------|
	| **AA01** | a \\| b | $1 | ${3-} |
	| AA02 | other | $2 | |
	END
}

tap() {
	{
		printf 'TAP version 13\n1..9\n# Criterion v2.4.1\n'
		cat
	} > "$dir/results/test_fake.tap"
}

table works "not yet"
tap <<'END'
ok - suite::aa01_plain  (0.00s)
END
expect 0 "1 work, 0 skipped here, 1 not yet" 1 "one passing test"

table works works
tap <<'END'
ok - suite::aa01_aa02_both  (0.00s)
END
expect 0 "2 work" 1 "two IDs in one name"

tap <<'END'
ok - suite::aa01_plain  (0.00s)
ok - suite::xaa02_glued  (0.00s)
ok - suite::aa021_longer  (0.00s)
ok - aa02::only_the_suite  (0.00s)
END
expect 1 "AA02 is marked works, but no test" 0 "an ID inside another word does not count"

tap <<'END'
ok - suite::aa01_plain  (0.00s)
not ok - suite::aa02_bad  (0.00s)
  ---
  assertions: 1
  failures:
  - file.c:10: |+
      ok - suite::aa02_in_a_message
  ...
END
expect 1 "AA02 is marked works, but fails: aa02_bad" 0 "a failing test"

tap <<'END'
ok - suite::aa01_plain  (0.00s)
ok - suite::aa02_good  (0.00s)
not ok - suite::aa02_crashed unexpected signal after file.c:10
END
expect 1 "but fails: aa02_crashed" 0 "one of two fails"

tap <<'END'
ok - suite::aa01_plain  (0.00s)
ok - suite::aa02_skipped  # SKIP needs a device
END
expect 0 "AA02 skipped here: needs a device" 0 "a skip outside CI"
expect 1 "AA02 is marked works, but its tests were skipped: needs a device" 1 "a skip in CI"

tap <<'END'
ok - suite::aa01_plain  (0.00s)
ok - suite::aa02_skipped  # SKIP needs a device
ok - suite::aa02_runs  (0.00s)
END
expect 0 "2 work" 1 "one skipped, one passing"

rm "$dir/results/test_fake.tap"
expect 1 "AA01 is marked works, but no test" 0 "no results at all"

table "not yet" "cannot here: no such device"
expect 0 "0 work, 0 skipped here, 1 not yet, 1 cannot here" 1 "nothing claimed, nothing needed"

table "not yet" "cannot here:"
expect 1 'AA02 has the state "cannot here:"' 0 "a reason is needed"

table "nearly" "not yet"
expect 1 'AA01 has the state "nearly"' 0 "an unknown state"

table "not yet" "not yet"
sed -i '/AA02/d' "$dir/table"
expect 1 "AA02 has no row" 0 "a missing row"

table "not yet" "not yet"
echo '| AA01 | again | not yet | |' >> "$dir/table"
expect 1 "AA01 has two rows" 0 "a row twice"

table "not yet" "not yet"
echo '| ZZ99 | unknown | not yet | |' >> "$dir/table"
expect 1 "ZZ99 in line 7 is not a known ID" 0 "an unknown ID"

table "not yet" "not yet"
sed -i 's/| other |/|/' "$dir/table"
expect 1 "AA02: line 6 is not" 0 "a row with a column too few"

tap <<'END'
ok - suite::aa01_plain  (0.00s)
END
table works "not yet" '`aa01_plain`, `suite::aa01_plain`, `tests/conformance/check.sh`'
expect 0 "1 work" 1 "named tests that exist"
table works "not yet" '`aa01_plain`, `aa01_gone`'
expect 1 "AA01 names \`aa01_gone\`" 0 "a named test that does not exist"

table "not yet" "not yet"
expect 0 "AA01 is marked not yet, but has 1 passing" 0 "a row that could be claimed is mentioned"

# A result of a program that is no longer among the tests does not count.
table works "not yet"
: > "$dir/list"
cases=$((cases + 1))
if sh "$here/check.sh" "$dir/table" "$dir/ids" "$dir/results" "$dir/list" > /dev/null 2>&1; then
	echo "FAILED: a left-over result was counted"
	failures=$((failures + 1))
fi

echo "conformance selftest: $cases cases, $failures failed"
[ $failures -eq 0 ]
