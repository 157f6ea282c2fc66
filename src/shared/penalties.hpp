/*
 * penalties.hpp -- what follows for types and roles when a worker ends. If it is not known which of several tasks ended
 * a process, tasks of their type run alone for a while; all tasks of their role, if there are several types; and all
 * tasks only if nothing is known. And if workers of a role end again and again, the pause before its next worker grows.
 *
 * In shared memory, because schedulers come and go. C region (takes an LWLock), unless it says noexcept.
 */
#pragma once

#include "pg/clock.hpp"

namespace jobqueue {

/* For so long after one of several tasks has ended their process, such tasks run alone: so the culprit can be found. */
inline constexpr int64 alone_after_crash_us = 10 * USECS_PER_MINUTE;
inline constexpr int64 longest_penalty_us = USECS_PER_MINUTE;

/* Identifies a type in shared memory and in the flight recorder; the same after a restart; never 0. */
uint64 penalty_type(std::string_view type) noexcept;

/* "type" 0: all types of the role. */
void make_run_alone(Oid database, Oid role, uint64 type);
void make_all_run_alone();
/* Must a task of this type run alone now? */
bool must_run_alone(Oid database, Oid role, uint64 type);
/* Must any task run alone now? If not, must_run_alone() need not be asked for each type. */
bool somebody_runs_alone() noexcept;

enum class WorkerEnd {
	in_order,
	in_task,   /* what it ran ended it */
	own_error, /* ours, of the server, of the disk: no task's fault */
};

struct OwnError {
	bool is_new;	/* the latest worker of that role did not end by it */
	int64 delay_us; /* before the next one */
};

/* "survived": the worker has run some task to its end. */
void note_worker_end(Oid database, Oid role, WorkerEnd end, bool survived);
/* Called before that, for WorkerEnd::own_error: by which error the worker ends. */
OwnError note_own_error(Oid database, Oid role, int sqlerrcode);
/* Before this time no worker of that role is started; at_once = one may be started now. */
SteadyTime next_worker_at(Oid database, Oid role);
/* How many workers of the role in a row have ended by errors of our own. */
int own_errors(Oid database, Oid role);
/* Workers of the role run well again. True if they had not. */
bool forget_own_errors(Oid database, Oid role);

Size penalties_size();
void startup_penalties();

} // namespace jobqueue
