/* SPDX-License-Identifier: MIT */
/*
 * json.c - is FILE what iomap-bench writes?
 *
 *	bench_json FILE
 *
 * Checks that FILE is well-formed JSON, an array of objects with the members that bench/report.c
 * names, and that something was measured.
 */
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX 8

static const char *const members[] = { "id",	 "unit",   "ours", "peers",  "ratios",
				       "target", "met",	   "rounds", "machine" };
#define NR_MEMBERS (sizeof(members) / sizeof(members[0]))

struct parser {
	const char *start, *at;
	unsigned objects, seen, measured; /* seen: bits of members[] of this object */
};

static bool value(struct parser *p, unsigned depth);

static char peek(struct parser *p)
{
	while (isspace((unsigned char)*p->at))
		p->at++;
	return *p->at;
}

static bool take(struct parser *p, char c)
{
	if (peek(p) != c)
		return false;
	p->at++;
	return true;
}

static bool string(struct parser *p, char *out, size_t bytes)
{
	size_t n = 0;

	if (!take(p, '"'))
		return false;
	for (; *p->at != '"'; p->at++) {
		if ((unsigned char)*p->at < ' ')
			return false;
		if (*p->at == '\\') {
			p->at++;
			if (!*p->at || !strchr("\"\\/bfnrtu", *p->at))
				return false;
		}
		if (n + 1 < bytes)
			out[n++] = *p->at;
	}
	out[n] = '\0';
	p->at++;
	return true;
}

static bool number(struct parser *p)
{
	char *end;

	/* strtod also takes inf and nan */
	if (*p->at != '-' && !isdigit((unsigned char)*p->at))
		return false;
	strtod(p->at, &end);
	if (end == p->at)
		return false;
	p->at = end;
	return true;
}

static bool word(struct parser *p)
{
	static const char *const words[] = { "true", "false", "null" };

	for (unsigned i = 0; i < 3; i++)
		if (strncmp(p->at, words[i], strlen(words[i])) == 0) {
			p->at += strlen(words[i]);
			return true;
		}
	return false;
}

static void member(struct parser *p, const char *name, unsigned depth)
{
	if (depth == 1)
		for (unsigned i = 0; i < NR_MEMBERS; i++)
			if (strcmp(name, members[i]) == 0)
				p->seen |= 1U << i;
	if (strcmp(name, "median") == 0)
		p->measured++;
}

static bool object(struct parser *p, unsigned depth)
{
	char name[64];

	if (depth == 1) {
		p->objects++;
		p->seen = 0;
	}
	if (take(p, '}'))
		return depth > 1;
	do {
		if (!string(p, name, sizeof(name)) || !take(p, ':'))
			return false;
		member(p, name, depth);
		if (!value(p, depth + 1))
			return false;
	} while (take(p, ','));
	return take(p, '}') && (depth > 1 || p->seen == (1U << NR_MEMBERS) - 1);
}

static bool array(struct parser *p, unsigned depth)
{
	if (take(p, ']'))
		return true;
	do {
		if (!value(p, depth + 1))
			return false;
	} while (take(p, ','));
	return take(p, ']');
}

static bool value(struct parser *p, unsigned depth)
{
	char text[256], c = peek(p);

	if (depth > DEPTH_MAX)
		return false;
	if (take(p, '{'))
		return object(p, depth);
	if (take(p, '['))
		return array(p, depth);
	if (c == '"')
		return string(p, text, sizeof(text));
	return word(p) || number(p);
}

int main(int argc, char **argv)
{
	static char text[4 << 20];
	struct parser p = { .start = text, .at = text };
	FILE *from = argc == 2 ? fopen(argv[1], "r") : NULL;

	if (!from || !fread(text, 1, sizeof(text) - 1, from)) {
		fprintf(stderr, "usage: bench_json FILE, with something in it\n");
		return 1;
	}
	fclose(from);
	if (peek(&p) != '[' || !value(&p, 0) || peek(&p)) {
		fprintf(stderr, "not what iomap-bench writes, at byte %td: %.40s\n", p.at - p.start,
			p.at);
		return 1;
	}
	printf("%u objects, %u medians\n", p.objects, p.measured);
	return p.objects && p.measured ? 0 : 1;
}
