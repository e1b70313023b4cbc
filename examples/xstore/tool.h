/* SPDX-License-Identifier: MIT */
/*
 * tool.h - what the files of the xstore program share.
 *
 *   tool.c          the command line, signals
 *   tool_session.c  a store in use, and the figures of what was done
 *   tool_out.c      what is said: lines, JSON
 *   tool_meta.c     mkfs, ls, stat, map, rm, truncate, check
 *   tool_data.c     put, get; copying between files and objects
 *   tool_clone.c    cp, unshare
 *   tool_space.c    punch, zero, fallocate
 *   tool_tree.c     the regular files below a directory
 *   tool_import.c   import
 *   tool_export.c   export
 *   tool_verify.c   verify
 *   tool_pieces.c   rewrite, and what verify expects after it
 *
 * Functions that return a status return EX_OK or another code of sysexits.h.  Whoever finds an
 * error says so, once, in one line on standard error; callers only pass the status on.  One
 * thread does all of it.
 */
#ifndef XSTORE_TOOL_H
#define XSTORE_TOOL_H

#include <sys/stat.h>
#include <sysexits.h>

#include "store.h"

/* Of one read or write; whole blocks. */
#define CHUNK_BYTES ((size_t)1 << 20)

/* The command line. */
struct request {
	const char *command;
	const char *path;
	const char *name;    /* of an object, or NULL */
	const char *arg;     /* FILE, NEW-NAME, SIZE, DIR or OFFSET, or NULL */
	const char *arg2;    /* LENGTH, or NULL */
	uint64_t size;	     /* --size, 0: not given */
	const char *for_dir; /* --for, or NULL */
	uint64_t cache_bytes;
	const char *backend;
	uint64_t seed;	/* --seed */
	unsigned given; /* OPTION_xxx */
};

#define OPTION_SIZE 0x1U
#define OPTION_FOR 0x2U
#define OPTION_FORCE 0x4U
#define OPTION_DIRECT 0x8U
#define OPTION_SEED 0x10U
#define OPTION_RESTORE 0x20U
#define OPTION_JSON 0x40U
#define OPTION_STATS 0x80U
#define OPTION_BUFFERED 0x100U
#define OPTION_CACHE 0x200U
#define OPTION_BACKEND 0x400U
#define OPTION_HELP 0x800U
#define OPTION_REFLINK 0x1000U
#define OPTION_KEEP_SIZE 0x2000U

/* ---- tool.c ---- */

/* A signal has asked us to stop; only after interrupts_catch(). */
bool interrupted(void);
/* From here on SIGINT, SIGTERM and SIGHUP make interrupted() true, and kill us no more. */
void interrupts_catch(void);
/* Whether it can be that of an object, or is NULL.  Return: status, complained about. */
int check_name(const char *name);

/* ---- tool_session.c ---- */

/* A store in use. */
struct session {
	const struct request *request;
	struct iomap_engine *engine;
	struct iomap_bdev *bdev;
	struct xs_store *store; /* NULL for commands that work on the device */
	uint64_t started_ns;
	struct iomap_alloc_hooks alloc; /* jemalloc's, where it is built in */
};

/* The store's device, and with @mount the store.  session_close() in any case. */
int session_open(struct session *session, const struct request *request, bool readonly, bool mount);
/* Whether this is the store itself. */
bool is_own_store(const struct session *session, const struct stat *found);
/* Return: @status, or if that is EX_OK that of closing. */
int session_close(struct session *session, int status);
/* "@verb 12 objects, 3.4 MB in 0.05 s, ...", and with --stats what the library did; or JSON. */
void say_figures(struct session *session, const char *verb, uint64_t nr, const char *unit,
		 uint64_t bytes);

/* ---- tool_out.c ---- */

/* One line on standard error.  Return: @status. */
__attribute__((format(printf, 2, 3))) int complain(int status, const char *format, ...);
/* The same about an error of the store; @why may be NULL. */
int complain_error(const char *what, int error, const struct xs_why *why);
/* About file @name of directory @dir. */
int complain_file(int status, const char *dir, const char *name, const char *text);
/*
 * A name or path as it can be printed: control characters and backslashes as \ooo.  The
 * result of the last call but one is still there.
 */
const char *printable(const char *text);
/* EX_NOPERM for what is not permitted, else @other. */
int status_of_errno(int error, int other);

/*
 * The JSON document of a command, if @wanted; else these do nothing.  @key is NULL in arrays.
 * A name has whatever is not UTF-8 replaced by U+FFFD, and if there was such, its bytes
 * follow as @key_hex.
 */
void json_start(bool wanted, const char *command);
bool json_wanted(void);
void json_object(const char *key);
void json_array(const char *key);
void json_end(void); /* of the innermost object or array */
void json_number(const char *key, uint64_t number);
void json_fraction(const char *key, double number);
void json_bool(const char *key, bool value);
void json_name(const char *key, const char *name);
/* Ends the document, with the status and what was complained about first.  Return: status. */
int out_finish(int status);

/* ---- tool_meta.c ---- */

int tool_mkfs(struct session *session);
int tool_ls(struct session *session);
int tool_stat(struct session *session);
int tool_map(struct session *session);
int tool_rm(struct session *session);
int tool_truncate(struct session *session);
int tool_check(struct session *session);
/* Before the store is opened for mkfs: find its size, make the file. */
int mkfs_prepare(struct request *request);
/* Digits and perhaps K, M, G or T. */
bool parse_size(const char *text, uint64_t *out);

/* ---- tool_data.c ---- */

int tool_put(struct session *session);
int tool_get(struct session *session);

/* Whose fault it is that a copy has failed. */
enum copy_side { COPY_STORE, COPY_FILE, COPY_INTERRUPTED };

/*
 * Copy all of regular file @fd into a new object; holes stay holes.  *@bytes: its size.
 * @chunk: CHUNK_BYTES, as all copies here.  Return: 0 or -errno, and *@side.
 */
int copy_in(struct xs_object *object, struct iomap_file *file, int fd, char *chunk, uint64_t *bytes,
	    enum copy_side *side);
/* Copy the object of that name, opened as @file, to new regular file @fd; likewise. */
int copy_out(struct xs_store *store, const char *name, struct iomap_file *file, int fd, char *chunk,
	     enum copy_side *side);
/*
 * @bytes of @fd at @pos (< 0: where it stands, for pipes), fewer only at its end.  Return:
 * bytes or -errno.
 */
ssize_t read_chunk_at(int fd, char *chunk, size_t bytes, int64_t pos);
/* All of it.  Return: 0 or -errno. */
int object_write(struct iomap_file *file, const char *chunk, size_t bytes, uint64_t pos);
/* Up to CHUNK_BYTES, fewer only at the object's end.  Return: bytes or -errno. */
ssize_t object_read(struct iomap_file *file, char *chunk, uint64_t pos);
/* Memory for chunks, good for direct I/O; NULL when there is none.  free() it. */
char *chunk_alloc(void);

/* An object and a file of it, opened together. */
struct opened {
	struct xs_object *object;
	struct iomap_file *file;
};

int open_object(struct xs_store *store, const char *name, bool direct, struct opened *out);
int create_object(struct xs_store *store, bool direct, struct opened *out);
/* Closing one without a name drops it. */
int close_object(struct opened *opened);
/* Wait for the data of a new object, give it the name, and make both durable. */
int publish_object(struct session *session, struct opened *opened, const char *name);

/* ---- tool_clone.c ---- */

int tool_cp(struct session *session);
int tool_unshare(struct session *session);

/* ---- tool_space.c ---- */

int tool_punch(struct session *session);
int tool_zero(struct session *session);
int tool_fallocate(struct session *session);

/* ---- tool_tree.c ---- */

struct tree_file {
	char *name; /* below the directory */
	uint64_t bytes;
};

struct tree {
	const char *dir;
	int fd; /* of the directory */
	struct tree_file *files;
	size_t nr, max; /* by name, in the order of strcmp() */
	uint64_t bytes;
	uint64_t links_nr, specials_nr; /* symbolic links; devices, pipes and the like */
	uint64_t unreadable_nr;
	char *unreadable; /* the first of them, and why */
	int unreadable_error;
};

/* The directory without a look at what is in it.  tree_free() in any case. */
int tree_attach(const char *dir, struct tree *tree);
/* Every regular file below @dir but @store.  tree_free() in any case. */
int tree_scan(const char *dir, const char *store, struct tree *tree);
void tree_free(struct tree *tree);
/* Whether each component of the name is that of something below. */
bool tree_stays_below(const char *name);
/*
 * Open a file of it for reading; symbolic links and names lead nowhere else.
 * Return: fd, or -errno.
 */
int tree_open(const struct tree *tree, const char *name, uint64_t *bytes);
/* Count a file that cannot be read. */
void tree_unreadable(struct tree *tree, const char *name, int error);
/* When there were any, one line about them.  Return: @status, or theirs if that is EX_OK. */
int tree_complain_unreadable(const struct tree *tree, int status);
/* Whether all names can be names of objects. */
int tree_check_names(const struct tree *tree);
/* A store that has room for it. */
uint64_t tree_store_bytes(const struct tree *tree);

/* ---- with directories ---- */

int tool_import(struct session *session);
int tool_export(struct session *session);
int tool_verify(struct session *session);
int tool_rewrite(struct session *session);

/*
 * Whether the object holds the @bytes of @fd, in which rewrite --seed has been, if @seed is
 * not NULL.  @name as for it.  *@at: the first byte that differs, with *@same false.
 */
int compare_object(struct iomap_file *file, int fd, const char *name, uint64_t bytes,
		   const uint64_t *seed, char *chunks[2], bool *same, uint64_t *at,
		   enum copy_side *side);

/* ---- tool_pieces.c ---- */

struct piece {
	uint64_t pos;
	size_t bytes;
};

/* Where the next piece of an object is. */
struct pieces {
	uint64_t state; /* of the random numbers */
	uint64_t size;	/* of the object */
	uint64_t key;	/* of the pattern */
	uint64_t at;
};

void pieces_start(struct pieces *pieces, uint64_t seed, const char *name, uint64_t size);
/* By rising pos.  Return: false when there is no other. */
bool pieces_next(struct pieces *pieces, struct piece *piece);
/* Apply the pattern to bytes that lie at @pos.  Doing it twice undoes it. */
void pieces_toggle(const struct pieces *pieces, char *bytes, size_t nr, uint64_t pos);

#endif
