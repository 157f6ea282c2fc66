/*
 * task_store.hpp -- the statements the extension runs on its tables. The stores are the only sources that contain SQL.
 *
 * C++ region. Everything needs a Session and throws PgError. Strings that are returned are copies; Datums live as long
 * as the Session.
 */
#pragma once

#include "pg/session.hpp"
#include "shared/id_ranges.hpp"

namespace jobqueue::store {

/* What a chore takes at once: up to "count" rows, in its order, but for some; or, if there are any, these only. */
struct Batch {
	int count;
	std::span<const int64> only = {};
	std::span<const int64> except = {};
};

/* Adding */

struct NewTask {
	std::string_view type;
	std::optional<std::string> queue; /* none: the handler's, else 'default' */
	/* Queues of the producer, if not all: a handler that is limited to queues says only among them where tasks go. */
	std::span<const std::string> own_queues = {};
	int16 priority = 0;
	std::optional<TimestampTz> run_at;
	std::optional<int32> max_attempts;
	std::optional<Datum> timeout;  /* interval */
	std::optional<Datum> metadata; /* jsonb */
	std::string created_by;
	std::optional<std::string> group_key;
	bool blocked = false; /* it waits for other tasks: whoever knows that they are done makes it pending */
};
struct Added {
	int64 id;
	std::string queue;
	bool scheduled;
	bool blocked;
};
/* Throws 22023 if a text of it is longer than it may be: every way to add a task asks this. */
void check_bounds(const NewTask &task);
/* For statements of the stores: the first ten parameters of those that add a task. */
void describe(Params &params, const NewTask &task, Datum payload);
/* Likewise what they return: id, queue and status. */
std::vector<Added> added_from(const Rows &rows);
Added insert(const NewTask &task, Datum payload);
/* "payloads" is jsonb[] without nulls; in their order. */
std::vector<Added> insert_many(const NewTask &task, Datum payloads);

/* Claiming */

struct Lane {
	std::string queue;
	int16 priority;
	bool grouped = false; /* of the tasks that belong to groups, or of those that do not */
	/* Queues bytewise, as in the index. */
	friend auto operator<=>(const Lane &, const Lane &) = default;
};
/* What a claimer takes: these types, or all but these. Dead letters only if it asks for them. */
struct TypeFilter {
	bool others = false; /* every type but these, and dead letters of any type */
	bool dead_letters = false;
	std::vector<std::string> types; /* sorted */
	bool lets_nothing_through() const noexcept { return types.empty() && !others && !dead_letters; }
	std::string rows_for; /* if not empty, candidates come with their rows as a claim by this worker would leave them */
};
/* A pending task that is locked, and with that all but claimed. Datums live as long as the Session. */
struct Candidate {
	int64 id;
	std::optional<TimestampTz> not_before; /* its time has not come: it must be put aside */
	ItemPointerData place;
	uint32 lane; /* for the claimer */
	bool plain;	 /* no unique key, no earlier failure, no timeout of its own: nothing forbids to run it in a group */
	std::string type;
	int32 attempts;
	int32 max_attempts; /* 0 = as its handler says */
	Datum payload;		/* jsonb */
	Datum row;			/* jobqueue.tasks, if asked for, and small; else 0 */
	bool dead_letter;
	std::string group = {}; /* its key; empty = none */
	int64 admitted_as = 0;	/* the task as which it is counted under limits; 0 = it is not */
	bool passed = false;	/* locked, and of no use: another comes before it */
	bool limited = false;	/* under limits of its own, which say when it begins: not for groups */
	bool locked = true;		/* by this transaction */
	int64 bytes = 0;		/* of the payload */
};
/* For the SQL function that asks about each task a claim meets: does its filter let it through? */
bool is_wanted(std::string_view type, bool dead_letter);

/* Locks up to "count" pending tasks of a lane, in order, passing over locked ones. */
std::vector<Candidate> lock_pending(const Lane &lane, IdRange ids, const TypeFilter &filter, int count);
/* Likewise, but where it can it locks none, and passes over none: no more than their places is known of them. */
std::vector<Candidate> see_pending(const Lane &lane, IdRange ids, const TypeFilter &filter, int count);
/* Does it let such a task through? */
bool wants(const TypeFilter &filter, std::string_view type, bool dead_letter);

/* The first pending task of a group, in a lane of groups. */
struct GroupHead {
	std::string group;
	int64 id;
	std::string type;
	bool dead_letter;
	bool held;				  /* it waits for its next attempt, and the others for it */
	int64 low = PG_INT64_MIN; /* there is nothing before this id */
};
/* "held": a task that waits for its next attempt keeps its place. Of up to "count" groups, in the order of their keys, between these two; what lies beyond is not touched. */
std::vector<GroupHead> group_heads(const Lane &lane, std::string_view after, std::optional<std::string_view> before,
								   int count, bool held);
/* Of these groups, from the given ids on. */
std::vector<GroupHead> heads_of(const Lane &lane, std::span<const std::string> groups, std::span<const int64> lows,
								bool held);
/*
 * Locks up to "each" tasks of each of these groups, in their order from the head on. Those that cannot be had in this order,
 * because the head is another by now, or locked, are "passed". They are not asked whether the filter wants them.
 */
std::vector<Candidate> lock_in_groups(const Lane &lane, std::span<const GroupHead> heads, const TypeFilter &filter,
									  int each, bool held);
/* Since when the first pending task of a lane has waited; now, if there is none. */
TimestampTz waiting_since(const Lane &lane);
/* The first pending task in the lane that the filter lets through. */
std::optional<int64> first_pending(const Lane &lane, IdRange ids, const TypeFilter &filter);
/* Pending tasks whose time has not come become scheduled. */
void put_aside(std::span<const int64> ids);

struct Attempt {
	int64 id;
	std::string type;
	std::string queue;
	int16 priority;
	int32 attempt;
	int32 max_attempts;
	int64 timeout_us; /* 0 = as its handler says */
	Datum payload;	  /* jsonb */
	Datum row;		  /* jobqueue.tasks; 0 = it is large, or nobody needs it: row_as_claimed() has it */
};
/*
 * Tasks that this transaction has locked become processing; "lease" DT_NOEND: by a worker in the server. In their order,
 * without those that the transaction itself has changed since.
 */
std::vector<Attempt> begin_attempts(std::span<const Candidate> tasks, TimestampTz lease, std::string_view claimed_by);
/*
 * Likewise, for workers outside: their rows as columns of jobqueue.tasks; null for those that were not locked, and are
 * somebody else's by now. "unhandled": no task has a handler.
 */
std::vector<HeapTuple> claim(std::span<const Candidate> tasks, bool unhandled, TimestampTz lease,
							 std::string_view claimed_by);

/*
 * The row of a task that begin_attempts() has begun, or what it would make of it if this transaction has locked it; none if
 * it has changed meanwhile. "attempts": before it began. For the handler's eyes: nothing is written.
 */
std::optional<Datum> row_as_claimed(int64 id, int32 attempts, std::string_view claimed_by);

/* Copies its Datums to where they outlive the Session. */
void keep(Attempt &attempt, MemoryContext context);

struct LaneHead {
	Lane lane;
	int64 id;
};
/* The first pending task of every lane. */
std::vector<LaneHead> lane_heads();

/* Ending a claim. "in_server": by a worker; a claim of a worker cannot be ended from outside, nor the reverse. */

/* Of claims that are still what (ids, attempts) say. "results" is jsonb[] or 0. "slot" 0: delete instead of keeping. */
std::vector<int64> complete(std::span<const int64> ids, std::span<const int32> attempts, std::optional<Datum> results,
							bool in_server, int slot);

/* A task that ran under its lock alone, and was never processing in the eyes of others. */
struct Finished {
	int64 id;
	ItemPointerData place;
	TimestampTz processed_at;
	std::optional<Datum> result; /* jsonb */
};
/*
 * Locked pending tasks become completed, as if they had been claimed by "claimed_by". Returns how many: others were
 * changed by this transaction itself. "slot" 0: delete instead of keeping.
 */
uint64 complete_locked(std::span<const Finished> tasks, std::string_view claimed_by, int slot);

struct Claim {
	int64 id;
	std::string type;
	std::string queue;
	int16 priority;
	int32 attempt;
	int32 max_attempts;
	std::string claimed_by;
	int32 crashes;
	bool dead_letter;
	bool in_server;
	std::string group; /* empty = none */
	int32 failed;	   /* attempts so far, without this one */
};
/* How many attempts of a task have failed so far. */
int32 failed_attempts(int64 id);
/* Locks the task of a claim, unless the claim is over. */
std::optional<Claim> lock_claim(int64 id, int32 attempt, bool in_server);
/* Of these tasks, those that nobody else has locked. They are locked. */
std::vector<int64> lock_free(std::span<const int64> ids);
/*
 * Like lock_claim(), for a worker's claim that is known to have existed when the server crashed, but may itself have been
 * forgotten: workers commit their claims without waiting for the disk. Then it is made again.
 */
std::optional<Claim> lock_crashed_claim(int64 id, int32 attempt);
/* Leases that ended before "now". Locked. */
std::vector<Claim> lock_expired(TimestampTz now, const Batch &batch);
/* Which they are. Neither locked nor changed; likewise the others of this kind. */
std::vector<int64> expired_ids(TimestampTz now, const Batch &batch);
/* Claims of workers, dead or alive. Not locked. */
std::vector<Claim> claims_in_server();

struct Failure {
	std::string message;
	std::string sqlstate;
	bool crash = false;								 /* it took its worker or the server down */
	std::vector<std::string> keys = {}, values = {}; /* what else is known: detail, hint, context and so on */
};
/* A locked claim ends, and the task waits: at once, or until a time. Without failure, it costs no attempt. */
void put_back(int64 id, std::optional<TimestampTz> run_at, const std::optional<Failure> &failure);
/* A locked claim ends, and the task has failed. */
void give_up(int64 id, const Failure &failure);
/* A locked claim ends, and the task waits in another queue, which no worker serves. */
void dead_letter(int64 id, std::string_view queue, const Failure &failure);
bool extend_lease(int64 id, int32 attempt, TimestampTz lease);
bool set_progress(int64 id, int32 attempt, float fraction, const std::optional<std::string> &message);

/* By people */

/* Any task that is not finished; none if there is no such task. */
struct Cancelled {
	Lane lane;
	bool runs_in_server;
	std::string group; /* empty = none */
};
std::optional<Cancelled> cancel(int64 id, const std::optional<std::string> &reason, int slot);
/* Failed and cancelled tasks and dead letters come back, unless their unique key is taken; scheduled ones get another time. */
std::optional<Claim> retry(int64 id, std::optional<TimestampTz> run_at);

/* Which tasks a bulk operation is about; what is none matches all. Times are those of creation: since <= t < until. */
struct Selection {
	std::optional<std::string> queue, type, status;
	std::optional<TimestampTz> since, until;
	int32 count;
};
/* What they take is locked by nobody else; "passed" counts what was left alone because its unique key is taken. */
std::vector<int64> select_live(const Selection &selection);
struct Retried {
	std::vector<Claim> tasks;
	int64 passed = 0;
};
Retried retry_failed(const Selection &selection);
struct Removed {
	int64 id;
	bool completed;
	Lane lane;
	std::string group; /* empty = none */
};
std::vector<Removed> delete_tasks(const Selection &selection);
std::vector<Removed> purge(std::string_view queue);

/* Watching */

struct Look {
	Datum row; /* jobqueue.tasks */
	std::string status;
	std::string queue;
	std::string created_by;
	TransactionId inserted_by;
};
std::optional<Look> look(int64 id);
/* Where these tasks are, whatever their status; fewer if there are no such tasks. */
std::vector<std::string> queues_of_tasks(std::span<const int64> ids);

/* Configuration */

/* A row of jobqueue.access; no queue = all. */
struct AccessEntry {
	std::string role;
	Oid role_oid; /* counts if it still has this name */
	std::string access;
	std::optional<std::string> queue;
};
std::vector<AccessEntry> access_entries();

/* A row of jobqueue.limits. */
struct Limits {
	std::string role;
	std::optional<int32> max_workers, max_queued, max_payload;
};
std::vector<Limits> limits();
/* Tasks of a role that wait; counts up to "most" + 1. */
int64 count_waiting(std::string_view created_by, int64 most);

/* A function that was registered. */
struct Function {
	std::string signature; /* schema-qualified; empty = none */
	Oid owner;			   /* at that time */
	bool operator==(const Function &) const = default;
};
struct Handler {
	std::string type;
	Function function;
	std::string queue;
	std::string run_as;
	int32 max_attempts;
	int32 batch_size;
	int64 timeout_us; /* 0 = none */
	Function backoff_function;
	Oid role;		/* InvalidOid: there is no such role, or another one of that name */
	bool superuser; /* of the role, as are the next two */
	bool can_login;
	bool can_connect;
	bool governed; /* it gets tasks of those queues only in which its role is a consumer or manager */
};
/* Those of this incarnation, ordered by type. */
std::vector<Handler> handlers();
std::vector<Handler> handlers_of(std::string_view role);
/* Null if the type is not among them. */
const Handler *find_handler(const std::vector<Handler> &handlers, std::string_view type);
std::optional<Handler> handler_for_update(std::string_view type);
/* What people say about a handler. Intervals and arrays are Datums. */
struct HandlerSettings {
	std::string type;
	std::optional<std::string> function, queue, run_as;
	std::optional<int32> max_attempts;
	std::optional<std::string> backoff, backoff_function;
	std::optional<Datum> first_delay, max_delay; /* interval */
	std::optional<Datum> jitter;				 /* real */
	std::optional<Datum> timeout;				 /* interval */
	std::optional<Datum> discard_sqlstates;		 /* text[] */
	std::optional<std::string> dead_letter_queue;
	std::optional<int32> batch_size;
	std::optional<std::string> on_failure; /* empty: none */
	bool governed = false;
};
void put_handler(const HandlerSettings &handler);
/* What is none stays. A timeout of 0, an empty list and an empty queue mean none. */
void change_handler(const HandlerSettings &change);
bool delete_handler(std::string_view type);
/* A queue for dead letters that handlers' tasks go to by default, so that nobody would serve them; none if all is well. */
std::optional<std::string> unserved_queue();

/* What becomes of a type's failed attempts. */
struct FailurePolicy {
	std::string backoff = "exponential";
	int64 first_delay_us = 5 * USECS_PER_SEC;
	int64 max_delay_us = USECS_PER_HOUR;
	double jitter = 0.2;
	bool discard = false; /* this SQLSTATE is not to be tried again */
	std::optional<std::string> dead_letter_queue;
	std::optional<std::string> on_failure; /* when it has failed for good, a task of this type is added by ... */
	std::string run_as;					   /* the handler's role */
	Oid role = InvalidOid;				   /* likewise; invalid if it is no more */
};
/* The defaults for a type without handler, or with one that has no say in the queue. */
FailurePolicy failure_policy(const Claim &claim, std::string_view sqlstate);

/* What is told to the task that is added when one has failed for good. jsonb, both. */
struct FailureReport {
	Datum payload;
	Datum metadata;
};
/* None if it was itself added for such a reason: one failure leads to one such task. Before the task leaves its row. */
std::optional<FailureReport> failure_report(int64 id, const Failure &failure,
											const std::optional<std::string> &dead_letter_queue);

/* Whoever's they are. */
struct HandledType {
	std::string type;
	std::string queue;
	bool governed; /* in the eyes of others it is handled in this queue only */
	bool is_served;
};
std::vector<HandledType> handled_types();

/* Queues from which workers claim nothing: paused ones, and those for dead letters. */
struct Pauses {
	bool all = false;
	std::vector<std::string> queues;
	std::vector<std::string> dead_letter_queues; /* not paused for claim() */
};
Pauses pauses();
/* Empty queue: all. True if something changed. */
bool pause(const std::optional<std::string> &queue);
bool resume(const std::optional<std::string> &queue);

/* Is this database what the incarnation says, on the server that it says, and its tasks its own? */
struct Standing {
	bool own = false;
	bool settled = false;		   /* the incarnation says which server this is */
	const char *reason = nullptr;  /* why it is not our own */
	const char *told_by = nullptr; /* likewise, if that is not in the table yet: disown() */
};
Standing standing();
bool is_own_incarnation();
/* Does a subscription bring tasks into this database? */
bool is_replicated();
/* Writes down which server this is. */
void settle();
/* From now on it is nobody's, until adopt(), even if what told us so is gone. */
void disown();
/* Makes it ours, handlers that came from elsewhere too; false if it was. New ids come after those that are there. */
bool adopt();

struct Extension {
	Oid oid;
	Oid owner;
	std::string version;
};

/* Maintenance */

/* Scheduled tasks with from <= run_at <= now become pending; if they are named, those that are due by now. */
struct Due {
	int64 id;
	std::string type;
	std::string queue;
	int16 priority;
	TimestampTz run_at;
	std::string group; /* empty = none */
};
std::vector<Due> promote_due(TimestampTz from, TimestampTz now, const Batch &batch);
std::vector<int64> due_ids(TimestampTz from, TimestampTz now, const Batch &batch);
/* Likewise, but of the 10,000 that became due last, and from each queue as many, if it has them. */
std::vector<Due> promote_in_turns(TimestampTz from, TimestampTz now, const Batch &batch);
/* The next scheduled task of these types, but for some queues, becomes pending, whatever its time. For drain(). */
std::optional<Due> promote_next(const std::optional<std::string> &queue, std::span<const std::string> types,
								std::span<const std::string> except);
/* When the next scheduled task from a time on is due, and when the next lease ends but for some; DT_NOEND if never. */
TimestampTz next_due(TimestampTz from);
TimestampTz next_lease(std::span<const int64> except);
int64 last_id();
/* Tasks finished by hand go to their leaf; returns how many. */
int64 archive_finished(int slot, const Batch &batch);
std::vector<int64> finished_ids(const Batch &batch);
/* Failed tasks that finished before; returns how many. */
int64 purge_failed(TimestampTz before, const Batch &batch);
std::vector<int64> purgeable_ids(TimestampTz before, const Batch &batch);

struct Ring {
	int slot;
	TimestampTz since;
};
/* Until it turns for the first time, no row says so: leaf 1, since the installation. */
Ring history_ring();
void set_history_ring(const Ring &ring);
/* Throws 55P03 if somebody reads it at the moment: nobody shall wait for us. */
void empty_history(int slot);
/* A history leaf with rows in it; 0 if there is none. */
int occupied_history();

} // namespace jobqueue::store
