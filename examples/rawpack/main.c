/* SPDX-License-Identifier: MIT */
/*
 * rawpack - pack a directory into one raw image through libiomap, and verify the image.
 *
 * pack copies every regular file below DIR into IMAGE by buffered writes of the library,
 * back to back, so that hardly any begins or ends at a block.  verify reads all of it back,
 * compares with the files, rewrites many small pieces, and compares again: what was written
 * must be there, and nothing else may have changed.  The image is as before afterwards.
 */
#include "rawpack.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The handler does nothing but this; work stops at the next chunk and cleans up. */
static volatile sig_atomic_t stop_signal;

static void on_signal(int number)
{
	stop_signal = number;
}

bool interrupted(void)
{
	static bool said;

	if (stop_signal && !said) {
		complain("interrupted (%s)", strsignal(stop_signal));
		said = true;
	}
	return stop_signal;
}

static void catch_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };

	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	/* A reader of our output that leaves is an error to report, not the end. */
	action.sa_handler = SIG_IGN;
	sigaction(SIGPIPE, &action, NULL);
}

static const char usage_text[] =
	"usage: rawpack pack IMAGE DIR [options]      pack the regular files below DIR\n"
	"       rawpack verify IMAGE DIR [options]    compare the image with them\n"
	"IMAGE is a file, which pack makes anew, or a block device.\n"
	"  --cache SIZE      bytes of cache, with K, M or G for powers of 1024\n"
	"  --backend NAME    how I/O is done: io_uring or threads\n"
	"  --buffered        use the kernel's cache where O_DIRECT is refused\n"
	"  --help            this text\n";

/* @text is digits and perhaps K, M or G. */
static bool parse_size(const char *text, uint64_t *out)
{
	static const char units[] = "KMG";
	unsigned long long number;
	unsigned shift = 0;
	const char *unit;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	number = strtoull(text, &end, 10);
	if (*end) {
		unit = strchr(units, *end);
		if (!unit || end[1])
			return false;
		shift = 10 * (unsigned)(unit - units + 1);
	}
	if (number == 0 || number > (UINT64_MAX >> 1) >> shift)
		return false;
	*out = (uint64_t)number << shift;
	return true;
}

/* Return: false when the command line is wrong, complained about. */
static bool parse_options(int argc, char **argv, struct options *options)
{
	static const struct option long_options[] = {
		{ "cache", required_argument, NULL, 'c' },
		{ "backend", required_argument, NULL, 'b' },
		{ "buffered", no_argument, NULL, 'B' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int option;

	while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
		switch (option) {
		case 'c':
			if (!parse_size(optarg, &options->cache_bytes)) {
				complain("--cache: '%s' is not a size", optarg);
				return false;
			}
			break;
		case 'b':
			options->backend = optarg;
			break;
		case 'B':
			options->buffered = true;
			break;
		case 'h':
			fputs(usage_text, stdout);
			exit(EX_OK);
		default:
			return false;
		}
	}
	return true;
}

int main(int argc, char **argv)
{
	struct options options = { 0 };
	int (*command)(const struct options *);
	int status;

	if (!parse_options(argc, argv, &options) || argc - optind != 3) {
		fputs(usage_text, stderr);
		return EX_USAGE;
	}
	if (strcmp(argv[optind], "pack") == 0) {
		command = pack;
	} else if (strcmp(argv[optind], "verify") == 0) {
		command = verify;
	} else {
		complain("no such command: %s", argv[optind]);
		fputs(usage_text, stderr);
		return EX_USAGE;
	}
	options.image = argv[optind + 1];
	options.dir = argv[optind + 2];

	catch_signals();
	status = command(&options);
	if (fflush(stdout) != 0 && status == EX_OK) {
		complain("standard output: cannot write");
		status = EX_IOERR;
	}
	return status;
}
