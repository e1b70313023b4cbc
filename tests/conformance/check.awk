# SPDX-License-Identifier: MIT
# The second half of check.sh, which says what it checks.
# Variables: ids, taps, table (names of files), ci, root.

function complain(text)
{
	print "conformance: " text
	bad = 1
}

function trim(text)
{
	gsub(/^[ \t]+|[ \t]+$/, "", text)
	return text
}

# The tests of one ID: counts and names into the globals passed, failed, skipped.
function look_up(id,    i)
{
	passed = failed = skipped = 0
	failed_names = skip_reasons = ""
	for (i = 1; i <= tests; i++) {
		if (index("_" test_name[i] "_", "_" tolower(id) "_") == 0)
			continue
		if (verdict[i] == "ok") {
			passed++
		} else if (verdict[i] == "skip") {
			skipped++
			skip_reasons = skip_reasons (skip_reasons == "" ? "" : "; ") \
				(reason[i] == "" ? "no reason given" : reason[i])
		} else {
			failed++
			failed_names = failed_names " " test_name[i]
		}
	}
}

function check_working_row(id)
{
	look_up(id)
	if (failed) {
		complain(id " is marked works, but fails:" failed_names)
	} else if (passed) {
		works++
		if (skipped)
			print "conformance: " id ": " skipped " of " (passed + skipped) \
				" tests skipped here: " skip_reasons
	} else if (skipped) {
		if (ci == 1)
			complain(id " is marked works, but its tests were skipped: " skip_reasons)
		else
			print "conformance: " id " skipped here: " skip_reasons
		skipped_rows++
	} else {
		complain(id " is marked works, but no test that ran is named for it")
	}
}

# What stands in backticks must exist: a test (with or without its suite) or a file.
function check_named_tests(id, text,    name, unused)
{
	while (match(text, /`[^`]+`/)) {
		name = substr(text, RSTART + 1, RLENGTH - 2)
		text = substr(text, RSTART + RLENGTH)
		sub(/^.*::/, "", name)
		if (name in known_test)
			continue
		if (name ~ /\// && (getline unused < (root "/" name)) >= 0) {
			close(root "/" name)
			continue
		}
		complain(id " names `" name "`, which is no test that ran and no file")
	}
}

BEGIN {
	while ((getline line < ids) > 0) {
		line = trim(line)
		if (line != "" && line !~ /^#/)
			wanted[line] = ++order
		if (wanted[line] == order)
			id_at[order] = line
	}
	while ((getline line < taps) > 0) {
		split(line, field, " ")
		verdict[++tests] = field[1]
		test_name[tests] = field[2]
		known_test[field[2]] = 1
		reason[tests] = substr(line, length(field[1]) + length(field[2]) + 3)
	}
}

/^[ \t]*\|/ {
	line = $0
	gsub(/\\\|/, "\001", line)
	columns = split(line, cell, "|")
	id = trim(cell[2])
	gsub(/[*`]/, "", id)
	if (id == "" || id == "ID" || id ~ /^:?-+:?$/)
		next
	if (columns != 6) {
		# Other tables may stand in the same file; theirs do not start with an ID.
		if (id in wanted)
			complain(id ": line " NR " is not | ID | meaning | state | tests |")
		else
			next
	}
	if (!(id in wanted)) {
		if (id ~ /^[A-Z][A-Z][0-9][0-9]$/)
			complain(id " in line " NR " is not a known ID")
		next
	}
	if (id in seen) {
		complain(id " has two rows, lines " seen[id] " and " NR)
		next
	}
	seen[id] = NR
	rows++
	if (trim(cell[3]) == "")
		complain(id " does not say what it means")
	state = trim(cell[4])
	if (state == "works") {
		check_working_row(id)
		check_named_tests(id, cell[5])
	} else if (state == "not yet") {
		not_yet++
		look_up(id)
		if (passed && !failed)
			print "conformance: " id " is marked not yet, but has " passed " passing test(s)"
	} else if (state ~ /^cannot here: *[^ ]/) {
		cannot++
	} else {
		complain(id " has the state \"" state "\"; known are works, not yet, cannot here: reason")
	}
}

END {
	for (i = 1; i <= order; i++)
		if (!(id_at[i] in seen))
			complain(id_at[i] " has no row in " table)
	printf "conformance: %d rows: %d work, %d skipped here, %d not yet, %d cannot here\n",
		rows, works, skipped_rows, not_yet, cannot
	exit bad ? 1 : 0
}
