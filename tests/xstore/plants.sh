#!/bin/sh
# SPDX-License-Identifier: MIT
#
# plants.sh SETTINGS [NUMBER...]
#
# Bugs planted on purpose: each plants/NN-name.patch is applied to a copy of the sources, the
# file it changes is compiled as the build tree does, and the test that the patch names is
# linked with it and has to fail, with the message that the patch names. A test that passes
# all the same is not good enough. First, the same is done with nothing planted: then the
# tests have to pass.
#
# Lines in front of a patch:
#	test: xs_campaign		    or a Criterion program and one test of it
#	expect: WORDS			    an extended regular expression, in what the test prints
#	survives: order			    with XS_CUTS=order the campaign does not see it
#
# SETTINGS is written by CMake: how to link, and where everything is. With numbers only
# these plants are tried.
settings=$1
shift
. "$settings" || exit 1
plants=$source/tests/xstore/plants
scratch=$build/plants.$$
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
export XS_JOBS=1

fail() {
	echo "plants: $*" >&2
	exit 1
}

# say FIELD: of the patch
say() {
	sed -n "/^--- /q; s/^$1: //p" "$patch"
}

# compile FILE OBJECT: as in the build tree, but from the copy
compile() {
	command=$(awk -v want="\"file\": \"$source/$1\"" '
		/"command":/ { command = $0 }
		index($0, want) && !found { print command; found = 1 }' \
		"$build/compile_commands.json" |
		sed 's/^ *"command": "//; s/",$//; s/\\"/"/g; s/ -o [^ ]* -c .*//')
	[ -n "$command" ] || fail "$1 is not compiled in $build"
	(cd "$scratch" && eval "$command -w -o '$2' -c '$scratch/$1'") ||
		fail "$1 does not compile"
}

# link PROGRAM OBJECT...: what is planted comes before what it is planted in
link() {
	program=$1
	shift
	case $program in
	xs_campaign) set -- "$@" $campaign_objects $campaign_libs ;;
	test_xs_format) set -- "$@" $format_objects $format_libs ;;
	*) fail "no such program: $program" ;;
	esac
	$cc $ldflags -o "$scratch/$program" "$@" $libs || fail "$program does not link"
}

# run PROGRAM [TEST]: its output goes to $scratch/out
run() {
	if [ $# -gt 1 ]; then
		"$scratch/$1" --filter "$2" -j1 > "$scratch/out" 2>&1
	else
		"$scratch/$1" > "$scratch/out" 2>&1
	fi
}

plant() {
	rm -rf "$scratch"
	mkdir -p "$scratch/examples" && cp -R "$source/examples/xstore" "$scratch/examples" &&
		cp -R "$source/lib" "$source/include" "$scratch" || exit 1
	patch -d "$scratch" -p1 -s -F0 --no-backup-if-mismatch < "$patch" ||
		fail "$name does not apply any more"
	objects=
	for file in $(sed -n 's|^+++ b/||p' "$patch"); do
		case $file in
		*.c) ;;
		*) fail "$name: only .c files can be changed" ;;
		esac
		object=$scratch/$(basename "$file" .c).o
		compile "$file" "$object"
		objects="$objects $object"
	done
}

try() {
	name=$(basename "$patch" .patch)
	plant
	set -- $(say test)
	link "$1" $objects
	export XS_STATES=20000
	if run "$@"; then
		echo "plants: $name: NOT FOUND by $*"
		return 1
	fi
	if ! grep -Eq "$(say expect)" "$scratch/out"; then
		echo "plants: $name: found by $*, but it does not say '$(say expect)':"
		tail -n 20 "$scratch/out"
		return 1
	fi
	states=$(sed -n 's/.*found after \([0-9]*\) states.*/, after \1 states/p' "$scratch/out")
	message=$(grep -E -m1 "$(say expect)" "$scratch/out")
	blind=$(say survives)
	if [ -n "$blind" ]; then
		export XS_STATES=3000
		if ! XS_CUTS=$blind run "$1"; then
			echo "plants: $name: XS_CUTS=$blind was not to show it:"
			tail -n 20 "$scratch/out"
			return 1
		fi
		blind=", not with XS_CUTS=$blind"
	fi
	printf 'plants: %-28s %s%s%s: %s\n' "$name" "$*" "$states" "$blind" "$message"
}

nothing_planted() {
	mkdir -p "$scratch" || exit 1
	for program in xs_campaign test_xs_format; do
		link $program
		XS_STATES=1500 run $program || {
			cat "$scratch/out"
			fail "$program fails with nothing planted"
		}
	done
	echo "plants: nothing planted: the tests pass"
}

# wanted NUMBERS...: whether the patch is among them
wanted() {
	[ $# -gt 0 ] || return 0
	for number; do
		case $(basename "$patch") in
		"$number"-*) return 0 ;;
		esac
	done
	return 1
}

nothing_planted
nr=0 bad=0
for patch in "$plants"/*.patch; do
	wanted "$@" || continue
	nr=$((nr + 1))
	try || bad=$((bad + 1))
done
echo "plants: $nr planted, $((nr - bad)) found"
[ $nr -gt 0 ] && [ $bad -eq 0 ]
