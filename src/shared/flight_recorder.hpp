/*
 * flight_recorder.hpp -- which task each worker is running, in memory that survives a crash of the server although its
 * shared memory does not: the postmaster makes it when it starts, and its children inherit it. So it is known which
 * task took the server down, and no other is charged.
 *
 * A process that must quit because another one has crashed marks its own entry as innocent, and the entries of all
 * workers that are still alive then, because a worker that has been stopped cannot do it itself. A worker that is gone
 * without this mark was the cause: its task is a suspect.
 *
 * Where nothing starts the server again at once (restart_after_crash = off), the postmaster leaves the suspects in a
 * file when it ends. The file has no other use: nothing is mapped from it, and it does no harm if it is changed or lost
 * meanwhile. It is not valid after the machine has been started again, nor in a copy of the data directory. If the
 * postmaster is killed, it cannot write the file, and no task is suspected.
 *
 * Everything is noexcept and safe in any region and in signal handlers, unless it says otherwise.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

struct Suspect {
	Oid database;
	int64 task; /* 0 = one of several tasks, it is not known which */
	int32 attempt;
	Oid role;	 /* of those: their role */
	uint64 type; /* of those: their type, see penalties.hpp; 0 = any type */
	bool killed; /* by the scheduler, because it was stuck */
};

/*
 * Makes the memory, or finds out which tasks are suspects. C region; the postmaster calls it at every start of shared
 * memory.
 */
void open_flight_recorder();
/* Takes over the suspects in the file, and empties it for the next time. C region; before any scheduler is started. */
void read_flight_recorder();
/* False if there is no memory for it: then it is not known which task caused a crash. */
bool flight_recorder_works() noexcept;

/* "worker" is the index of its slot. */
void record_running(int worker, Oid database, int64 task, int32 attempt) noexcept;
/* Several tasks of a role run, and it will not be known which of them crashed the server. "type" as in Suspect. */
void record_several(int worker, Oid database, Oid role, uint64 type) noexcept;
void record_idle(int worker) noexcept;
/* This process must quit because another one has crashed. "worker" -1: this process is no worker. */
void record_innocence(int worker) noexcept;
/* The task is not to blame for what is about to end this worker, and perhaps the server. */
void record_mishap(int worker) noexcept;
/* The scheduler is about to kill this worker, whose task is stuck. */
void record_kill(int worker) noexcept;

/* The next suspect of a database from *place on, which moves behind it; false if there is none. */
bool next_suspect(Oid database, int *place, Suspect *suspect) noexcept;
/* The suspect has been dealt with; if it was charged, that is on disk. */
void forget_suspect(const Suspect &suspect) noexcept;

} // namespace jobqueue
