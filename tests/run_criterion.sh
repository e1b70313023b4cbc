#!/bin/sh
# SPDX-License-Identifier: MIT
#
# run_criterion.sh PROGRAM RESULTS_DIR JOBS TIMEOUT [PATTERN]
#
# PATTERN: of the tests that are all there is to run when IOMAP_CONCURRENT_ONLY is set.
#
# Runs one Criterion program, leaves RESULTS_DIR/<program>.tap, and fails when a
# test fails, when the program does not get as far as writing its results, or
# when a sanitizer has something to say. The last is not implied by the first:
# each test is a process of its own, and a leak found as it exits does not
# change Criterion's verdict. So reports go to files, and any such file is a
# failure.
program=$1
results=$2
jobs=$3
timeout=$4
name=$(basename "$program")
tap=$results/$name.tap
reports=$results/$name.reports

mkdir -p "$results" || exit 1
rm -rf "$tap" "$reports"
mkdir "$reports" || exit 1

# handle_segv=0: tests that expect a signal need to get it.
common=handle_segv=0:handle_abort=0:handle_sigbus=0:log_path=$reports/report
export ASAN_OPTIONS="$common:detect_leaks=1:abort_on_error=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
export UBSAN_OPTIONS="$common:print_stacktrace=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}"
# intercept_send=0: it looks at the memory when the call has returned, and the other side may have
# answered by then, so that the memory is somebody else's to write.
export TSAN_OPTIONS="$common:intercept_send=0:halt_on_error=1:second_deadlock_stack=1${TSAN_OPTIONS:+:$TSAN_OPTIONS}"

pattern=${IOMAP_CONCURRENT_ONLY:+${5-}}
"$program" "-j$jobs" "--timeout=$timeout" "--tap=$tap" ${pattern:+"--filter=*/@($pattern)"}
rc=$?

if [ -n "$pattern" ] && ! grep -q '^ok' "$tap"; then
	echo "run_criterion: $name has no test like $pattern" >&2
	rc=1
fi

if [ $rc -eq 0 ] && [ ! -s "$tap" ]; then
	echo "run_criterion: $name ended without results" >&2
	rc=1
fi
for report in "$reports"/*; do
	[ -s "$report" ] || continue
	echo "run_criterion: $(basename "$report"):" >&2
	head -n 200 "$report" >&2
	rc=1
done
[ $rc -ne 0 ] || rmdir "$reports" 2>/dev/null
exit $rc
