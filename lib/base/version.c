/* SPDX-License-Identifier: MIT */
/*
 * version.c - the version of the library that is loaded.
 */
#include "base/base.h"

#define VERSION_STR2(x) #x
#define VERSION_STR(x) VERSION_STR2(x)

#define VERSION_TEXT \
	VERSION_STR(IOMAP_VERSION_MAJOR) \
	"." VERSION_STR(IOMAP_VERSION_MINOR) "." VERSION_STR(IOMAP_VERSION_PATCH)

const char *iomap_version(void)
{
	return VERSION_TEXT;
}
