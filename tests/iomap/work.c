/* SPDX-License-Identifier: MIT */
/* ctest-labels: concurrent */
/*
 * work.c - workers, iomap_queue_work(), iomap_flush_work(), iomap_engine_poll().
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "testutil.h"

/* A work that counts, and waits at a gate where the test says so. */
struct job {
	struct iomap_work work; /* first */
	struct iomap_engine *engine;
	struct t_gate *gate;
	bool shut;	     /* under the gate: runs until this is false */
	unsigned inside;     /* under the gate: runs that are in the function */
	unsigned begun, ran; /* under the gate */
	pthread_t thread;
	void (*hook)(struct job *job);
	void *arg;
	struct job *other;
};

static struct t_gate gate;
static unsigned order_nr;
static struct job *order[64];

static void job_run(struct iomap_work *work)
{
	struct job *job = (struct job *)(void *)work;

	t_lock(job->gate);
	t_must(job->inside++ == 0);
	job->begun++;
	job->thread = pthread_self();
	if (order_nr < 64)
		order[order_nr++] = job;
	t_wake(job->gate);
	while (job->shut)
		t_wait(job->gate);
	t_unlock(job->gate);
	if (job->hook)
		job->hook(job);
	t_lock(job->gate);
	job->inside--;
	job->ran++;
	t_wake(job->gate);
	t_unlock(job->gate);
}

static void job_init(struct job *job, struct iomap_engine *engine)
{
	memset(job, 0, sizeof(*job));
	iomap_init_work(&job->work, job_run);
	job->engine = engine;
	job->gate = &gate;
}

static void job_wait(struct job *job, unsigned *what, unsigned nr)
{
	t_lock(job->gate);
	while (*what < nr)
		t_wait(job->gate);
	t_unlock(job->gate);
}

static void job_open(struct job *job)
{
	t_lock(job->gate);
	job->shut = false;
	t_wake(job->gate);
	t_unlock(job->gate);
}

static struct t_log log_lines;

static struct iomap_engine *engine_new(uint32_t nr_workers, uint32_t flags)
{
	struct iomap_engine_opts opts;

	t_gate_init(&gate);
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1 << 20;
	opts.max_callers = 4;
	opts.nr_workers = nr_workers;
	opts.flags = flags;
	return t_engine(&opts, &log_lines);
}

static void engine_end(struct iomap_engine *engine)
{
	cr_assert_eq(iomap_engine_destroy(engine), 0);
	t_gate_exit(&gate);
}

/* Threads of the process with this name. */
static unsigned threads_named(const char *name)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	unsigned nr = 0;

	t_must(dir != NULL);
	while ((entry = readdir(dir))) {
		char path[300], comm[32] = "";
		FILE *f;

		snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
		f = fopen(path, "r");
		if (!f)
			continue;
		if (fgets(comm, sizeof(comm), f) && !strncmp(comm, name, strlen(name)))
			nr++;
		fclose(f);
	}
	closedir(dir);
	return nr;
}

Test(work, there_is_no_worker_before_there_is_work)
{
	struct iomap_engine *engine = engine_new(0, 0);
	struct job job;

	cr_assert_eq(threads_named("iomap-worker"), 0U);
	job_init(&job, engine);
	cr_assert(iomap_queue_work(engine, &job.work));
	job_wait(&job, &job.ran, 1);
	cr_assert_eq(threads_named("iomap-worker"), 1U);
	cr_assert(!pthread_equal(job.thread, pthread_self()));
	engine_end(engine);
	cr_assert_eq(threads_named("iomap-worker"), 0U);
}

static void check_signals(struct job *job)
{
	sigset_t now;

	(void)job;
	t_must(pthread_sigmask(SIG_SETMASK, NULL, &now) == 0);
	t_must(sigismember(&now, SIGTERM) && sigismember(&now, SIGALRM) &&
	       sigismember(&now, SIGUSR1));
}

Test(work, a_worker_blocks_signals_and_its_starter_does_not)
{
	struct iomap_engine *engine = engine_new(0, 0);
	struct job job;
	sigset_t now;

	job_init(&job, engine);
	job.hook = check_signals;
	cr_assert(iomap_queue_work(engine, &job.work));
	job_wait(&job, &job.ran, 1);
	cr_assert_eq(pthread_sigmask(SIG_SETMASK, NULL, &now), 0);
	cr_assert(!sigismember(&now, SIGTERM));
	engine_end(engine);
}

Test(work, queued_twice_before_it_begins_it_runs_once)
{
	struct iomap_engine *engine = engine_new(1, 0);
	struct job first, job;

	job_init(&first, engine);
	job_init(&job, engine);
	first.shut = true;
	cr_assert(iomap_queue_work(engine, &first.work));
	job_wait(&first, &first.begun, 1);
	cr_assert(iomap_queue_work(engine, &job.work));
	cr_assert(!iomap_queue_work(engine, &job.work));
	job_open(&first);
	iomap_flush_work(engine, &job.work);
	cr_assert_eq(job.ran, 1U);
	cr_assert(iomap_queue_work(engine, &job.work));
	iomap_flush_work(engine, &job.work);
	cr_assert_eq(job.ran, 2U);
	engine_end(engine);
}

Test(work, one_worker_keeps_the_order)
{
	struct iomap_engine *engine = engine_new(1, 0);
	struct job first, job[20];

	job_init(&first, engine);
	first.shut = true;
	cr_assert(iomap_queue_work(engine, &first.work));
	job_wait(&first, &first.begun, 1);
	for (unsigned i = 0; i < 20; i++) {
		job_init(&job[i], engine);
		cr_assert(iomap_queue_work(engine, &job[i].work));
	}
	job_open(&first);
	iomap_flush_work(engine, &job[19].work);
	for (unsigned i = 0; i < 20; i++)
		cr_assert_eq(order[1 + i], &job[i]);
	engine_end(engine);
}

Test(work, two_workers_run_two_works)
{
	struct iomap_engine *engine = engine_new(2, 0);
	struct job job[3];

	for (unsigned i = 0; i < 3; i++) {
		job_init(&job[i], engine);
		job[i].shut = true;
		cr_assert(iomap_queue_work(engine, &job[i].work));
	}
	job_wait(&job[0], &job[0].begun, 1);
	job_wait(&job[1], &job[1].begun, 1);
	cr_assert(!pthread_equal(job[0].thread, job[1].thread));
	/* the option says two */
	cr_assert_eq(threads_named("iomap-worker"), 2U);
	cr_assert_eq(job[2].begun, 0U);
	for (unsigned i = 0; i < 3; i++)
		job_open(&job[i]);
	job_wait(&job[2], &job[2].ran, 1);
	engine_end(engine);
}

Test(work, a_work_that_runs_is_queued_again_and_never_runs_beside_itself)
{
	struct iomap_engine *engine = engine_new(4, 0);
	struct job job, other;

	job_init(&job, engine);
	job_init(&other, engine);
	job.shut = true;
	cr_assert(iomap_queue_work(engine, &job.work));
	job_wait(&job, &job.begun, 1);
	cr_assert(iomap_queue_work(engine, &job.work));
	cr_assert(!iomap_queue_work(engine, &job.work));
	/* what comes behind it does not wait for it */
	cr_assert(iomap_queue_work(engine, &other.work));
	job_wait(&other, &other.ran, 1);
	cr_assert_eq(job.begun, 1U);
	job_open(&job);
	iomap_flush_work(engine, &job.work);
	cr_assert_eq(job.ran, 2U);
	engine_end(engine);
}

static void queue_self_ten_times(struct job *job)
{
	if (job->begun < 10)
		t_must(iomap_queue_work(job->engine, &job->work));
}

Test(work, a_work_queues_itself)
{
	struct iomap_engine *engine = engine_new(0, 0);
	struct job job;

	job_init(&job, engine);
	job.hook = queue_self_ten_times;
	cr_assert(iomap_queue_work(engine, &job.work));
	job_wait(&job, &job.ran, 10);
	iomap_flush_work(engine, &job.work);
	cr_assert_eq(job.ran, 10U);
	engine_end(engine);
}

static atomic_uint freed;

static void free_self(struct iomap_work *work)
{
	free(work);
	atomic_fetch_add(&freed, 1);
}

Test(work, a_function_may_free_its_work)
{
	struct iomap_engine *engine = engine_new(0, 0);

	for (unsigned i = 0; i < 1000; i++) {
		struct iomap_work *work = malloc(sizeof(*work));

		iomap_init_work(work, free_self);
		cr_assert(iomap_queue_work(engine, work));
	}
	/* destroying the engine runs what is left */
	engine_end(engine);
	cr_assert_eq(atomic_load(&freed), 1000U);
}

static void flush_other(struct job *job)
{
	iomap_flush_work(job->engine, &job->other->work);
	t_must(job->other->ran == 1);
}

static atomic_uint reused_runs;

static void reused(struct iomap_work *work)
{
	(void)work;
	t_lock(&gate);
	atomic_fetch_add(&reused_runs, 1);
	t_wake(&gate);
	while (atomic_load(&reused_runs) < 2)
		t_wait(&gate);
	t_unlock(&gate);
}

Test(work, the_next_work_at_an_address_does_not_wait_for_the_one_before)
{
	struct iomap_engine *engine = engine_new(2, 0);
	struct iomap_work work;

	iomap_init_work(&work, reused);
	cr_assert(iomap_queue_work(engine, &work));
	t_lock(&gate);
	while (!atomic_load(&reused_runs))
		t_wait(&gate);
	t_unlock(&gate);
	/* as if its function had freed it */
	iomap_init_work(&work, reused);
	cr_assert(iomap_queue_work(engine, &work));
	iomap_flush_work(engine, &work);
	cr_assert_eq(atomic_load(&reused_runs), 2U);
	engine_end(engine);
}

Test(work, the_only_worker_may_flush_what_waits_behind_it)
{
	struct iomap_engine *engine = engine_new(1, 0);
	struct job job, other;

	job_init(&job, engine);
	job_init(&other, engine);
	job.shut = true;
	job.hook = flush_other;
	job.other = &other;
	cr_assert(iomap_queue_work(engine, &job.work));
	cr_assert(iomap_queue_work(engine, &other.work));
	job_open(&job);
	iomap_flush_work(engine, &job.work);
	cr_assert_eq(other.ran, 1U);
	engine_end(engine);
}

Test(work, flushing_what_was_never_queued_is_nothing)
{
	struct iomap_engine *engine = engine_new(0, 0);
	struct job job;

	job_init(&job, engine);
	iomap_flush_work(engine, &job.work);
	cr_assert_eq(job.begun, 0U);
	engine_end(engine);
}

static void queue_from_end_io(struct iomap_bio *bio)
{
	struct job *job = bio->bi_private;

	t_must(iomap_queue_work(job->engine, &job->work));
	iomap_bio_put(bio);
}

Test(work, a_bi_end_io_queues_work)
{
	struct iomap_engine *engine = engine_new(0, 0);
	struct iomap_bdev *bdev;
	struct iomap_bio *bio;
	struct job job;

	job_init(&job, engine);
	cr_assert_eq(iomap_bdev_open_memory(engine, 1 << 20, &bdev), 0);
	bio = iomap_bio_alloc(bdev, 0, IOMAP_REQ_OP_FLUSH, NULL);
	cr_assert_not_null(bio);
	bio->bi_private = &job;
	bio->bi_end_io = queue_from_end_io;
	iomap_submit_bio(bio);
	job_wait(&job, &job.ran, 1);
	iomap_flush_work(engine, &job.work);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	engine_end(engine);
}

#define CROWD_THREADS 4
#define CROWD_WORKS 8
#define CROWD_ROUNDS 500

struct crowd {
	struct iomap_engine *engine;
	struct {
		struct iomap_work work;
		atomic_uint inside, ran, queued;
	} item[CROWD_WORKS];
};

static void crowd_run(struct iomap_work *work)
{
	atomic_uint *inside = (atomic_uint *)(void *)(work + 1);

	t_must(atomic_fetch_add(inside, 1) == 0);
	atomic_fetch_add(inside + 1, 1);
	t_must(atomic_fetch_sub(inside, 1) == 1);
}

static long crowd_thread(void *arg)
{
	struct crowd *crowd = arg;

	for (unsigned i = 0; i < CROWD_ROUNDS; i++) {
		unsigned n = (i * 7 + (unsigned)(uintptr_t)&i / 64) % CROWD_WORKS;

		if (iomap_queue_work(crowd->engine, &crowd->item[n].work))
			atomic_fetch_add(&crowd->item[n].queued, 1);
		if (i % 16 == 0)
			iomap_flush_work(crowd->engine, &crowd->item[n].work);
		if (i % 32 == 1)
			t_must(iomap_engine_poll(crowd->engine, 3, true) >= 0);
	}
	return 0;
}

Test(work, what_was_queued_by_a_crowd_has_run_as_often)
{
	struct iomap_engine *engine = engine_new(3, 0);
	struct crowd crowd = { .engine = engine };
	struct t_task task[CROWD_THREADS];

	for (unsigned i = 0; i < CROWD_WORKS; i++)
		iomap_init_work(&crowd.item[i].work, crowd_run);
	for (unsigned i = 0; i < CROWD_THREADS; i++)
		t_start(&task[i], crowd_thread, &crowd);
	for (unsigned i = 0; i < CROWD_THREADS; i++)
		t_join(&task[i]);
	for (unsigned i = 0; i < CROWD_WORKS; i++) {
		iomap_flush_work(engine, &crowd.item[i].work);
		cr_assert_eq(atomic_load(&crowd.item[i].ran), atomic_load(&crowd.item[i].queued));
	}
	engine_end(engine);
}

/* ---- without threads ---- */

static void poll_inside(struct job *job)
{
	/* a work function inside a work function: never by poll */
	t_must(iomap_engine_poll(job->engine, 10, true) == 0);
}

Test(work, without_threads_it_runs_inside_poll)
{
	struct iomap_engine *engine = engine_new(0, IOMAP_ENGINE_NO_THREADS);
	struct job job[5];

	for (unsigned i = 0; i < 5; i++) {
		job_init(&job[i], engine);
		job[i].hook = poll_inside;
		cr_assert(iomap_queue_work(engine, &job[i].work));
	}
	cr_assert_eq(threads_named("iomap-"), !strcmp(iomap_engine_backend(engine), "threads") ?
						      threads_named("iomap-io") :
						      0U);
	cr_assert_eq(iomap_engine_poll(engine, 10, false), 0);
	cr_assert_eq(iomap_engine_poll(engine, 0, true), 0);
	cr_assert_eq(job[0].ran, 0U);
	cr_assert_eq(iomap_engine_poll(engine, 2, true), 2);
	cr_assert_eq(job[1].ran, 1U);
	cr_assert_eq(job[2].ran, 0U);
	cr_assert(pthread_equal(job[1].thread, pthread_self()));
	/* flushing runs that one, and no other */
	iomap_flush_work(engine, &job[3].work);
	cr_assert_eq(job[3].ran, 1U);
	cr_assert_eq(job[2].ran, 0U);
	cr_assert_eq(iomap_engine_poll(engine, 1, true), 1);
	cr_assert_eq(job[2].ran, 1U);
	/* and destroying the engine what is left */
	engine_end(engine);
	cr_assert_eq(job[4].ran, 1U);
}

static void poll_in_end_io(struct iomap_bio *bio)
{
	struct job *job = bio->bi_private;

	t_must(iomap_queue_work(job->engine, &job->work));
	t_must(iomap_engine_poll(job->engine, 10, true) == 0);
	iomap_bio_put(bio);
}

Test(work, poll_does_nothing_inside_a_completion)
{
	struct iomap_engine *engine = engine_new(0, IOMAP_ENGINE_NO_THREADS);
	struct iomap_bdev *bdev;
	struct iomap_bio *bio;
	struct job job;

	job_init(&job, engine);
	cr_assert_eq(iomap_bdev_open_memory(engine, 1 << 20, &bdev), 0);
	bio = iomap_bio_alloc(bdev, 0, IOMAP_REQ_OP_FLUSH, NULL);
	bio->bi_private = &job;
	bio->bi_end_io = poll_in_end_io;
	iomap_submit_bio(bio);
	cr_assert_eq(job.ran, 0U);
	cr_assert_eq(iomap_engine_poll(engine, 10, true), 1);
	cr_assert_eq(job.ran, 1U);
	cr_assert_eq(iomap_bdev_close(bdev), 0);
	engine_end(engine);
}

/* ---- the end of the engine ---- */

static void destroy_inside(struct job *job)
{
	t_must(iomap_engine_destroy(job->engine) == -EBUSY);
}

Test(work, a_work_function_does_not_destroy_its_engine)
{
	struct iomap_engine *engine = engine_new(0, 0);
	struct job job;

	job_init(&job, engine);
	job.hook = destroy_inside;
	cr_assert(iomap_queue_work(engine, &job.work));
	iomap_flush_work(engine, &job.work);
	engine_end(engine);
}

static void open_bdev(struct job *job)
{
	t_must(iomap_bdev_open_memory(job->engine, 4096, job->arg) == 0);
}

Test(work, an_engine_that_work_has_made_busy_lives_on)
{
	for (unsigned flags = 0; flags <= IOMAP_ENGINE_NO_THREADS; flags++) {
		struct iomap_engine *engine = engine_new(1, flags);
		struct iomap_bdev *bdev = NULL;
		struct job first, job;

		job_init(&first, engine);
		job_init(&job, engine);
		job.hook = open_bdev;
		job.arg = &bdev;
		cr_assert(iomap_queue_work(engine, &first.work));
		cr_assert(iomap_queue_work(engine, &job.work));
		cr_assert_eq(iomap_engine_destroy(engine), -EBUSY);
		iomap_flush_work(engine, &job.work);
		cr_assert_eq(job.ran, 1U);
		cr_assert_eq(iomap_bdev_close(bdev), 0);
		/* the workers are there again */
		cr_assert(iomap_queue_work(engine, &first.work));
		iomap_flush_work(engine, &first.work);
		cr_assert_eq(first.ran, 2U);
		engine_end(engine);
	}
}

/* ---- no thread to be had ---- */

static atomic_uint threads_left;

static bool fail_threads(void *ctx, enum iomap_fail_kind kind, uint64_t n)
{
	(void)ctx;
	(void)n;
	if (kind != IOMAP_FAIL_THREAD_CREATE)
		return false;
	if (!atomic_load(&threads_left))
		return true;
	atomic_fetch_sub(&threads_left, 1);
	return false;
}

/* All threads but workers can be had. */
static struct iomap_engine *engine_short_of_threads(void)
{
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;

	t_gate_init(&gate);
	iomap_engine_opts_init(&opts);
	opts.cache_bytes = 1 << 20;
	opts.max_callers = 4;
	opts.fail_nth = fail_threads;
	atomic_store(&threads_left, 100); /* flusher, I/O threads */
	engine = t_engine(&opts, &log_lines);
	atomic_store(&threads_left, 0);
	return engine;
}

Test(work, what_no_thread_could_be_had_for_waits_for_one_or_for_poll)
{
	struct iomap_engine *engine = engine_short_of_threads();
	struct job job[2];

	job_init(&job[0], engine);
	job_init(&job[1], engine);
	cr_assert(iomap_queue_work(engine, &job[0].work));
	cr_assert_eq(t_log_count(&log_lines, IOMAP_LOG_ERROR, "no worker thread"), 1U);
	cr_assert_eq(job[0].ran, 0U);
	cr_assert_eq(iomap_engine_poll(engine, 10, true), 1);
	cr_assert_eq(job[0].ran, 1U);
	cr_assert(iomap_queue_work(engine, &job[0].work));
	iomap_flush_work(engine, &job[0].work);
	cr_assert_eq(job[0].ran, 2U);
	cr_assert(pthread_equal(job[0].thread, pthread_self()));
	cr_assert(iomap_queue_work(engine, &job[0].work));
	atomic_store(&threads_left, 100);
	cr_assert(iomap_queue_work(engine, &job[1].work));
	job_wait(&job[0], &job[0].ran, 3);
	job_wait(&job[1], &job[1].ran, 1);
	engine_end(engine);
}

static long flush_job(void *arg)
{
	struct job *job = arg;

	iomap_flush_work(job->engine, &job->work);
	return 0;
}

/* The worker that is called for it finds it running elsewhere, and goes to sleep again. */
static void queue_what_is_flushed(void)
{
	struct iomap_engine *engine = engine_short_of_threads();
	struct job job, other;
	struct t_task task;

	job_init(&job, engine);
	job_init(&other, engine);
	job.shut = true;
	cr_assert(iomap_queue_work(engine, &job.work));
	t_start(&task, flush_job, &job);
	job_wait(&job, &job.begun, 1);
	atomic_store(&threads_left, 100);
	cr_assert(iomap_queue_work(engine, &job.work));
	for (unsigned i = 1; i <= 10; i++) {
		cr_assert(iomap_queue_work(engine, &other.work));
		job_wait(&other, &other.ran, i);
		iomap_flush_work(engine, &other.work);
	}
	job_open(&job);
	job_wait(&job, &job.ran, 2);
	t_join(&task);
	engine_end(engine);
}

Test(work, what_is_queued_while_a_caller_flushes_it_runs_once_more)
{
	for (unsigned i = 0; i < 20; i++)
		queue_what_is_flushed();
}

Test(work, so_many_workers_are_too_many)
{
	struct iomap_engine_opts opts;
	struct iomap_engine *engine;

	iomap_engine_opts_init(&opts);
	t_log_init(&log_lines);
	opts.log = t_log_line;
	opts.log_ctx = &log_lines;
	opts.nr_workers = 65;
	cr_assert_eq(iomap_engine_create(&opts, &engine), -EINVAL);
	cr_assert_eq(t_log_count(&log_lines, IOMAP_LOG_ERROR, "nr_workers"), 1U);
}
