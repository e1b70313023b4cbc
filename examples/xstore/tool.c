/* SPDX-License-Identifier: MIT */
/*
 * tool.c - the xstore program: its command line, and signals.
 *
 * Each run opens the store alone (the device's lock sees to that), does one command, and has
 * committed it when it ends with status 0.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

/* ---- signals ---- */

/* The handler does nothing but this; work stops at the next chunk and cleans up. */
static volatile sig_atomic_t stop_signal;

static void on_signal(int number)
{
	stop_signal = number;
}

bool interrupted(void)
{
	return stop_signal != 0;
}

void interrupts_catch(void)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };

	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

/* ---- command line ---- */

/* How a command uses the store, and what stands behind STORE. */
enum { CREATES = 1, READS = 2, MOUNTS = 4, NAMES = 8 };

static const struct command {
	const char *name;
	int (*run)(struct session *session);
	int args_min, args_max; /* behind STORE */
	unsigned flags;
	unsigned options; /* besides those that all have */
} commands[] = {
	{ "mkfs", tool_mkfs, 0, 0, CREATES, OPTION_SIZE | OPTION_FOR | OPTION_FORCE },
	{ "put", tool_put, 1, 2, MOUNTS | NAMES, OPTION_DIRECT | OPTION_STATS },
	{ "get", tool_get, 1, 2, MOUNTS | READS | NAMES, OPTION_DIRECT | OPTION_STATS },
	{ "cp", tool_cp, 2, 2, MOUNTS | NAMES, OPTION_REFLINK | OPTION_STATS },
	{ "unshare", tool_unshare, 1, 3, MOUNTS | NAMES, 0 },
	{ "ls", tool_ls, 0, 0, MOUNTS | READS, 0 },
	{ "rm", tool_rm, 1, 1, MOUNTS | NAMES, 0 },
	{ "map", tool_map, 1, 1, MOUNTS | READS | NAMES, 0 },
	{ "stat", tool_stat, 0, 1, MOUNTS | READS | NAMES, 0 },
	{ "truncate", tool_truncate, 2, 2, MOUNTS | NAMES, 0 },
	{ "punch", tool_punch, 3, 3, MOUNTS | NAMES, 0 },
	{ "zero", tool_zero, 3, 3, MOUNTS | NAMES, OPTION_KEEP_SIZE },
	{ "fallocate", tool_fallocate, 3, 3, MOUNTS | NAMES, OPTION_KEEP_SIZE },
	{ "check", tool_check, 0, 0, READS, 0 },
	{ "import", tool_import, 1, 1, MOUNTS, OPTION_STATS },
	{ "export", tool_export, 1, 1, MOUNTS | READS, OPTION_STATS },
	{ "verify", tool_verify, 1, 1, MOUNTS | READS, OPTION_DIRECT | OPTION_SEED | OPTION_STATS },
	{ "rewrite", tool_rewrite, 1, 1, MOUNTS, OPTION_SEED | OPTION_RESTORE | OPTION_STATS },
};

#define OPTIONS_OF_ALL (OPTION_JSON | OPTION_BUFFERED | OPTION_CACHE | OPTION_BACKEND)

static const char usage_text[] =
	"usage: xstore COMMAND STORE [NAME] [FILE | NAME | SIZE | DIR | OFFSET LENGTH] [options]\n";

static const char help_text[] =
	"STORE is a file or a block device.  NAME is that of an object.  FILE may be -, as when\n"
	"there is none: standard input or output.  SIZE, OFFSET and LENGTH are in bytes, with\n"
	"K, M, G or T for powers of 1024.\n"
	"\n"
	"  mkfs STORE [--size SIZE | --for DIR] [--force]\n"
	"      make a store of that size, or large enough for import of DIR; without either as\n"
	"      large as the file or device is.  --force: though there is a store already\n"
	"  put STORE NAME [FILE] [--direct]\n"
	"      make FILE an object, in place of any of that name, as a whole or not at all\n"
	"  get STORE NAME [FILE] [--direct]\n"
	"      write the object to FILE\n"
	"  cp STORE NAME NEW-NAME [--reflink]\n"
	"      make NEW-NAME an object with the bytes of NAME, in place of any that there is;\n"
	"      --reflink: the two share their blocks until one is overwritten\n"
	"  unshare STORE NAME [OFFSET LENGTH]\n"
	"      give the object its own copy of what it shares, of all or of those bytes\n"
	"  ls STORE                   size and name of each object\n"
	"  stat STORE [NAME]          about the store, or an object\n"
	"  map STORE NAME             where the object lies: offset, length, kind, place\n"
	"  rm STORE NAME              remove the object\n"
	"  truncate STORE NAME SIZE   set its size\n"
	"  punch STORE NAME OFFSET LENGTH\n"
	"      make a hole of the range; the size stays\n"
	"  zero STORE NAME OFFSET LENGTH [--keep-size]\n"
	"      make the range zeros, with space for it, as far as it lies behind the end too\n"
	"  fallocate STORE NAME OFFSET LENGTH [--keep-size]\n"
	"      take space for what the range has none for; the object grows to its end.\n"
	"      --keep-size: it does not\n"
	"  check STORE                verify all metadata; says nothing when nothing is wrong\n"
	"  import STORE DIR\n"
	"      make each regular file below DIR an object, named by its path below DIR; files\n"
	"      that are in already with the same bytes are left alone\n"
	"  export STORE DIR\n"
	"      make each object a file below DIR, with the directories that it needs\n"
	"  verify STORE DIR [--direct] [--seed N]\n"
	"      compare all objects with the files below DIR; --seed: after rewrite --seed N\n"
	"  rewrite STORE DIR --seed N [--restore]\n"
	"      overwrite pieces of all objects, which N decides, with other bytes than those of\n"
	"      the files below DIR; --restore: with those of the files\n"
	"\n"
	"  --json            the result as one JSON document on standard output\n"
	"  --stats           what the library did (put, get, import, export, verify, rewrite)\n"
	"  --direct          direct I/O on the objects, past the library's cache\n"
	"  --cache SIZE      bytes of cache\n"
	"  --backend NAME    how I/O is done: io_uring or threads\n"
	"  --buffered        use the kernel's cache where O_DIRECT is refused\n"
	"  --help            this text\n"
	"\n"
	"Status: 0 done, and durable; 64 wrong usage; 65 not a store, damaged, or other bytes than\n"
	"expected; 66 no such store, object, file; 69, 70, 71 the library or the system lacks\n"
	"something; 73 full, or cannot be created; 74 reading or writing failed; 75 in use, or\n"
	"interrupted; 77 not permitted.  What is wrong is said in one line on standard error.\n";

static int usage(void)
{
	fputs(usage_text, stderr);
	return EX_USAGE;
}

static const struct option options[] = {
	{ "size", required_argument, NULL, OPTION_SIZE },
	{ "for", required_argument, NULL, OPTION_FOR },
	{ "force", no_argument, NULL, OPTION_FORCE },
	{ "direct", no_argument, NULL, OPTION_DIRECT },
	{ "seed", required_argument, NULL, OPTION_SEED },
	{ "restore", no_argument, NULL, OPTION_RESTORE },
	{ "reflink", no_argument, NULL, OPTION_REFLINK },
	{ "keep-size", no_argument, NULL, OPTION_KEEP_SIZE },
	{ "json", no_argument, NULL, OPTION_JSON },
	{ "stats", no_argument, NULL, OPTION_STATS },
	{ "buffered", no_argument, NULL, OPTION_BUFFERED },
	{ "cache", required_argument, NULL, OPTION_CACHE },
	{ "backend", required_argument, NULL, OPTION_BACKEND },
	{ "help", no_argument, NULL, OPTION_HELP },
	{ 0 },
};

/* Return: whether @text is what the option wants; complained about if not. */
static bool take_value(struct request *request, int option, const char *text)
{
	uint64_t number = 0;

	if (option == OPTION_FOR)
		request->for_dir = text;
	if (option == OPTION_BACKEND)
		request->backend = text;
	if (!text || option == OPTION_FOR || option == OPTION_BACKEND)
		return true;
	if (!parse_size(text, &number) || (option != OPTION_SEED && !number)) {
		complain(EX_USAGE, "'%s' is not a %s", printable(text),
			 option == OPTION_SEED ? "seed" : "size");
		return false;
	}
	*(option == OPTION_CACHE ? &request->cache_bytes :
	  option == OPTION_SEED	 ? &request->seed :
				   &request->size) = number;
	return true;
}

/* Return: EX_OK, or -1 when help was asked for, or EX_USAGE, complained about. */
static int parse_options(int argc, char **argv, struct request *request)
{
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == OPTION_HELP)
			return -1;
		if (option == '?')
			return usage();
		if (!take_value(request, option, optarg))
			return EX_USAGE;
		request->given |= (unsigned)option;
	}
	return EX_OK;
}

static int check_options(const struct command *command, const struct request *request)
{
	unsigned wrong = request->given & ~(command->options | OPTIONS_OF_ALL);

	for (size_t i = 0; options[i].name; i++)
		if (wrong & (unsigned)options[i].val)
			return complain(EX_USAGE, "%s takes no --%s", command->name,
					options[i].name);
	if ((request->given & (OPTION_SIZE | OPTION_FOR)) == (OPTION_SIZE | OPTION_FOR))
		return complain(EX_USAGE, "--size and --for do not go together");
	if (command->options & OPTION_RESTORE && !(request->given & OPTION_SEED))
		return complain(EX_USAGE, "%s needs --seed", command->name);
	return EX_OK;
}

int check_name(const char *name)
{
	int error = name ? xs_name_check(name, strlen(name)) : 0;

	if (error == -ENAMETOOLONG)
		return complain(EX_USAGE, "the name is too long: %zu bytes, at most %u",
				strlen(name), XS_NAME_MAX);
	return error ? complain(EX_USAGE, "'%s' cannot be a name", printable(name)) : EX_OK;
}

static int run(const struct command *command, struct request *request)
{
	struct session session = { 0 };
	int status = command->flags & CREATES ? mkfs_prepare(request) : EX_OK;

	if (status != EX_OK)
		return status;
	status = session_open(&session, request, command->flags & READS, command->flags & MOUNTS);
	if (status == EX_OK)
		status = command->run(&session);
	return session_close(&session, status);
}

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(name, commands[i].name) == 0)
			return &commands[i];
	return NULL;
}

static void take_args(const struct command *command, struct request *request, int nr, char **args)
{
	request->path = args[0];
	if (command->flags & NAMES) {
		request->name = nr > 0 ? args[1] : NULL;
		request->arg = nr > 1 ? args[2] : NULL;
		request->arg2 = nr > 2 ? args[3] : NULL;
	} else {
		request->arg = nr > 0 ? args[1] : NULL;
	}
}

int main(int argc, char **argv)
{
	struct request request = { 0 };
	const struct command *command;
	int status = parse_options(argc, argv, &request);
	int args = argc - optind - 2;

	if (status == -1)
		return printf("%s%s", usage_text, help_text) < 0 ? EX_IOERR : EX_OK;
	if (status != EX_OK)
		return status;
	if (argc == optind)
		return usage();
	command = find_command(argv[optind]);
	if (!command)
		return complain(EX_USAGE, "no such command: %s", printable(argv[optind]));
	if (args < command->args_min || args > command->args_max)
		return usage();
	take_args(command, &request, args, argv + optind + 1);
	/* a reader of our output that leaves is an error to report, not the end */
	signal(SIGPIPE, SIG_IGN);
	json_start(request.given & OPTION_JSON, command->name);
	status = check_options(command, &request);
	if (status == EX_OK)
		status = check_name(request.name);
	if (status == EX_OK)
		status = run(command, &request);
	return out_finish(status);
}
