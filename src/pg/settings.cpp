/*
 * settings.cpp -- see settings.hpp. C region, called by _PG_init.
 *
 * Only what determines the size of shared memory may be PGC_POSTMASTER, and only while the postmaster preloads the
 * library: otherwise the library is loaded long after the postmaster started.
 */
#include "pg/settings.hpp"

namespace jobqueue::settings {

int max_workers = 4;
int max_databases = 1024;
int poll_interval_ms = 5000;
int worker_idle_timeout_s = 60;
int notify_mode = static_cast<int>(NotifyMode::coalesced);
int completed_retention_s = 7 * 24 * 3600;
int failed_retention_s = -1;
bool allow_superuser_handlers = true;
int max_crashes = 3;
int timeout_grace_ms = 3000;
bool kill_stuck = false;
bool worker_synchronous_commit = false;
int fused_time_ms = 10;
int fused_tasks = 60;
int fused_after = 3;
int queue_order = static_cast<int>(QueueOrder::weighted);
bool start_paused = false;

static const config_enum_entry notify_modes[] = {
	{"coalesced", static_cast<int>(NotifyMode::coalesced), false},
	{"immediate", static_cast<int>(NotifyMode::immediate), false},
	{"off", static_cast<int>(NotifyMode::off), false},
	{nullptr, 0, false},
};

static const config_enum_entry queue_orders[] = {
	{"weighted", static_cast<int>(QueueOrder::weighted), false},
	{"strict", static_cast<int>(QueueOrder::strict), false},
	{nullptr, 0, false},
};

void define() {
	DefineCustomIntVariable("jobqueue.max_workers", "Maximum number of worker processes, in all databases together.",
							"They count towards max_worker_processes, as do the launcher and one scheduler for each "
							"database in use. 0 = no handlers run.",
							&max_workers, max_workers, 0, 1024, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
	DefineCustomIntVariable("jobqueue.max_databases", "Number of databases for which there is space in shared memory.",
							"Databases that have nothing to run give up their space when others need it.",
							&max_databases, max_databases, 16, 100000,
							process_shared_preload_libraries_in_progress ? PGC_POSTMASTER : PGC_SIGHUP, 0, nullptr,
							nullptr, nullptr);
	DefineCustomIntVariable("jobqueue.poll_interval", "How often to look for tasks whose arrival was not announced.",
							"For instance replicated rows. Everything else is announced at commit.", &poll_interval_ms,
							poll_interval_ms, 100, 3600 * 1000, PGC_SIGHUP, GUC_UNIT_MS, nullptr, nullptr, nullptr);
	DefineCustomIntVariable("jobqueue.worker_idle_timeout", "How long an idle worker process stays.", nullptr,
							&worker_idle_timeout_s, worker_idle_timeout_s, 1, 24 * 3600, PGC_SIGHUP, GUC_UNIT_S,
							nullptr, nullptr, nullptr);
	DefineCustomEnumVariable("jobqueue.notify_mode", "Who sends NOTIFY task_queue for new tasks.",
							 "coalesced: the scheduler, once for all that came in a few milliseconds. immediate: the "
							 "enqueuing transaction itself. off: nobody.",
							 &notify_mode, notify_mode, notify_modes, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
	DefineCustomIntVariable("jobqueue.completed_retention", "How long completed and cancelled tasks are kept.",
							"At least this long, at most a seventh more. 0 deletes them at once.",
							&completed_retention_s, completed_retention_s, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_S, nullptr,
							nullptr, nullptr);
	DefineCustomIntVariable("jobqueue.failed_retention", "How long failed tasks are kept.", "-1 keeps them for ever.",
							&failed_retention_s, failed_retention_s, -1, INT_MAX, PGC_SIGHUP, GUC_UNIT_S, nullptr,
							nullptr, nullptr);
	DefineCustomBoolVariable("jobqueue.allow_superuser_handlers", "Whether handlers may run as a superuser.", nullptr,
							 &allow_superuser_handlers, allow_superuser_handlers, PGC_SIGHUP, 0, nullptr, nullptr,
							 nullptr);
	DefineCustomIntVariable("jobqueue.max_crashes",
							"How often a task may crash its worker or the server before it is failed.", nullptr,
							&max_crashes, max_crashes, 1, 1000, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
	DefineCustomIntVariable("jobqueue.timeout_grace",
							"How long a handler that timed out or was cancelled has to end before its process is "
							"terminated.",
							nullptr, &timeout_grace_ms, timeout_grace_ms, 0, 3600 * 1000, PGC_SIGHUP, GUC_UNIT_MS,
							nullptr, nullptr, nullptr);
	DefineCustomBoolVariable("jobqueue.kill_stuck",
							 "Whether a worker that responds to neither cancellation nor termination is killed.",
							 "That makes the server restart all its processes.", &kill_stuck, kill_stuck, PGC_SIGHUP, 0,
							 nullptr, nullptr, nullptr);
	DefineCustomBoolVariable(
		"jobqueue.worker_synchronous_commit", "Whether a worker waits until each task's commit is on disk.",
		"Off loses nothing: effects and completion are one commit, and a crash loses both or neither.",
		&worker_synchronous_commit, worker_synchronous_commit, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
	DefineCustomIntVariable("jobqueue.fused_time", "How long a fused batch of short tasks may last.",
							"0 = there are no fused batches.", &fused_time_ms, fused_time_ms, 0, 1000, PGC_SIGHUP,
							GUC_UNIT_MS, nullptr, nullptr, nullptr);
	DefineCustomIntVariable("jobqueue.fused_tasks", "Maximum number of tasks in a fused batch.", nullptr, &fused_tasks,
							fused_tasks, 1, 60, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
	DefineCustomIntVariable("jobqueue.fused_after",
							"How many tasks of a type a worker runs alone to measure how long they take.",
							"0 = every type counts as short until it proves to be longer.", &fused_after, fused_after,
							0, 1000, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
	DefineCustomEnumVariable(
		"jobqueue.queue_order", "What the weights of queues mean.",
		"weighted: shares of what a worker runs. strict: a queue with a higher weight always comes first.",
		&queue_order, queue_order, queue_orders, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
	DefineCustomBoolVariable("jobqueue.start_paused",
							 "Whether a start of the server pauses all databases, each until adopt() is called in it.",
							 "Set it in the configuration of a copy of a data directory.", &start_paused, start_paused,
							 PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
	MarkGUCPrefixReserved("jobqueue");
}

} // namespace jobqueue::settings
