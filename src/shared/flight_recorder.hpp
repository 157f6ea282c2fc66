/*
 * flight_recorder.hpp -- which task each worker is running, in a small file that survives a crash of the server though
 * shared memory does not. So the next start knows which task took the server down, and charges no other.
 *
 * The postmaster maps the file; its children inherit the mapping. A worker that is told to quit because of somebody
 * else's crash marks its entry; one that is gone without the mark was the cause: a suspect. If the postmaster itself
 * was killed nobody is told to quit, and then nobody is suspected; nor is anybody after the machine has been started
 * anew, nor in a copy of the data directory.
 *
 * Everything is noexcept and safe in any region and in signal handlers, unless it says otherwise.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

struct Suspect {
	Oid database;
	int64 task; /* 0 = one of several */
	int32 attempt;
	bool killed; /* by the scheduler, because it was stuck */
};

/* Opens the file and finds out who is suspected. C region; called at every start of shared memory. */
void open_flight_recorder();
/* Without it (its directory cannot be written), a crash cannot be told from others'. */
bool flight_recorder_works() noexcept;

/* "worker" is the index of its slot. */
void record_running(int worker, Oid database, int64 task, int32 attempt) noexcept;
/* Several tasks, and nobody knows which of them it will be. */
void record_several(int worker, Oid database) noexcept;
void record_idle(int worker) noexcept;
/* Somebody else's crash ends this process; "worker" -1: it is none. */
void record_innocence(int worker) noexcept;
/* Its task is about to be killed. */
void record_kill(int worker) noexcept;

/* The first suspect of a database; false if there is none. */
bool next_suspect(Oid database, Suspect *suspect) noexcept;
/* It has been charged, and that is on disk. */
void forget_suspect(const Suspect &suspect) noexcept;

} // namespace jobqueue
