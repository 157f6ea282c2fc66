/*
 * task_store.hpp -- every statement the extension runs on its tables. Nothing else in the sources contains SQL.
 *
 * C++ region. Everything needs a Session and throws PgError. Strings that are returned are copies; Datums live as long
 * as the Session.
 */
#pragma once

#include "pg/session.hpp"

namespace jobqueue::store {

/* Adding */

struct NewTask {
	std::string_view type;
	std::optional<std::string> queue; /* none: the handler's, else 'default' */
	int16 priority = 0;
	std::optional<TimestampTz> run_at;
	std::optional<int32> max_attempts;
	std::optional<Datum> metadata; /* jsonb */
	std::string created_by;
};
struct Added {
	int64 id;
	std::string queue;
	bool scheduled;
};
Added insert(const NewTask &task, Datum payload);
/* "payloads" is jsonb[] without nulls; in their order. */
std::vector<Added> insert_many(const NewTask &task, Datum payloads);

/* Claiming */

struct Lane {
	std::string queue;
	int16 priority;
	/* Queues bytewise, as in the index. */
	friend auto operator<=>(const Lane &, const Lane &) = default;
};
/* Which types a claimer takes: these, or every type without a handler. */
struct TypeFilter {
	bool unhandled = false;
	std::vector<std::string> types;
};
struct Candidate {
	int64 id;
	std::optional<TimestampTz> not_before; /* its time has not come: it must be put aside */
};
/* Locks up to "count" pending tasks of a lane from an id on, in order, passing over locked ones. */
std::vector<Candidate> lock_pending(const Lane &lane, int64 from, const TypeFilter &filter, int count);
/* The first pending task in the lane from an id on that the filter lets through. */
std::optional<int64> first_pending(const Lane &lane, int64 from, const TypeFilter &filter);
/* Pending tasks whose time has not come become scheduled. */
void put_aside(std::span<const int64> ids);

struct Attempt {
	int64 id;
	std::string type;
	std::string queue;
	int16 priority;
	int32 attempt;
	int32 max_attempts;
	Datum payload; /* jsonb */
	Datum row;	   /* jobqueue.tasks */
};
/* Locked tasks become processing; "lease" DT_NOEND: by a worker in the server. In the order of the ids. */
std::vector<Attempt> begin_attempts(std::span<const int64> ids, TimestampTz lease, std::string_view claimed_by);

/* Lanes that have pending tasks and are not among the known ones, which are sorted. */
std::vector<Lane> discover_lanes(std::span<const Lane> known);
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

struct Claim {
	int64 id;
	std::string type;
	std::string queue;
	int16 priority;
	int32 attempt;
	int32 max_attempts;
	std::string claimed_by;
};
/* Locks the task of a claim, unless the claim is over. */
std::optional<Claim> lock_claim(int64 id, int32 attempt, bool in_server);
/* Leases that ended before "now". Locked. */
std::vector<Claim> lock_expired(TimestampTz now, int count);
/* Claims of workers, dead or alive. Not locked. */
std::vector<Claim> claims_in_server();

struct Failure {
	std::string message;
	std::string sqlstate;
};
/* A locked claim ends, and the task waits: at once, or until a time. Without failure, it was not the task's fault. */
void put_back(int64 id, std::optional<TimestampTz> run_at, const std::optional<Failure> &failure, bool charge);
/* A locked claim ends, and the task has failed. */
void give_up(int64 id, const Failure &failure);
bool extend_lease(int64 id, int32 attempt, TimestampTz lease);

/* By people */

/* Of any task that is not finished: its lane; none if there is no such task. */
std::optional<Lane> cancel(int64 id, const std::optional<std::string> &reason, int slot);
/* Failed and cancelled tasks come back; scheduled ones get another time. */
std::optional<Claim> retry(int64 id, std::optional<TimestampTz> run_at);

/* Watching */

struct Look {
	Datum row; /* jobqueue.tasks */
	std::string status;
	std::string created_by;
	TransactionId inserted_by;
};
std::optional<Look> look(int64 id);

/* Configuration */

struct Handler {
	std::string type;
	std::string function; /* schema-qualified signature */
	std::string queue;
	std::string run_as;
	int32 max_attempts;
	Oid role;		/* InvalidOid: there is no such role */
	bool superuser; /* of the role, as are the next two */
	bool can_login;
	bool can_connect;
};
/* Those of this incarnation, ordered by type. */
std::vector<Handler> handlers();
std::vector<Handler> handlers_of(std::string_view role);
std::optional<Handler> handler_for_update(std::string_view type);
void put_handler(const Handler &handler);
bool delete_handler(std::string_view type);

struct Pauses {
	bool all = false;
	std::vector<std::string> queues;
};
Pauses pauses();
/* Empty queue: all. True if something changed. */
bool pause(const std::optional<std::string> &queue);
bool resume(const std::optional<std::string> &queue);

/* Is this database what the incarnation says? */
bool is_own_incarnation();
/* Makes it so, for handlers that came from elsewhere too; false if it was so. */
bool adopt();

struct Extension {
	Oid oid;
	Oid owner;
	std::string version;
};

/* Maintenance */

/* Scheduled tasks with from <= run_at <= now become pending, at most "count". */
struct Due {
	int64 id;
	std::string type;
	std::string queue;
	int16 priority;
	TimestampTz run_at;
};
std::vector<Due> promote_due(TimestampTz from, TimestampTz now, int count);
/* When the next scheduled task from a time on is due, and when the next lease ends; DT_NOEND if never. */
TimestampTz next_due(TimestampTz from);
TimestampTz next_lease();
int64 last_id();
/* Tasks finished by hand go to their leaf; returns how many. */
int64 archive_finished(int slot, int count);
/* Failed tasks that finished before; returns how many. */
int64 purge_failed(TimestampTz before, int count);

struct Ring {
	int slot;
	TimestampTz since;
};
/* Until it turns for the first time, no row says so: leaf 1, since the installation. */
Ring history_ring();
void set_history_ring(const Ring &ring);
/* May wait for lock_timeout, and then throws 55P03. */
void empty_history(int slot);
/* A history leaf with rows in it; 0 if there is none. */
int occupied_history();

} // namespace jobqueue::store
