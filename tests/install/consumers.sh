#!/bin/sh
# SPDX-License-Identifier: MIT
#
# consumers.sh PREFIX SOURCE_DIR CC CXX
#
# A user of the installed library who has pkg-config and nothing else of ours:
# every header alone and all together, in strict C11 and C++17, and programs
# that need each function there is, from the shared and from the static library.
prefix=$1 source=$2 cc=$3 cxx=$4
here=$source/tests/install
work=$prefix.work
rm -rf "$work"
mkdir -p "$work" && cd "$work" || exit 1

pc=$(find "$prefix" -name libiomap.pc)
[ -n "$pc" ] || { echo "no libiomap.pc was installed" >&2; exit 1; }
# The system's own directory stays in the search, for liburing.
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH
cflags=$(pkg-config --cflags libiomap) || exit 1
libs=$(pkg-config --libs libiomap) || exit 1
libdir=$(pkg-config --variable=libdir libiomap) || exit 1
include=$(pkg-config --variable=includedir libiomap) || exit 1
static="$libdir/libiomap.a $(pkg-config --static --libs libiomap | sed 's/-liomap//')"
LD_LIBRARY_PATH=$libdir
export LD_LIBRARY_PATH

c_flags="-std=c11 -pedantic -Wall -Werror"
cxx_flags="-std=c++17 -pedantic -Wall -Werror"
failed=0

# step WHAT COMMAND...
step() {
	what=$1
	shift
	if ! "$@" > step.log 2>&1; then
		echo "FAILED: $what" >&2
		echo "  $*" >&2
		sed 's/^/  /' step.log >&2
		failed=1
		return 1
	fi
}

# ---- each header alone
headers=$(cd "$include" && ls iomap/*.h)
for header in $headers; do
	printf '#include <%s>\nextern int iomap_consumer;\n' "$header" > alone.c
	step "$header alone in C" $cc $c_flags $cflags -fsyntax-only alone.c
	# Kernel-shaped sources are C.
	[ "$header" = iomap/linux_names.h ] && continue
	cp alone.c alone.cc
	step "$header alone in C++" $cxx $cxx_flags $cflags -fsyntax-only alone.cc
done

# ---- all of them, and the version
cat > version.c <<'END'
#include <iomap/iomap.h>
#include <stdio.h>

int main(void)
{
	return puts(iomap_version()) < 0;
}
END
sed 's/<stdio.h>/<cstdio>/; s/puts/std::puts/; s/(void)/()/' version.c > version.cc
version=$(pkg-config --modversion libiomap)
for how in shared static; do
	[ $how = shared ] && link=$libs || link=$static
	step "C program, $how" $cc $c_flags version.c -o "c_$how" $cflags $link &&
		step "C program, $how: version" sh -c "./c_$how | grep -qx '$version'"
	step "C++ program, $how" $cxx $cxx_flags version.cc -o "cxx_$how" $cflags $link &&
		step "C++ program, $how: version" sh -c "./cxx_$how | grep -qx '$version'"
done

# ---- every function there is
names=names.txt
# what libiomap-jemalloc has comes below
own=$(echo "$headers" | grep -v '^iomap/jemalloc\.h$')
(cd "$include" && awk -f "$here/api_names.awk" $own) > $names || failed=1
count=$(grep -c . $names)
if [ "$count" -lt 1 ]; then
	echo "FAILED: the headers declare nothing with IOMAP_API" >&2
	failed=1
fi
{
	echo '#include <iomap/iomap.h>'
	for header in $headers; do
		[ "$header" = iomap/linux_names.h ] || echo "#include <$header>"
	done
	echo 'typedef void (*function)(void);'
	echo 'extern const function functions[];'
	echo 'extern const void *const objects[];'
	echo 'const function functions[] = {'
	sed -n 's/^function \(.*\)/	(function)\1,/p' $names
	echo '	(function)0 };'
	echo 'const void *const objects[] = {'
	sed -n 's/^object \(.*\)/	\&\1,/p' $names
	echo '	(const void *)0 };'
	echo 'int main(void) { return functions[0] == (function)0; }'
} > every.c
for how in shared static; do
	[ $how = shared ] && link=$libs || link=$static
	step "every function, $how" $cc $c_flags -Wno-deprecated-declarations \
		every.c -o "every_$how" $cflags $link &&
		step "every function, $how: run" "./every_$how"
done

# ---- the library for jemalloc, where it was built
if [ -f "$libdir/pkgconfig/libiomap-jemalloc.pc" ]; then
	cat > hooks.c <<'END'
#include <iomap/iomap.h>
#include <iomap/jemalloc.h>

int main(void)
{
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;

	iomap_engine_opts_init(&opts);
	opts.backend = "threads";
	if (iomap_jemalloc_hooks(&opts.alloc) || iomap_engine_create(&opts, &engine) ||
	    iomap_engine_destroy(engine))
		return 1;
	iomap_jemalloc_hooks_release(&opts.alloc);
	return 0;
}
END
	link=$(pkg-config --cflags --libs libiomap-jemalloc) || failed=1
	step "hooks of jemalloc" $cc $c_flags hooks.c -o hooks $link &&
		step "hooks of jemalloc: run" ./hooks
fi

[ $failed -eq 0 ] && echo "$version: $(echo "$headers" | wc -l) headers, $count functions and objects"
exit $failed
