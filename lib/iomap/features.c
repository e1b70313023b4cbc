/* SPDX-License-Identifier: MIT */
/*
 * features.c - what this library, this process and an engine can do, and why not the rest.
 *
 * The table says which features there are; backends come before it, as many as are built in.
 * What one device can do is in iomap_bdev_limits(): devices of an engine differ.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "block/block.h"
#include "iomap/ops.h"

/* Fill in `detail` of @feature; available or not. */
typedef int feature_fn(struct iomap_engine *engine, struct iomap_feature *feature);

static void feature_say(struct iomap_feature *feature, const char *text)
{
	snprintf(feature->detail, sizeof(feature->detail), "%s", text);
}

static int feature_backend(struct iomap_engine *engine, struct iomap_feature *feature)
{
	const char *name = iomap__backend_taken(engine);

	feature_say(feature, name ? name : "no backend works, or $IOMAP_BACKEND names none that does");
	return name != NULL;
}

static int feature_fua(struct iomap_engine *engine, struct iomap_feature *feature)
{
	(void)engine;
	feature_say(feature, "IOMAP_REQ_FUA is RWF_DSYNC: the kernel flushes a device that has no FUA");
	return 1;
}

static int feature_atomic(struct iomap_engine *engine, struct iomap_feature *feature)
{
	(void)engine;
	feature_say(feature, "IOMAP_REQ_ATOMIC, on devices whose iomap_bdev_limits() allow it");
	return 1;
}

/* Whether the backend knows what is registered, and may be told. */
static int feature_registered(struct iomap_engine *engine, struct iomap_feature *feature)
{
	const char *name = iomap__backend_taken(engine);

	if (engine && engine->opts.flags & IOMAP_ENGINE_NO_REGISTER) {
		feature_say(feature, "this engine has IOMAP_ENGINE_NO_REGISTER");
		return 0;
	}
	if (!name || strcmp(name, "io_uring")) {
		snprintf(feature->detail, sizeof(feature->detail),
			 "the backend is %s, which registers nothing", name ? name : "none");
		return 0;
	}
	feature_say(feature, "as far as the limit on locked memory goes; without that, by address");
	return 1;
}

static int feature_polled(struct iomap_engine *engine, struct iomap_feature *feature)
{
	if (engine && engine->opts.flags & IOMAP_ENGINE_IOPOLL)
		iomap__iopoll_say(engine, feature->detail, sizeof(feature->detail));
	else
		feature_say(feature, "by interrupt; what devices could do is asked with IOMAP_ENGINE_IOPOLL");
	return 0;
}

static int feature_nowait(struct iomap_engine *engine, struct iomap_feature *feature)
{
	(void)engine;
	feature_say(feature, "IOMAP_REQ_NOWAIT of bios, where iomap_bdev_limits() say so; "
			     "calls on files wait");
	return 1;
}

/* What the kernel would grant is worth saying: it is what an administrator can change. */
static int feature_mmap(struct iomap_engine *engine, struct iomap_feature *feature)
{
	const int user_mode_only = 1;
	const char *grant = "full";
	int fd;

	(void)engine;
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		grant = "user mode only";
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | user_mode_only);
	}
	iomap__count(syscalls_nr);
	snprintf(feature->detail, sizeof(feature->detail),
		 "not in this version; userfaultfd here: %s", fd < 0 ? strerror(errno) : grant);
	if (fd >= 0)
		close(fd);
	return 0;
}

static int feature_checked(struct iomap_engine *engine, struct iomap_feature *feature)
{
	bool works;

	(void)engine;
	feature_say(feature, iomap__checked_say(&works));
	return works;
}

static int feature_dax(struct iomap_engine *engine, struct iomap_feature *feature)
{
	(void)engine;
	feature_say(feature, "not built: this version has no persistent memory support");
	return 0;
}

static const struct {
	const char *name;
	feature_fn *fn;
} feature_table[] = {
	{ "backend", feature_backend },
	{ "fua", feature_fua },
	{ "atomic", feature_atomic },
	{ "registered_buffers", feature_registered },
	{ "registered_files", feature_registered },
	{ "polled", feature_polled },
	{ "nowait", feature_nowait },
	{ "checked", feature_checked },
	{ "mmap", feature_mmap },
	{ "dax", feature_dax },
};

static struct iomap_feature feature_nth(struct iomap_engine *engine, unsigned nth)
{
	unsigned backends = iomap__backends_nr();
	struct iomap_feature feature = { .name = NULL };

	if (nth < backends) {
		feature.name = iomap__backend_name(nth);
		feature.available = iomap__backend_available(engine, nth, feature.detail,
							     sizeof(feature.detail));
	} else {
		feature.name = feature_table[nth - backends].name;
		feature.available = feature_table[nth - backends].fn(engine, &feature);
	}
	return feature;
}

int iomap_features(struct iomap_engine *engine, struct iomap_feature *out, size_t element_size,
		   unsigned nr)
{
	unsigned there = iomap__backends_nr() + (unsigned)iomap__array_len(feature_table), i;
	char *at = (char *)out;

	if (nr && (!out || element_size < offsetof(struct iomap_feature, detail)))
		return -EINVAL;
	if (engine && iomap__engine_forked(engine))
		return -ECHILD;
	for (i = 0; i < nr && i < there; i++, at += element_size) {
		struct iomap_feature feature = feature_nth(engine, i);

		/* a caller of a later version finds zeros behind what this one knows */
		if (element_size > sizeof(feature))
			memset(at + sizeof(feature), 0, element_size - sizeof(feature));
		memcpy(at, &feature, iomap__min(element_size, sizeof(feature)));
	}
	return (int)there;
}
