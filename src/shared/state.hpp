/*
 * state.hpp -- what the processes share: one block of shared memory of fixed size, atomics for what changes often, one
 * LWLock for handing out slots. It exists only where the library is preloaded. What is done with the slots is in
 * databases.hpp, workers.hpp, waiters.hpp, deaths.hpp, process_room.hpp and wake_ups.hpp.
 *
 * Everything here is noexcept and safe in any region, unless it says otherwise. No pointer is kept in shared memory.
 */
#pragma once

#include "shared/id_ranges.hpp"
#include "shared/name_hash.hpp"

namespace jobqueue {

inline constexpr int max_waiters = 256;
inline constexpr uint64 ring_size = 32768; /* a power of two */
inline constexpr int queue_name_size = 64;
inline constexpr int no_procno = -1;
inline constexpr int max_deaths = 256;
inline constexpr int progress_message_size = 200;

/* The bit of a type in a small set of types. Such a set may seem to have a type that it has not, but lacks none. */
constexpr uint64 type_mask(uint64 type_hash) noexcept {
	return 1ULL << (type_hash & 63);
}

enum class SchedulerState : uint32 {
	none,	  /* may be started */
	starting, /* registered, not yet attached */
	running,  /* attached */
	absent,	  /* ended: the database does not have the extension */
	retired,  /* ended: nothing to do before next_run, unless it is wanted */
	paused,	  /* ended: a restored copy, or another version of the extension; back when the configuration changes */
};

/* Why the launcher must look at pg_database again. */
enum class Rescan : uint32 {
	changes = 1,	  /* databases came, went, or changed */
	from_scratch = 2, /* also look again into databases that had no extension */
};

struct DatabaseSlot {
	pg_atomic_uint32 database; /* its OID; 0 = free slot */
	pg_atomic_uint32 state;	   /* SchedulerState */
	pg_atomic_uint32 scheduler_procno;
	pg_atomic_uint32 scheduler_pid;
	pg_atomic_uint32 wanted;		  /* there is something for the scheduler to look at */
	pg_atomic_uint32 let_go;		  /* pid of a backend that needs the database free of our processes; 0 = none */
	pg_atomic_uint32 interrupted;	  /* ended workers' tasks are not charged: let_go, or a scheduler left orphans */
	pg_atomic_uint32 interruptions;	  /* how often let_go was set */
	pg_atomic_uint32 retire;		  /* the scheduler must end, to make room for another process */
	pg_atomic_uint32 orphans;		  /* a worker ended while it had a task */
	pg_atomic_uint32 by_hand;		  /* rows were finished by hand */
	pg_atomic_uint32 history_leaf;	  /* leaf being filled; 0 = not known */
	pg_atomic_uint64 configuration;	  /* grows when handlers, queues or the incarnation change */
	pg_atomic_uint32 paused_reported; /* the log already says why the database is paused */
	pg_atomic_uint64 paused_configuration; /* with which the scheduler found that nothing may run */
	pg_atomic_uint64 due_at;	   /* earliest time announced since the scheduler last took it; PG_INT64_MAX = none */
	pg_atomic_uint64 served_since; /* since when tasks run here; before, it was down or paused; 0 = not yet */
	pg_atomic_uint64 next_run;	   /* when a retired scheduler must be started again; PG_INT64_MAX = no time */
	pg_atomic_uint64 notified;	   /* position in the ring up to which NOTIFY has been sent */
	pg_atomic_uint64 admission_ready; /* the configuration as of which running tasks are counted, see admission.hpp */
	pg_atomic_uint64 role_waiting_since; /* since when a role with work has lacked a worker's process; 0 = none */
	/*
	 * Since when the database has waited for a process, for its scheduler or for a worker; 0 = it does not wait. Unlike
	 * role_waiting_since it outlives the scheduler: a database that makes room for others does not lose its turn.
	 */
	pg_atomic_uint64 database_waiting_since;
	pg_atomic_uint64 scheduler_since;	/* when its scheduler was started */
	pg_atomic_uint64 released_at;		/* the slot is not reused for a while: a process may still refer to it */
	pg_atomic_uint32 shortage_reported; /* the log already says that the database waits */
	/* No task that others wait for has an id outside of these bounds, see dependencies.hpp. */
	pg_atomic_uint64 parents_low, parents_high;
	pg_atomic_uint64 parents_widened;	   /* grows when a transaction is about to widen the bounds */
	pg_atomic_uint32 dependencies_written; /* how many of these transactions have not yet ended */
	slock_t ended_lock;
	IdRanges ended; /* tasks that may have ended, or that others may have begun to wait for */
};

enum class WorkerState : uint32 {
	free,
	starting, /* reserved by a scheduler; the process is starting */
	running,  /* has or looks for a task */
	idle,	  /* sleeps; any announcement may wake it */
	napping,  /* sleeps for milliseconds; only an announcement of one of its types may wake it */
};

struct WorkerSlot {
	pg_atomic_uint32 state; /* WorkerState */
	pg_atomic_uint32 database;
	pg_atomic_uint32 role;
	pg_atomic_uint32 pid; /* 0 until attached */
	pg_atomic_uint32 procno;
	pg_atomic_uint32 can_login; /* may the role log in, as the scheduler saw it */
	pg_atomic_uint32 retire;	/* the worker must leave, after its task if it has one */
	pg_atomic_uint32 cancels;	/* how often cancel() has interrupted this slot */
	pg_atomic_uint64 token;		/* of this worker alone, among all since the start of the server */
	pg_atomic_uint64 connected; /* token of the latest worker in this slot that has connected */
	pg_atomic_uint64 types;		/* type_mask of what it handles */
	pg_atomic_uint64 task;		/* id; 0 = none */
	pg_atomic_uint64 cancel;	/* id of a task that was cancelled while it ran here */
	pg_atomic_uint64 cancelled_at;
	pg_atomic_uint32 attempt;	 /* of the task */
	pg_atomic_uint32 in_handler; /* a handler runs; if not: our own code, which may take any time */
	pg_atomic_uint64 deadline;	 /* when the handler's time was up; PG_INT64_MAX = it is not */
	pg_atomic_uint64 end;		 /* id of the task for which the process was told to end */
	pg_atomic_uint64 ended_at;	 /* when it was told so */
	pg_atomic_uint64 type;		 /* penalty_type() of what it runs */
	pg_atomic_uint32 stuck;		 /* the process did not end: it does not count towards jobqueue.max_workers */
	pg_atomic_uint64 started_at;
	pg_atomic_uint64 state_since;
	pg_atomic_uint32 progress_version; /* odd while the worker writes what follows */
	float4 progress;				   /* negative = none */
	char progress_message[progress_message_size];
};

/* Why a worker ended while it ran a task. */
enum class DeathCause : uint32 {
	unknown,	/* not recorded, or forgotten since */
	terminated, /* by somebody else */
	fatal,		/* by what it ran: an error that ended the process */
	overdue,	/* by us: it ran out of time and did not respond to cancellation */
	innocent,	/* by nothing that the task has done: it is given back */
	own_error,	/* by an error of our own, in which the task has no part */
};

struct Death {
	Oid database;
	int64 task;
	int32 attempt;
	bool fused; /* it ran in a fused batch: others saw it as pending */
	DeathCause cause;
	Oid role;
};

/* A session in wait_for(). */
struct WaiterSlot {
	pg_atomic_uint32 database; /* 0 = free */
	pg_atomic_uint32 procno;
	pg_atomic_uint64 task;
};

struct SharedState {
	LWLock *lock; /* slots are handed out and freed under it */
	LWLock *positions_lock;
	LWLock *admission_lock;
	uint64 admission_serial;	/* under admission_lock, as is the next one */
	int64 admission_evicted_ns; /* when room was made last */
	uint64 server_start;		/* identifies this start of the server's shared memory */
	NameKey name_key;			/* of the hashes of names in it */
	int worker_count;			/* number of worker slots */
	pg_atomic_uint32 launcher_procno;
	pg_atomic_uint32 launcher_wanted;
	pg_atomic_uint32 prepared;	 /* CREATE EXTENSION, or the like, was prepared for two-phase commit */
	pg_atomic_uint32 rescan;	 /* Rescan, or 0 */
	pg_atomic_uint64 token;		 /* of the latest worker */
	pg_atomic_uint64 starved_at; /* when a busy worker was told to leave after its task, to make room; 0 = none */
	pg_atomic_uint64 room_asked_at;
	pg_atomic_uint64 launcher_waiting_since; /* since when a database has lacked a scheduler's process; 0 = none */
	slock_t ring_lock;						 /* held while an announcement is written */
	pg_atomic_uint64 announced;				 /* next position in the ring */
	pg_atomic_uint32 waiters;				 /* number of waiter slots in use */
	uint32 death_count;						 /* how many there were; the latest are in the array */
	Death deaths[max_deaths];
	int database_limit;				  /* number of database slots */
	pg_atomic_uint32 database_count;  /* no slot from here on has ever been used */
	pg_atomic_uint64 configurations;  /* grows with each slot that is handed out */
	pg_atomic_uint32 database_missed; /* a backend wanted a slot, and all were taken */
	WaiterSlot waiter[max_waiters];
	WorkerSlot workers[FLEXIBLE_ARRAY_MEMBER]; /* worker_count */
};

/* Null where the library is not preloaded. */
SharedState *shared() noexcept;

/* The size of the area. This, and what follows up to use_shared_state(), is for shared_memory.cpp. C region. */
Size shared_state_size();
inline constexpr const char *lwlock_tranche = "jobqueue";
inline constexpr int lwlock_count = 3;
struct PreparedState {
	SharedState *state;
	DatabaseSlot *databases;
};
/* Finds the area, or makes it and returns true. Called at start, under AddinShmemInitLock. */
bool prepare_shared_state(PreparedState *prepared);
/* From now on shared() is not null. */
void use_shared_state(const PreparedState &prepared) noexcept;

/* The slots that are, or were, in use. */
std::span<DatabaseSlot> database_slots() noexcept;
DatabaseSlot *database_slot(int index) noexcept;
int index_of(const DatabaseSlot *slot) noexcept;

/* All slots of workers. */
std::span<WorkerSlot> worker_slots() noexcept;

void atomic_min(pg_atomic_uint64 *target, uint64 value) noexcept;
void atomic_max(pg_atomic_uint64 *target, uint64 value) noexcept;

inline SchedulerState scheduler_state(DatabaseSlot *slot) noexcept {
	return static_cast<SchedulerState>(pg_atomic_read_u32(&slot->state));
}
inline WorkerState worker_state(WorkerSlot *slot) noexcept {
	return static_cast<WorkerState>(pg_atomic_read_u32(&slot->state));
}
/* Does the worker count towards jobqueue.max_workers? */
inline bool takes_place(WorkerSlot *slot) noexcept {
	return worker_state(slot) != WorkerState::free && pg_atomic_read_u32(&slot->stuck) == 0;
}
inline void set_state(WorkerSlot *slot, WorkerState state) noexcept {
	pg_atomic_write_u64(&slot->state_since, static_cast<uint64>(GetCurrentTimestamp()));
	pg_atomic_write_u32(&slot->state, static_cast<uint32>(state));
}
/* Is a scheduler looking after this database? */
inline bool is_served(DatabaseSlot *slot) noexcept {
	return slot && scheduler_state(slot) == SchedulerState::running;
}

} // namespace jobqueue
