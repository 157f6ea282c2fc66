/*
 * processes.hpp -- the background processes: how they are registered, and what launcher, scheduler and worker share.
 *
 *   launcher    one per cluster; starts schedulers
 *   scheduler   one per database with the extension; starts workers
 *   worker      runs the handlers of one role in one database
 */
#pragma once

#include "pg/extension.hpp"
#include "pg/transaction.hpp"
#include "shared/state.hpp"

namespace jobqueue {

/* C region; called by _PG_init in the postmaster. */
void register_launcher();
void install_utility_hook();

/* C regions; used by the launcher and the scheduler. The handle is null if no process slot was free. */
BackgroundWorkerHandle *start_scheduler(DatabaseSlot *slot);
BackgroundWorkerHandle *start_worker(WorkerSlot *slot);

/* For SIGINT: nobody can cancel our own work, but lock_timeout sends this signal. */
void on_lock_timeout(int signal);

/* Installs signal handlers, "on_interrupt" for SIGINT. "worker": index of its slot. C region; first in a process. */
void prepare_process(pqsigfunc on_interrupt, int worker = -1);

/* Sleeps until woken, or for this time; then returns reload_settings(). C region. */
bool wait_for_news(int64 milliseconds);
/* Reloads the settings if the server has asked for it: true. C region; outside of transactions. */
bool reload_settings();

/* The value of claimed_by for a worker: a name that no other worker has had or will have. */
std::string worker_token(uint64 token);
/* When was this token given out? */
enum class TokenAge {
	current,	  /* since shared memory was made: at the start, or after the latest crash */
	before_crash, /* before that, but by the same postmaster */
	earlier,
};
TokenAge token_age(std::string_view token);

/* Grows with every change of roles and their rights that this process hears of, at the start of a transaction. */
uint64 roles_generation();
void watch_roles();
/* Counts rights that are granted by hand, too. In a transaction, when the configuration has been read. */
void watch_rights();

/* Shows in pg_stat_activity what the process is doing. C region. */
void report_running(const char *what);
void report_idle();

} // namespace jobqueue
