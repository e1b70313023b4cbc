#!/bin/sh
# SPDX-License-Identifier: MIT
#
# check.sh [--full]
#
# Everything that has to hold before a change goes in, from any directory:
# builds with two compilers and four sets of options, the whole test suite, and
# the parts of it that are worth repeating with another compiler, I/O backend,
# user or sanitizer. A failed stage does not stop the others. The last line is
# "N passed, M failed": tests over all stages, and a build that fails counts as
# one failure. --full repeats everything under both sanitizers and lets the
# campaigns run as long as they are meant to (IOMAP_FULL=1).
#
# Build trees and logs stay in build/check-*.
full=0
case "${1-}" in
"") ;;
--full) full=1 ;;
*)
	echo "usage: check.sh [--full]" >&2
	exit 64
	;;
esac

root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
cd "$root" || exit 1
sh cmake/packages.sh || exit

case "${CI:-}" in
"" | 0 | false) ;;
*)
	IOMAP_CI=1
	export IOMAP_CI
	;;
esac
if [ $full = 1 ]; then
	IOMAP_FULL=1
	export IOMAP_FULL
fi
jobs=$(nproc)
passed=0
failed=0
started=$(date +%s)
report=
culprits=
scratch=
trap '[ -z "$scratch" ] || rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

# ---- stages

# stage NAME COMMAND...: run, time, remember.
stage() {
	name=$1
	shift
	printf '\n==== %s\n' "$name"
	begin=$(date +%s)
	if "$@"; then
		verdict=ok
	else
		verdict=FAILED
	fi
	seconds=$(($(date +%s) - begin))
	report="$report$(printf '%6s min  %-6s  %s' "$(minutes $seconds)" $verdict "$name")
"
}

minutes() {
	printf '%d.%d' $(($1 / 60)) $(($1 % 60 / 6))
}

# build TREE COMPILER TYPE [CMAKE ARGUMENTS]
build() {
	tree=build/check-$1 compiler=$2 type=$3
	shift 3
	mkdir -p "$tree"
	rm -f "$tree/built"
	if cmake -S . -B "$tree" -G Ninja -DCMAKE_C_COMPILER="$compiler" \
		-DCMAKE_BUILD_TYPE="$type" -DIOMAP_WERROR=ON "$@" > "$tree/build.log" 2>&1 &&
		ninja -C "$tree" >> "$tree/build.log" 2>&1; then
		touch "$tree/built"
	else
		tail -n 60 "$tree/build.log"
		culprits="$culprits  $name: see $tree/build.log
"
		failed=$((failed + 1))
		return 1
	fi
}

# The sums of one run of ctest, from its closing line:
#   97% tests passed, 1 tests failed out of 36
count() {
	line=$(grep 'tests passed, .* tests failed out of' "$1" | tail -n 1)
	if [ -z "$line" ]; then
		failed=$((failed + 1))
		return
	fi
	bad=$(echo "$line" | sed 's/.*passed, \([0-9]*\) tests failed.*/\1/')
	all=$(echo "$line" | sed 's/.*out of \([0-9]*\).*/\1/')
	failed=$((failed + bad))
	passed=$((passed + all - bad))
}

# suite TREE CTEST ARGUMENTS; what $wrap holds comes before ctest.
wrap=
suite() {
	tree=build/check-$1
	shift
	if [ ! -e "$tree/built" ]; then
		echo "not run: $tree was not built"
		failed=$((failed + 1))
		return 1
	fi
	run_ctest "$tree" "$@"
}

run_ctest() {
	tests=$1
	shift
	log=$root/build/check-ctest.log
	{
		$wrap ctest --test-dir "$tests" -j "$jobs" --output-on-failure --no-tests=error "$@" 2>&1
		echo $? > "$log.rc"
	} < /dev/null | tee "$log"
	count "$log"
	culprits="$culprits$(sed -n "/(Skipped)\$/!s|^[ \t]*[0-9]* - \(.*\) (\(.*\))\$|  $name: \1 (\2)|p" "$log")
"
	[ "$(cat "$log.rc")" = 0 ]
}

# has_tests TREE LABEL: are there any?
has_tests() {
	[ -e "build/check-$1/built" ] &&
		ctest --test-dir "build/check-$1" -N -L "$2" 2> /dev/null | grep -q 'Total Tests: [1-9]'
}

# with_backend BACKEND TREE CTEST ARGUMENTS
with_backend() {
	IOMAP_BACKEND=$1
	export IOMAP_BACKEND
	shift
	suite "$@"
	rc=$?
	unset IOMAP_BACKEND
	return $rc
}

# Root is not held to limits on locked memory or by permissions, so the same
# tests run once as somebody who is. As root that is nobody, in a copy that
# nobody can reach and write to (the build tree finds its library relative to
# itself).
#
# as_ordinary_user LOCKED_BYTES TREE CTEST ARGUMENTS
as_ordinary_user() {
	wrap="prlimit --memlock=$1:$1"
	tree=build/check-$2
	shift 2
	if [ "$(id -u)" -ne 0 ]; then
		suite "${tree#build/check-}" "$@"
		rc=$?
		wrap=
		return $rc
	fi
	if [ ! -e "$tree/built" ]; then
		echo "not run: $tree was not built"
		failed=$((failed + 1))
		wrap=
		return 1
	fi
	scratch=$(mktemp -d /var/tmp/iomap-check.XXXXXX) || return 1
	mkdir -p "$scratch/src/build" "$scratch/tmp"
	find . -mindepth 1 -maxdepth 1 ! -name build ! -name .git -exec cp -R {} "$scratch/src/" \; &&
		cp -R "$tree" "$scratch/src/build/" || return 1
	find "$scratch" -name 'CTestTestfile.cmake' -exec sed -i "s|$root|$scratch/src|g" {} +
	rm -rf "$scratch/src/$tree/Testing" "$scratch/src/$tree/results"
	chown -R nobody "$scratch"
	saved_tmp=${TMPDIR-}
	TMPDIR=$scratch/tmp HOME=$scratch/tmp
	export TMPDIR HOME
	wrap="$wrap setpriv --reuid=nobody --regid=nogroup --clear-groups --no-new-privs"
	run_ctest "$scratch/src/$tree" "$@"
	rc=$?
	wrap=
	if [ -n "$saved_tmp" ]; then TMPDIR=$saved_tmp; else unset TMPDIR; fi
	rm -rf "$scratch"
	scratch=
	return $rc
}

# ---- what is checked

stage "build: gcc Debug" build gcc-debug gcc Debug -DIOMAP_BUILD_BENCH=ON
stage "build: gcc Release" build gcc-release gcc Release -DIOMAP_BUILD_BENCH=ON
stage "build: clang Debug" build clang-debug clang Debug -DIOMAP_BUILD_BENCH=ON
stage "build: clang ASan+UBSan" build asan clang Debug -DIOMAP_SANITIZE=address,undefined
stage "build: clang TSan" build tsan clang Debug -DIOMAP_SANITIZE=thread

stage "suite: gcc Debug" suite gcc-debug -LE campaign
stage "block: clang" suite clang-debug -L block
stage "block: libaio instead of io_uring" with_backend libaio gcc-debug -L block
stage "block: thread pool instead of io_uring" with_backend threads gcc-debug -L block
stage "block: ordinary user, 64 KiB of locked memory" as_ordinary_user 65536 gcc-debug -L block
if has_tests gcc-release release; then
	stage "release: gcc Release" suite gcc-release -L release
fi
# spin builds its models by itself: with a sanitizer they would be the same
stage "suite: ASan+UBSan" suite asan -LE 'campaign|spin'
if [ $full = 1 ]; then
	stage "suite: libaio instead of io_uring" with_backend libaio gcc-debug -LE campaign
	stage "suite: thread pool instead of io_uring" with_backend threads gcc-debug -LE campaign
	# the tests of the house write where the tree was built
	stage "suite: ordinary user, 8 MiB of locked memory" \
		as_ordinary_user 8388608 gcc-debug -LE 'campaign|house'
	stage "suite: ordinary user, no locked memory" \
		as_ordinary_user 0 gcc-debug -LE 'campaign|house'
	stage "suite: TSan" suite tsan -LE campaign
else
	IOMAP_CONCURRENT_ONLY=1
	export IOMAP_CONCURRENT_ONLY
	stage "concurrent: TSan" suite tsan -L concurrent -LE campaign
	unset IOMAP_CONCURRENT_ONLY
fi
if has_tests gcc-debug campaign; then
	stage "campaigns: gcc Debug" suite gcc-debug -L campaign
	if [ $full = 1 ]; then
		stage "campaigns: ASan+UBSan" suite asan -L campaign
	fi
fi

printf '\n%s' "$report"
printf '%6s min          total\n\n' "$(minutes $(($(date +%s) - started)))"
culprits=$(printf '%s' "$culprits" | grep .)
[ -z "$culprits" ] || printf 'failed:\n%s\n\n' "$culprits"
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
