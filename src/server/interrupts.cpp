/*
 * interrupts.cpp -- see interrupts.hpp. Signal handlers are C and async-signal-safe.
 */
#include "server/interrupts.hpp"

#include "pg/clock.hpp"
#include "pg/leftovers.hpp"
#include "pg/settings.hpp"
#include "shared/state.hpp"

#include <signal.h>

namespace jobqueue::interrupts {

static volatile sig_atomic_t in_handler = false;
static volatile sig_atomic_t time_is_up = false;
static volatile sig_atomic_t end_requested = false;
static volatile sig_atomic_t is_overdue = false;

static TimeoutId attempt_timeout;
static TimeoutId group_tick;

/* Of the handler that runs in a group. */
static volatile SteadyTime group_task_began = 0;
static volatile sig_atomic_t group_holds_locks = false;
static volatile sig_atomic_t group_waited = false; /* at the latest tick, for a lock */
static volatile sig_atomic_t group_interrupted = false;
static volatile sig_atomic_t group_overdue = false; /* the scheduler watches it */

static constexpr int tick_ms = 4;
/* A task of a group may take so many times what the whole group should. */
static constexpr int64 patience = 20;

bool timed_out() noexcept {
	return time_is_up;
}
bool told_to_end() noexcept {
	return end_requested;
}
bool overdue() noexcept {
	return is_overdue;
}
bool handler_runs() noexcept {
	return in_handler;
}

static void on_terminate(int signal) {
	end_requested = true;
	die(signal);
}

/* The scheduler's last word to a handler that did not respond to an interrupt; believed only if it names its task. */
static void on_overdue(int signal) {
	if (!in_handler || pg_atomic_read_u64(&own_worker()->end) != pg_atomic_read_u64(&own_worker()->task))
		return;
	is_overdue = true;
	die(signal);
}

/* As statement_timeout does it; who has started processes of its own is in their group. */
static void on_timeout() {
	time_is_up = true;
	pg_atomic_write_u64(&own_worker()->deadline, static_cast<uint64>(steady_now()));
	kill(MyProcPid, SIGINT);
	kill(-MyProcPid, SIGINT);
	if (DatabaseSlot *home = find_database(MyDatabaseId))
		wake_scheduler(home); /* which sees to it that this helps */
}

/* A wait for a lock counts if two ticks in a row see it. */
static void on_group_tick() {
	if (!in_handler)
		return;
	const bool waits = group_holds_locks && waits_for_lock();
	const SteadyTime now = steady_now();
	const bool too_long = now - group_task_began > GroupTime::longest_us();
	if (too_long && !group_overdue) {
		group_overdue = true;
		pg_atomic_write_u64(&own_worker()->deadline, static_cast<uint64>(now));
		pg_atomic_write_u32(&own_worker()->in_handler, 1);
		if (DatabaseSlot *home = find_database(MyDatabaseId))
			wake_scheduler(home); /* others wait for its locks: if it does not respond, its process must end */
	}
	if (too_long || (waits && group_waited)) {
		group_interrupted = true;
		kill(MyProcPid, SIGINT);
	}
	group_waited = waits;
}

void on_interrupt(int signal) {
	if (in_handler)
		StatementCancelHandler(signal);
}

void leave() noexcept {
	in_handler = false;
}

void install() {
	pqsignal(SIGTERM, on_terminate);
	pqsignal(SIGUSR2, on_overdue);
}

/*
 * The time is that of handlers, and of what they defer to the commit; the commit itself, which may wait for a standby, is
 * ours. A procedure goes on after it.
 */
static void at_transaction_event(XactEvent event, void *) {
	static bool resumes = false;
	if (event == XACT_EVENT_PRE_COMMIT) {
		resumes = in_handler;
		in_handler = false;
	} else if ((event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT) && resumes) {
		resumes = false;
		in_handler = true;
		if (time_is_up)
			kill(MyProcPid, SIGINT);
	}
}

void register_timeouts() {
	RegisterXactCallback(at_transaction_event, nullptr);
	attempt_timeout = RegisterTimeout(USER_TIMEOUT, on_timeout);
	group_tick = RegisterTimeout(USER_TIMEOUT, on_group_tick);
}

HandlerTime::HandlerTime(int64 timeout_us) {
	time_is_up = false;
	if (timeout_us > 0)
		enable_timeout_at(attempt_timeout, GetCurrentTimestamp() + timeout_us);
	if (StatementTimeout > 0)
		enable_timeout_after(STATEMENT_TIMEOUT, StatementTimeout);
	in_handler = true;
	pg_atomic_write_u32(&own_worker()->in_handler, 1);
}

HandlerTime::~HandlerTime() {
	end();
}

void HandlerTime::end() noexcept {
	in_handler = false;
	pg_atomic_write_u32(&own_worker()->in_handler, 0);
	disable_timeout(attempt_timeout, false);
	disable_timeout(STATEMENT_TIMEOUT, false);
	pg_atomic_write_u64(&own_worker()->deadline, PG_INT64_MAX);
	QueryCancelPending = false;
}

GroupTime::GroupTime() {
	group_interrupted = false;
	group_overdue = false;
	enable_timeout_every(group_tick, GetCurrentTimestamp() + tick_ms * 1000, tick_ms);
}

GroupTime::~GroupTime() {
	disable_timeout(group_tick, false);
	end();
}

void GroupTime::begin(bool holds_locks) noexcept {
	group_task_began = steady_now();
	group_holds_locks = holds_locks;
	group_waited = false;
	group_interrupted = false;
	in_handler = true;
}

bool GroupTime::end() noexcept {
	in_handler = false;
	QueryCancelPending = false;
	if (group_overdue) {
		group_overdue = false;
		pg_atomic_write_u32(&own_worker()->in_handler, 0);
		pg_atomic_write_u64(&own_worker()->deadline, PG_INT64_MAX);
	}
	return !group_interrupted;
}

int64 GroupTime::longest_us() noexcept {
	return patience * 1000 * settings::fused_time_ms;
}

} // namespace jobqueue::interrupts
