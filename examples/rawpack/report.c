/* SPDX-License-Identifier: MIT */
/* report.c - messages, the progress bar, summaries. */
#include "rawpack.h"

#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BAR_CELLS 40
#define REDRAW_NS 50000000U

static struct {
	const char *what;
	uint64_t done, total; /* bytes */
	uint64_t drawn_ns;
	bool active; /* on a terminal */
} bar;

uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static double mb(uint64_t bytes)
{
	return (double)bytes / 1e6;
}

static double seconds(uint64_t ns)
{
	return (double)ns / 1e9;
}

/* ---- lines ---- */

static void wipe_bar(void)
{
	if (bar.active)
		fputs("\r\033[K", stdout);
	/* So that lines of both streams come in order where both go to one place. */
	fflush(stdout);
}

void complain(const char *format, ...)
{
	va_list args;

	wipe_bar();
	fputs("rawpack: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

void say(const char *format, ...)
{
	va_list args;

	wipe_bar();
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
}

const char *printable(const char *name)
{
	static char text[4 * PATH_MAX + 1];
	char *to = text;

	for (; *name && to < text + sizeof(text) - 4; name++) {
		unsigned char byte = (unsigned char)*name;

		if (byte < ' ' || byte == 0x7f || byte == '\\')
			to += sprintf(to, "\\%03o", byte);
		else
			*to++ = *name;
	}
	*to = '\0';
	return text;
}

/* ---- progress ---- */

static void draw_bar(void)
{
	int cells = bar.total ? (int)(BAR_CELLS * bar.done / bar.total) : BAR_CELLS;

	printf("\r%-22s [%.*s%*s] %3d%% %.0f MB", bar.what, cells,
	       "########################################", BAR_CELLS - cells, "",
	       bar.total ? (int)(100 * bar.done / bar.total) : 100, mb(bar.done));
	fflush(stdout);
}

void progress_start(const char *what, uint64_t nr, const char *unit, uint64_t bytes)
{
	bar.what = what;
	bar.done = 0;
	bar.total = bytes;
	bar.drawn_ns = 0;
	bar.active = isatty(STDOUT_FILENO);
	if (!bar.active) {
		say("%s: %" PRIu64 " %s, %.1f MB", what, nr, unit, mb(bytes));
		fflush(stdout);
	}
	progress_add(0);
}

void progress_add(uint64_t bytes)
{
	uint64_t now;

	if (!bar.active)
		return;
	bar.done += bytes;
	now = now_ns();
	if (now - bar.drawn_ns < REDRAW_NS)
		return;
	bar.drawn_ns = now;
	draw_bar();
}

void progress_end(void)
{
	wipe_bar();
	bar.active = false;
}

/* ---- summaries ---- */

void print_summary(const struct session *session)
{
	const struct iomap_engine_stats *stats = &session->stats;
	double elapsed = seconds(session->elapsed_ns);
	uint64_t outside_ns = session->hash_ns + session->source_ns;
	uint64_t inside_ns = session->elapsed_ns > outside_ns ? session->elapsed_ns - outside_ns :
								0;

	say("%s %" PRIu64 " %s, %.1f MB in %.2f s, %.1f MB/s", session->what, session->nr,
	    session->unit, mb(session->bytes), elapsed,
	    elapsed > 0 ? mb(session->bytes) / elapsed : 0.0);
	say("  time       %.2f s libiomap (%s), %.2f s SHA-256, %.2f s source files",
	    seconds(inside_ns), session->backend, seconds(session->hash_ns),
	    seconds(session->source_ns));
	say("  cache      %.1f MB, %" PRIu64 " hits, %" PRIu64 " misses, %" PRIu64 " evictions",
	    mb(stats->cache_bytes), stats->hits_nr, stats->misses_nr, stats->evictions_nr);
	say("  readahead  %.1f MB, %.1f MB of it used", mb(stats->readahead_bytes),
	    mb(stats->readahead_used_bytes));
	say("  writeback  %" PRIu64 " ioends of %.1f blocks, %.1f MB", stats->ioends_nr,
	    stats->ioends_nr ? (double)stats->ioend_blocks_nr / (double)stats->ioends_nr : 0.0,
	    mb(stats->ioend_bytes));
	if (session->disk_read_known)
		say("  disk       %.1f MB read (/proc/self/io: %" PRIu64 " bytes)",
		    mb(session->disk_read_bytes), session->disk_read_bytes);
}
