/*
 * interrupts.cpp -- see interrupts.hpp. Signal handlers are C and async-signal-safe.
 */
#include "server/interrupts.hpp"

#include "pg/clock.hpp"
#include "pg/leftovers.hpp"
#include "pg/settings.hpp"
#include "shared/databases.hpp"
#include "shared/state.hpp"
#include "shared/wake_ups.hpp"
#include "shared/workers.hpp"

#include <signal.h>

namespace jobqueue::interrupts {

static volatile sig_atomic_t in_handler = false;
static volatile sig_atomic_t time_is_up = false;
static volatile sig_atomic_t transaction_is_over = false;
static volatile sig_atomic_t row_is_locked = false;
static volatile sig_atomic_t end_requested = false;
static volatile sig_atomic_t is_overdue = false;

static TimeoutId attempt_timeout;
static TimeoutId transaction_timeout;
static TimeoutId fused_tick;
static constinit int64 transaction_limit = 0;
static constinit SteadyTime attempt_until = 0, transaction_until = 0; /* when they expire */
static constinit bool has_time = false;								  /* a HandlerTime exists */

/* Of the handler that runs in a fused batch. */
static volatile SteadyTime fused_task_began = 0;
static volatile sig_atomic_t fused_holds_locks = false;
static volatile sig_atomic_t fused_waited = false; /* at the latest tick it waited for a lock */
static volatile sig_atomic_t fused_interrupted = false;
static volatile sig_atomic_t fused_overdue = false; /* the scheduler watches it */

static constexpr int tick_ms = 4;
/* A task of a fused batch may take this many times as long as the whole batch should. */
static constexpr int64 patience = 20;

void set_transaction_limit(int64 limit_us) noexcept {
	transaction_limit = limit_us;
}
int64 transaction_limit_us() noexcept {
	return transaction_limit;
}
bool timed_out() noexcept {
	return time_is_up || transaction_is_over;
}
bool transaction_timed_out() noexcept {
	return transaction_is_over;
}
bool row_was_locked() noexcept {
	return std::exchange(row_is_locked, false);
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

/* The scheduler ends a handler that did not respond to an interrupt; obeyed only if "end" names the task that runs. */
static void on_overdue(int signal) {
	if (!in_handler || pg_atomic_read_u64(&own_worker()->end) != pg_atomic_read_u64(&own_worker()->task))
		return;
	is_overdue = true;
	die(signal);
}

/* Does what statement_timeout does: processes that the handler has started are in the same process group. */
static void interrupt_handler() {
	pg_atomic_write_u64(&own_worker()->deadline, static_cast<uint64>(steady_now()));
	kill(MyProcPid, SIGINT);
	kill(-MyProcPid, SIGINT);
	if (DatabaseSlot *home = find_database(MyDatabaseId))
		wake_scheduler(home); /* it ends the process if this does not help */
}

static void on_timeout() {
	time_is_up = true;
	interrupt_handler();
}

static void on_transaction_timeout() {
	transaction_is_over = true;
	interrupt_handler();
}

/* A wait for a lock counts if two ticks in a row see it. */
static void on_fused_tick() {
	if (!in_handler)
		return;
	const bool waits = fused_holds_locks && waits_for_lock();
	const SteadyTime now = steady_now();
	const bool too_long = now - fused_task_began > FusedTime::longest_us();
	if (too_long && !fused_overdue) {
		fused_overdue = true;
		pg_atomic_write_u64(&own_worker()->deadline, static_cast<uint64>(now));
		pg_atomic_write_u32(&own_worker()->in_handler, 1);
		if (DatabaseSlot *home = find_database(MyDatabaseId))
			wake_scheduler(home); /* others wait for its locks: if it does not respond, its process must end */
	}
	if (too_long || (waits && fused_waited)) {
		fused_interrupted = true;
		kill(MyProcPid, SIGINT);
	}
	fused_waited = waits;
}

/* Our own statements wait for a table as long as it takes, but for a row no longer than lock_timeout says. */
void on_interrupt(int signal) {
	if (in_handler) {
		StatementCancelHandler(signal);
	} else if (get_timeout_indicator(LOCK_TIMEOUT, false) && waits_for_row()) {
		row_is_locked = true;
		StatementCancelHandler(signal);
	}
}

void leave() noexcept {
	in_handler = false;
}

void install() {
	pqsignal(SIGTERM, on_terminate);
	pqsignal(SIGUSR2, on_overdue);
}

static int milliseconds(int64 us) {
	return static_cast<int>(std::clamp<int64>((us + 999) / 1000, 1, INT_MAX));
}

/* A procedure goes on in another transaction, which has the whole limit. */
static void begin_transaction_time() {
	if (transaction_limit == 0 || !has_time)
		return;
	if (transaction_is_over && !time_is_up)
		pg_atomic_write_u64(&own_worker()->deadline, PG_INT64_MAX);
	transaction_is_over = false;
	transaction_until = steady_now() + transaction_limit;
	enable_timeout_after(transaction_timeout, milliseconds(transaction_limit));
}

/*
 * The timeouts are for handlers, and for what they defer to the commit, not for the commit itself, which may wait for a
 * standby. A procedure goes on after it.
 */
static void at_transaction_event(XactEvent event, void *) {
	static bool resumes = false;
	if (event == XACT_EVENT_PRE_COMMIT) {
		resumes = in_handler;
		in_handler = false;
	} else if ((event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT) && resumes) {
		resumes = false;
		in_handler = true;
		begin_transaction_time();
		if (time_is_up)
			kill(MyProcPid, SIGINT);
	} else if (event == XACT_EVENT_ABORT && in_handler && !transaction_is_over) {
		begin_transaction_time(); /* a procedure's ROLLBACK; after an error it does no harm */
	}
}

void register_timeouts() {
	RegisterXactCallback(at_transaction_event, nullptr);
	attempt_timeout = RegisterTimeout(USER_TIMEOUT, on_timeout);
	transaction_timeout = RegisterTimeout(USER_TIMEOUT, on_transaction_timeout);
	fused_tick = RegisterTimeout(USER_TIMEOUT, on_fused_tick);
}

HandlerTime::HandlerTime(int64 timeout_us) {
	time_is_up = false;
	transaction_is_over = false;
	has_time = true;
	attempt_until = steady_now() + timeout_us;
	transaction_until = steady_now() + transaction_limit;
	if (timeout_us > 0)
		enable_timeout_at(attempt_timeout, GetCurrentTimestamp() + timeout_us);
	if (transaction_limit > 0)
		enable_timeout_after(transaction_timeout, milliseconds(transaction_limit));
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
	has_time = false;
	pg_atomic_write_u32(&own_worker()->in_handler, 0);
	disable_timeout(attempt_timeout, false);
	disable_timeout(transaction_timeout, false);
	disable_timeout(STATEMENT_TIMEOUT, false);
	pg_atomic_write_u64(&own_worker()->deadline, PG_INT64_MAX);
	QueryCancelPending = false;
}

/* Disables a timeout, which may just have fired. Returns the time that was left; 0 if it was not enabled. */
static int64 stop(TimeoutId timeout, bool over, SteadyTime until) noexcept {
	const bool active = get_timeout_active(timeout);
	disable_timeout(timeout, false);
	return active || over ? std::max<int64>(until - steady_now(), 1) : 0;
}

void HandlerTime::pause() noexcept {
	in_handler = false;
	left_us_ = stop(attempt_timeout, time_is_up, attempt_until);
	left_in_transaction_us_ = stop(transaction_timeout, transaction_is_over, transaction_until);
	disable_timeout(STATEMENT_TIMEOUT, false);
	pg_atomic_write_u32(&own_worker()->in_handler, 0);
	pg_atomic_write_u64(&own_worker()->deadline, PG_INT64_MAX);
	QueryCancelPending = false; /* an interrupt that comes now is too late */
}

void HandlerTime::resume() noexcept {
	in_handler = true;
	pg_atomic_write_u32(&own_worker()->in_handler, 1);
	if (left_us_ > 0)
		enable_timeout_after(attempt_timeout, milliseconds(left_us_));
	if (left_in_transaction_us_ > 0)
		enable_timeout_after(transaction_timeout, milliseconds(left_in_transaction_us_));
}

FusedTime::FusedTime() {
	fused_interrupted = false;
	fused_overdue = false;
	enable_timeout_every(fused_tick, GetCurrentTimestamp() + tick_ms * 1000, tick_ms);
}

FusedTime::~FusedTime() {
	disable_timeout(fused_tick, false);
	end();
}

void FusedTime::begin(bool holds_locks) noexcept {
	fused_task_began = steady_now();
	fused_holds_locks = holds_locks;
	fused_waited = false;
	fused_interrupted = false;
	in_handler = true;
}

bool FusedTime::end() noexcept {
	in_handler = false;
	QueryCancelPending = false;
	if (fused_overdue) {
		fused_overdue = false;
		pg_atomic_write_u32(&own_worker()->in_handler, 0);
		pg_atomic_write_u64(&own_worker()->deadline, PG_INT64_MAX);
	}
	return !fused_interrupted;
}

int64 FusedTime::longest_us() noexcept {
	return patience * 1000 * settings::fused_time_ms;
}

} // namespace jobqueue::interrupts
