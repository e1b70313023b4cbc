/* SPDX-License-Identifier: MIT */
/*
 * lines.c - lines of text that are gathered under locks and told without any.
 *
 * One line after the other, each with its 0, in memory that grows; what finds no memory is
 * counted, and the last line tells how many these were.
 */
#include <stdio.h>

#include "base/base.h"

#define LINES_BYTES_MAX 256U /* of one line */
#define LINES_ROOM 4096U     /* at first */

static bool lines_make_room(struct iomap__lines *lines, size_t bytes)
{
	size_t room = iomap__max(lines->room, LINES_ROOM);
	char *text;

	if (lines->used + bytes <= lines->room)
		return true;
	while (room < lines->used + bytes)
		room *= 2;
	text = iomap__alloc(lines->env, room);
	if (!text)
		return false;
	if (lines->used)
		memcpy(text, lines->text, lines->used);
	iomap__free(lines->env, lines->text, lines->room);
	lines->text = text;
	lines->room = room;
	return true;
}

void iomap__lines_add(struct iomap__lines *lines, const char *fmt, ...)
{
	char line[LINES_BYTES_MAX];
	size_t bytes;
	va_list args;

	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	bytes = strlen(line) + 1;
	if (!lines_make_room(lines, bytes)) {
		lines->lost++;
		return;
	}
	memcpy(lines->text + lines->used, line, bytes);
	lines->used += bytes;
}

void iomap__lines_tell(struct iomap__lines *lines, void (*line)(void *ctx, const char *text),
		       void *ctx)
{
	char text[LINES_BYTES_MAX];

	for (size_t at = 0; at < lines->used; at += strlen(lines->text + at) + 1)
		line(ctx, lines->text + at);
	if (lines->lost) {
		snprintf(text, sizeof(text), "%llu lines are missing: there was no memory for them",
			 (unsigned long long)lines->lost);
		line(ctx, text);
	}
	iomap__free(lines->env, lines->text, lines->room);
	*lines = (struct iomap__lines){ .env = lines->env };
}
