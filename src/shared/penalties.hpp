/*
 * penalties.hpp -- what follows when a worker ends, and for whom. When a process ends and it is not known which of
 * several tasks ended it, their type runs alone for a while; then their role; and all tasks only when nothing is known.
 * And when workers of a role end again and again, the pause before its next worker grows.
 *
 * In shared memory, because schedulers come and go. C region (takes an LWLock), unless it says noexcept.
 */
#pragma once

#include "pg/clock.hpp"

namespace jobqueue {

/* For so long after a fused batch ended its process, every task runs alone: then the culprit can be told. */
inline constexpr int64 alone_after_crash_us = 10 * USECS_PER_MINUTE;
inline constexpr int64 longest_penalty_us = USECS_PER_MINUTE;

/* Names a type in shared memory, and in the flight recorder, after a restart as before: never 0. */
uint64 penalty_type(std::string_view type) noexcept;

/* "type" 0: all types of the role. */
void make_run_alone(Oid database, Oid role, uint64 type);
void make_all_run_alone();
/* Shall nothing be fused with a task of this type now? That of the database's slot is another question. */
bool must_run_alone(Oid database, Oid role, uint64 type);
/* False if nobody must: the question need not be asked for each type. */
bool somebody_runs_alone() noexcept;

enum class WorkerEnd {
	in_order,
	in_task,   /* what it ran ended it */
	own_error, /* ours, of the server, of the disk: no task's fault */
};

struct OwnError {
	bool is_new;	/* not what the latest worker of that role ended by */
	int64 delay_us; /* before the next one */
};

/* "survived": it has run some task to its end. */
void note_worker_end(Oid database, Oid role, WorkerEnd end, bool survived);
/* Before that, of WorkerEnd::own_error: by what. */
OwnError note_own_error(Oid database, Oid role, int sqlerrcode);
/* Before this time no worker of that role is started; at_once if it may. */
SteadyTime next_worker_at(Oid database, Oid role);
/* How many of its workers in a row have ended by errors of our own. */
int own_errors(Oid database, Oid role);
/* Its workers do well again: true if they had not. */
bool forget_own_errors(Oid database, Oid role);

Size penalties_size();
void startup_penalties();

} // namespace jobqueue
