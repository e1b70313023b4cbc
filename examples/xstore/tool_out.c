/* SPDX-License-Identifier: MIT */
/*
 * tool_out.c - what the xstore program says: one line on standard error about what is wrong,
 * and with --json one document on standard output.
 *
 * The document is written as the command goes on; out_finish() adds the status and ends it.  A
 * command ends what it has opened, however it ends itself.  Names are bytes, JSON is UTF-8:
 * see json_name().
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tool.h"

#define DEPTH_MAX 8

static struct {
	bool wanted;
	unsigned depth;
	char closing[DEPTH_MAX];
	bool empty[DEPTH_MAX]; /* nothing in it yet */
	char error[1024];      /* what was complained about first */
} doc;

/* ---- lines ---- */

int complain(int status, const char *format, ...)
{
	va_list args;

	if (doc.wanted && !doc.error[0]) {
		va_start(args, format);
		vsnprintf(doc.error, sizeof(doc.error), format, args);
		va_end(args);
	}
	/* so that lines of both streams come in order where both go to one place */
	fflush(stdout);
	fputs("xstore: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return status;
}

const char *printable(const char *text)
{
	static char lines[2][4 * PATH_MAX + 1];
	static unsigned turn;
	char *line = lines[turn++ % 2], *to = line;

	for (; *text && to < line + sizeof(lines[0]) - 4; text++) {
		unsigned char byte = (unsigned char)*text;

		if (byte < ' ' || byte == 0x7f || byte == '\\')
			to += sprintf(to, "\\%03o", byte);
		else
			*to++ = *text;
	}
	*to = '\0';
	return line;
}

int status_of_errno(int error, int other)
{
	return error == EACCES || error == EPERM || error == EROFS ? EX_NOPERM : other;
}

static int status_of(int error)
{
	switch (error) {
	case XS_ENOTSTORE:
	case XS_EDAMAGED:
	case XS_EUNKNOWN:
		return EX_DATAERR;
	case -ENOENT:
		return EX_NOINPUT;
	case -ENOSPC:
	case -EFBIG:
		return EX_CANTCREAT;
	case -ENAMETOOLONG:
		return EX_USAGE;
	case -EBUSY:
		return EX_TEMPFAIL;
	case -ENOMEM:
		return EX_OSERR;
	default:
		return status_of_errno(-error, EX_IOERR);
	}
}

int complain_error(const char *what, int error, const struct xs_why *why)
{
	const char *text = strerror(-error);

	if (why && why->text[0])
		text = why->text;
	else if (error == -ENOENT)
		text = "no such object";
	else if (error == -ENOSPC)
		text = "the store is full";
	else if (error == -EBUSY)
		text = "in use by another program";
	return complain(status_of(error), "%s: %s", printable(what), text);
}

int complain_file(int status, const char *dir, const char *name, const char *text)
{
	return complain(status, "%s/%s: %s", printable(dir), printable(name), text);
}

/* ---- JSON ---- */

bool json_wanted(void)
{
	return doc.wanted;
}

/* @text is one of ours: plain ASCII without quotes. */
static void put_key(const char *key)
{
	if (doc.depth && !doc.empty[doc.depth - 1])
		putchar(',');
	if (doc.depth)
		doc.empty[doc.depth - 1] = false;
	if (key)
		printf("\"%s\":", key);
}

static void open_bracket(const char *key, char opening, char closing)
{
	if (!doc.wanted)
		return;
	put_key(key);
	putchar(opening);
	doc.empty[doc.depth] = true;
	doc.closing[doc.depth++] = closing;
}

void json_object(const char *key)
{
	open_bracket(key, '{', '}');
}

void json_array(const char *key)
{
	open_bracket(key, '[', ']');
}

void json_end(void)
{
	if (doc.wanted)
		putchar(doc.closing[--doc.depth]);
}

void json_number(const char *key, uint64_t number)
{
	if (!doc.wanted)
		return;
	put_key(key);
	printf("%" PRIu64, number);
}

void json_fraction(const char *key, double number)
{
	if (!doc.wanted)
		return;
	put_key(key);
	printf("%.6f", number);
}

void json_bool(const char *key, bool value)
{
	if (!doc.wanted)
		return;
	put_key(key);
	fputs(value ? "true" : "false", stdout);
}

/*
 * Bytes of the UTF-8 character at @at, 0 when there is none: stray or missing continuations,
 * longer forms than needed, surrogates and what lies beyond U+10FFFF are no characters.
 */
static unsigned utf8_bytes(const unsigned char *at)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	unsigned bytes = at[0] < 0x80		? 1 :
			 (at[0] & 0xe0) == 0xc0 ? 2 :
			 (at[0] & 0xf0) == 0xe0 ? 3 :
			 (at[0] & 0xf8) == 0xf0 ? 4 :
						  0;
	uint32_t code = bytes > 1 ? at[0] & (0x7fU >> bytes) : at[0];

	for (unsigned i = 1; i < bytes; i++) {
		if ((at[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (at[i] & 0x3fU);
	}
	if (bytes > 1 && (code < least[bytes] || code > 0x10ffff || (code >> 11) == 0x1b))
		return 0;
	return bytes;
}

/* Return: whether all of it was UTF-8. */
static bool put_text(const char *text)
{
	const unsigned char *at = (const unsigned char *)text;
	bool all = true;

	putchar('"');
	while (*at) {
		unsigned bytes = utf8_bytes(at);

		if (!bytes) {
			fputs("\\ufffd", stdout);
			all = false;
			bytes = 1;
		} else if (*at == '"' || *at == '\\') {
			printf("\\%c", *at);
		} else if (*at < ' ' || *at == 0x7f) {
			printf("\\u%04x", *at);
		} else {
			fwrite(at, 1, bytes, stdout);
		}
		at += bytes;
	}
	putchar('"');
	return all;
}

void json_name(const char *key, const char *name)
{
	if (!doc.wanted)
		return;
	put_key(key);
	if (put_text(name))
		return;
	printf(",\"%s_hex\":\"", key);
	for (; *name; name++)
		printf("%02x", (unsigned char)*name);
	putchar('"');
}

void json_start(bool wanted, const char *command)
{
	doc.wanted = wanted;
	json_object(NULL);
	json_name("command", command);
}

int out_finish(int status)
{
	json_number("status", (uint64_t)status);
	if (status != EX_OK && doc.error[0])
		json_name("error", doc.error);
	json_end();
	if (doc.wanted)
		putchar('\n');
	if ((fflush(stdout) != 0 || ferror(stdout)) && status == EX_OK)
		status = complain(EX_IOERR, "standard output: %s", strerror(errno ? errno : EIO));
	return status;
}
