/* SPDX-License-Identifier: MIT */
/*
 * rawpack.h - what the parts of rawpack share.
 *
 *   main.c      command line, signals
 *   scan.c      the regular files below a directory
 *   manifest.c  what lies where in an image
 *   session.c   one opening of the image by the library, timed
 *   pack.c      rawpack pack
 *   verify.c    rawpack verify
 *   pieces.c    the pieces that verify rewrites
 *   hash.c      SHA-256
 *   report.c    messages, the progress bar, summaries
 *
 * Functions that return a status return EX_OK or another code of sysexits.h, or
 * STATUS_MISMATCH.  Whoever finds an error prints it, once; callers only pass the status
 * on.  One thread does all of it.
 */
#ifndef RAWPACK_H
#define RAWPACK_H

#include <rawfile.h>

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sysexits.h>

#define STATUS_MISMATCH 1 /* bytes are not what they should be */
#define DIGEST_BYTES 32
#define CHUNK_BYTES ((size_t)256 * 1024) /* of one read or write */

struct options {
	const char *image;
	const char *dir;
	const char *backend;  /* NULL: the library chooses */
	uint64_t cache_bytes; /* 0: the library's default */
	bool buffered;	      /* let the kernel cache where O_DIRECT is refused */
};

/* ---- main.c ---- */

/* A signal asked us to stop.  Says so the first time. */
bool interrupted(void);

/* ---- report.c ---- */

/* One line to standard error, after taking a progress bar away. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* One line to standard output, likewise. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* @name with what would upset a terminal or a reader of lines as \ooo; until the next call. */
const char *printable(const char *name);

/* A bar on a terminal; one line when it starts where there is none. */
void progress_start(const char *what, uint64_t nr, const char *unit, uint64_t bytes);
void progress_add(uint64_t bytes);
void progress_end(void);

uint64_t now_ns(void);

struct session;
void print_summary(const struct session *session);

/* ---- hash.c ---- */

struct hash;
/* NULL when libcrypto has no SHA-256 for us (complained about). */
struct hash *hash_create(void);
void hash_free(struct hash *hash);
void hash_start(struct hash *hash);
void hash_add(struct hash *hash, const void *data, size_t bytes);
/* Return: status. */
int hash_finish(struct hash *hash, uint8_t digest[DIGEST_BYTES]);
/* Time spent in hash_add() since the hash was created. */
uint64_t hash_ns(const struct hash *hash);

/* ---- manifest.c ---- */

struct object {
	char *name;   /* below the directory; owned by the manifest */
	uint64_t pos; /* byte in the image */
	uint64_t bytes;
	uint8_t digest[DIGEST_BYTES]; /* of the source when it was packed */
};

struct manifest {
	struct object *objects; /* in the order of their places */
	size_t nr, room;
	uint64_t data_end; /* byte after the last object */
};

/* Byte of the image where the first object begins: behind the header, and odd on purpose. */
#define DATA_START 127

/* Add an object with a copy of @name; NULL when there is no memory (complained about). */
struct object *manifest_add(struct manifest *manifest, const char *name, size_t name_bytes);
void manifest_free(struct manifest *manifest);
/* Sum of the objects. */
uint64_t manifest_object_bytes(const struct manifest *manifest);
/* Bytes an image needs for @manifest. */
uint64_t manifest_image_bytes(const struct manifest *manifest);
/* Write it behind the objects, and then, when all that is durable, the header. */
int manifest_store(struct session *session, const struct manifest *manifest, struct hash *hash);
/* Make the image one that rawpack refuses, durably: an unfinished one must not look whole. */
int manifest_invalidate(struct session *session);
/* Read and check.  *@manifest is filled, to be freed, only with EX_OK. */
int manifest_load(struct session *session, struct manifest *manifest, struct hash *hash);

/* ---- scan.c ---- */

/* Every regular file below options->dir, sorted, with its size, but for the image itself. */
int scan(const struct options *options, struct manifest *manifest);

/* ---- session.c ---- */

/* From the opening of the image to its closing, on an engine, and so a cache, of its own. */
struct session {
	const char *what; /* was done, for the summary */
	const char *path;
	const char *backend;
	struct iomap_engine *engine;
	struct rawfile *image;
	const char *unit;   /* what `nr` counts */
	uint64_t nr, bytes; /* done, set by whoever does it */
	uint64_t started_ns;
	uint64_t elapsed_ns;
	uint64_t hash_ns, source_ns; /* of these: hashing, reading source files */
	uint64_t disk_read_bytes;    /* /proc/self/io at the start; then what was added */
	bool disk_read_known;
	bool buffered;
	struct iomap_engine_stats stats; /* at the end */
};

int session_open(struct session *session, const char *what, const struct options *options,
		 const char *path);
/* All @bytes, or a status. */
int session_read(struct session *session, void *buffer, size_t bytes, uint64_t pos);
int session_write(struct session *session, const void *buffer, size_t bytes, uint64_t pos);
int session_sync(struct session *session);
/* Stop the clock, print the summary if @status is EX_OK, close.  Return: the first failure. */
int session_close(struct session *session, int status);
/* Whether the objects came from the disk: STATUS_MISMATCH when they did not. */
int session_check_cold(const struct session *session);

/* ---- pieces.c ---- */

struct piece {
	uint64_t pos; /* byte in the image */
	size_t bytes;
	uint8_t *saved; /* what was there */
};

struct pieces {
	struct piece *list; /* by rising pos, none touching another */
	size_t nr;
	uint64_t bytes;
	uint8_t *memory;
};

/* Choose pieces in [start, end), the same ones each time. */
int pieces_plan(struct pieces *pieces, uint64_t start, uint64_t end);
void pieces_free(struct pieces *pieces);
/* [pos, pos + bytes) of the image is in @buffer: keep what lies in pieces. */
void pieces_save(const struct pieces *pieces, const uint8_t *buffer, size_t bytes, uint64_t pos);
/* Likewise: apply the pattern to what lies in pieces.  Doing it twice undoes it. */
void pieces_toggle(const struct pieces *pieces, uint8_t *buffer, size_t bytes, uint64_t pos);
/* Write all pieces in random order: what was there, with the pattern if @patterned. */
int pieces_write(const struct pieces *pieces, struct session *session, bool patterned);

/* ---- the commands ---- */

int pack(const struct options *options);
int verify(const struct options *options);

#endif
