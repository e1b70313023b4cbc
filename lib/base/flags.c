/* SPDX-License-Identifier: MIT */
/*
 * flags.c - the names of the flag families, for logs.
 *
 * The tables stand here once; a flag that is added to a public header is added to its table.
 */
#include <stdio.h>

#include <iomap/bio.h>
#include <iomap/direct.h>
#include <iomap/file.h>
#include <iomap/flags.h>
#include <iomap/folio.h>
#include <iomap/writeback.h>

#include "base/base.h"

struct flags_name {
	uint64_t bits;
	const char *name;
};

/* Indexed by the type, which is a number. */
static const char *const flags_types[] = {
	[IOMAP_HOLE] = "HOLE",		 [IOMAP_DELALLOC] = "DELALLOC", [IOMAP_MAPPED] = "MAPPED",
	[IOMAP_UNWRITTEN] = "UNWRITTEN", [IOMAP_INLINE] = "INLINE",
};

static const struct flags_name flags_mapping[] = {
	{ IOMAP_F_NEW, "NEW" },
	{ IOMAP_F_DIRTY, "DIRTY" },
	{ IOMAP_F_SHARED, "SHARED" },
	{ IOMAP_F_MERGED, "MERGED" },
	{ IOMAP_F_XATTR, "XATTR" },
	{ IOMAP_F_BOUNDARY, "BOUNDARY" },
	{ IOMAP_F_ANON_WRITE, "ANON_WRITE" },
	{ IOMAP_F_ATOMIC_BIO, "ATOMIC_BIO" },
	{ IOMAP_F_ZEROES_UNWRITTEN, "ZEROES_UNWRITTEN" },
	{ IOMAP_F_PRIVATE, "PRIVATE" },
	{ IOMAP_F_SIZE_CHANGED, "SIZE_CHANGED" },
	{ IOMAP_F_STALE, "STALE" },
	{ 0, NULL },
};

static const struct flags_name flags_operation[] = {
	{ IOMAP_WRITE, "WRITE" },
	{ IOMAP_ZERO, "ZERO" },
	{ IOMAP_REPORT, "REPORT" },
	{ IOMAP_FAULT, "FAULT" },
	{ IOMAP_DIRECT, "DIRECT" },
	{ IOMAP_NOWAIT, "NOWAIT" },
	{ IOMAP_OVERWRITE_ONLY, "OVERWRITE_ONLY" },
	{ IOMAP_UNSHARE, "UNSHARE" },
	{ IOMAP_DAX, "DAX" },
	{ IOMAP_ATOMIC, "ATOMIC" },
	{ IOMAP_DONTCACHE, "DONTCACHE" },
	{ 0, NULL },
};

static const struct flags_name flags_iocb[] = {
	{ IOMAP_IOCB_APPEND, "APPEND" },
	{ IOMAP_IOCB_DSYNC, "DSYNC" },
	{ IOMAP_IOCB_SYNC, "SYNC" },
	{ IOMAP_IOCB_DIRECT, "DIRECT" },
	{ IOMAP_IOCB_NOWAIT, "NOWAIT" },
	{ IOMAP_IOCB_DONTCACHE, "DONTCACHE" },
	{ IOMAP_IOCB_CHECKED, "CHECKED" },
	{ IOMAP_IOCB_NOTHROTTLE, "NOTHROTTLE" },
	{ IOMAP_IOCB_HIPRI, "HIPRI" },
	{ IOMAP_IOCB_ATOMIC, "ATOMIC" },
	{ IOMAP_IOCB_WRITE, "WRITE" },
	{ 0, NULL },
};

/* The operation is the low 8 bits; flags_format() treats it as a number. */
static const char *const flags_req_ops[] = {
	[IOMAP_REQ_OP_READ] = "READ",
	[IOMAP_REQ_OP_WRITE] = "WRITE",
	[IOMAP_REQ_OP_FLUSH] = "FLUSH",
	[IOMAP_REQ_OP_DISCARD] = "DISCARD",
	[IOMAP_REQ_OP_WRITE_ZEROES] = "WRITE_ZEROES",
};

static const struct flags_name flags_req[] = {
	{ IOMAP_REQ_SYNC, "SYNC" },
	{ IOMAP_REQ_META, "META" },
	{ IOMAP_REQ_FUA, "FUA" },
	{ IOMAP_REQ_PREFLUSH, "PREFLUSH" },
	{ IOMAP_REQ_RAHEAD, "RAHEAD" },
	{ IOMAP_REQ_BACKGROUND, "BACKGROUND" },
	{ IOMAP_REQ_NOWAIT, "NOWAIT" },
	{ IOMAP_REQ_POLLED, "POLLED" },
	{ IOMAP_REQ_ATOMIC, "ATOMIC" },
	{ 0, NULL },
};

static const struct flags_name flags_ioend[] = {
	{ IOMAP_IOEND_SHARED, "SHARED" },
	{ IOMAP_IOEND_UNWRITTEN, "UNWRITTEN" },
	{ IOMAP_IOEND_BOUNDARY, "BOUNDARY" },
	{ IOMAP_IOEND_DONTCACHE, "DONTCACHE" },
	{ 0, NULL },
};

static const struct flags_name flags_open[] = {
	{ IOMAP_O_DIRECT, "DIRECT" },
	{ IOMAP_O_APPEND, "APPEND" },
	{ IOMAP_O_DSYNC, "DSYNC" },
	{ IOMAP_O_SYNC, "SYNC" },
	{ 0, NULL },
};

static const struct flags_name flags_dio[] = {
	{ IOMAP_DIO_FORCE_WAIT, "FORCE_WAIT" },
	{ IOMAP_DIO_OVERWRITE_ONLY, "OVERWRITE_ONLY" },
	{ IOMAP_DIO_PARTIAL, "PARTIAL" },
	{ IOMAP_DIO_BOUNCE, "BOUNCE" },
	{ IOMAP_DIO_UNWRITTEN, "UNWRITTEN" },
	{ IOMAP_DIO_COW, "COW" },
	{ 0, NULL },
};

static const struct flags_name flags_pin[] = {
	{ IOMAP_PIN_NOREAD, "NOREAD" },
	{ 0, NULL },
};

/*
 * A family: the bits of @number_mask are a number that indexes @numbers, the others are
 * flags of @bits.
 */
static const struct flags_family {
	uint64_t number_mask;
	const char *const *numbers;
	size_t nr_numbers;
	const struct flags_name *bits;
} flags_families[] = {
	[IOMAP_FAMILY_TYPE] = { UINT64_MAX, flags_types, iomap__array_len(flags_types), NULL },
	[IOMAP_FAMILY_MAPPING] = { 0, NULL, 0, flags_mapping },
	[IOMAP_FAMILY_OPERATION] = { 0, NULL, 0, flags_operation },
	[IOMAP_FAMILY_IOCB] = { 0, NULL, 0, flags_iocb },
	[IOMAP_FAMILY_REQ] = { IOMAP_REQ_OP_MASK, flags_req_ops, iomap__array_len(flags_req_ops),
			       flags_req },
	[IOMAP_FAMILY_IOEND] = { 0, NULL, 0, flags_ioend },
	[IOMAP_FAMILY_OPEN] = { 0, NULL, 0, flags_open },
	[IOMAP_FAMILY_DIO] = { 0, NULL, 0, flags_dio },
	[IOMAP_FAMILY_PIN] = { 0, NULL, 0, flags_pin },
};

/* Text that grows behind the end of its buffer, as snprintf counts. */
struct flags_text {
	char *buf;
	size_t size;
	size_t len;
};

static void flags_put(struct flags_text *text, const char *part)
{
	for (; *part; part++, text->len++)
		if (text->len + 1 < text->size)
			text->buf[text->len] = *part;
}

static void flags_put_word(struct flags_text *text, const char *word)
{
	if (text->len)
		flags_put(text, "|");
	flags_put(text, word);
}

static void flags_put_hex(struct flags_text *text, uint64_t bits)
{
	char hex[24];

	snprintf(hex, sizeof(hex), "0x%llx", (unsigned long long)bits);
	flags_put_word(text, hex);
}

int iomap_format_flags(enum iomap_flag_family family, uint64_t flags, char *buf, size_t size)
{
	struct flags_text text = { .buf = buf, .size = size };
	const struct flags_family *table;
	uint64_t number;

	if ((unsigned)family >= iomap__array_len(flags_families))
		return -EINVAL;
	table = &flags_families[family];
	number = flags & table->number_mask;
	flags &= ~table->number_mask;

	if (table->numbers && number < table->nr_numbers && table->numbers[number])
		flags_put_word(&text, table->numbers[number]);
	else if (number)
		flags_put_hex(&text, number);

	for (const struct flags_name *name = table->bits; name && name->name; name++) {
		if ((flags & name->bits) != name->bits)
			continue;
		flags_put_word(&text, name->name);
		flags &= ~name->bits;
	}
	if (flags)
		flags_put_hex(&text, flags);
	if (!text.len)
		flags_put(&text, "0");
	if (size)
		buf[iomap__min(text.len, size - 1)] = '\0';
	return (int)text.len;
}
