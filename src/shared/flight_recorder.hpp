/*
 * flight_recorder.hpp -- which task each worker is running, in memory that survives a crash of the server although its
 * shared memory does not: the postmaster makes it when it starts, and its children inherit it. So it is known which
 * task took the server down, and no other is charged.
 *
 * A process that must quit because another one has crashed marks its own entry, and the entries of all workers that are
 * still there then, because a worker that has been stopped cannot do it itself. A worker that is gone without the mark
 * was the cause: a suspect.
 *
 * Where nothing starts the server again at once (restart_after_crash = off), the postmaster leaves the suspects in a
 * file when it ends. The file has no other use: nothing is mapped from it, and it does no harm if it is changed or lost
 * meanwhile. It is not valid after the machine has been started again, nor in a copy of the data directory. If the
 * postmaster is killed nobody writes it, and then nobody is suspected.
 *
 * Everything is noexcept and safe in any region and in signal handlers, unless it says otherwise.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

struct Suspect {
	Oid database;
	int64 task; /* 0 = one of several, ... */
	int32 attempt;
	Oid role;	 /* ... of this role, ... */
	uint64 type; /* ... and of this type, see penalties.hpp; 0 = of whatever type */
	bool killed; /* by the scheduler, because it was stuck */
};

/*
 * Makes the memory, or finds out who is suspected. C region; the postmaster calls it at every start of shared memory.
 */
void open_flight_recorder();
/* Takes over what the file says, and makes it ready for the next time. C region; before any scheduler is started. */
void read_flight_recorder();
/* Without its memory, a crash cannot be told from others'. */
bool flight_recorder_works() noexcept;

/* "worker" is the index of its slot. */
void record_running(int worker, Oid database, int64 task, int32 attempt) noexcept;
/* Several tasks of a role, and nobody knows which of them it will be. "type" as in Suspect. */
void record_several(int worker, Oid database, Oid role, uint64 type) noexcept;
void record_idle(int worker) noexcept;
/* Somebody else's crash ends this process; "worker" -1: it is none. */
void record_innocence(int worker) noexcept;
/* What is about to end this worker, and perhaps the server, is not the fault of its task. */
void record_mishap(int worker) noexcept;
/* Its task is about to be killed. */
void record_kill(int worker) noexcept;

/* The first suspect of a database; false if there is none. */
bool next_suspect(Oid database, int *place, Suspect *suspect) noexcept;
/* It has been charged, and that is on disk. */
void forget_suspect(const Suspect &suspect) noexcept;

} // namespace jobqueue
