/*
 * interrupts.hpp -- the timeouts of a worker and the signals that it obeys. An interrupt is for the handler that runs,
 * never for another handler or for our own work around it.
 *
 * Constructors and destructors are safe in C++ regions; the functions called by signals are C, and async-signal-safe.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue::interrupts {

/* For SIGINT. */
void on_interrupt(int signal);
/* C region. install() is called when the process starts, register_timeouts() once it is connected. */
void install();
void register_timeouts();

/* The process ends: from now on no timeout writes into its slot, which may soon be another worker's. */
void leave() noexcept;

/*
 * The role's transaction_timeout, which applies besides the limits of tasks and types. It counts from each
 * transaction's start.
 */
void set_transaction_limit(int64 limit_us) noexcept;
int64 transaction_limit_us() noexcept;

/* Was the time of the latest attempt up, or that of its transaction? The second function: only the transaction's. */
bool timed_out() noexcept;
bool transaction_timed_out() noexcept;
/*
 * Has our own code, while no handler's code ran, waited for a row longer than lock_timeout? The call also forgets the
 * answer.
 */
bool row_was_locked() noexcept;
/* Why the process ends, if it does. */
bool told_to_end() noexcept; /* by SIGTERM */
bool overdue() noexcept;	 /* by the scheduler, because the task is overdue */
bool handler_runs() noexcept;

/*
 * Server code runs a handler, under its timeouts: the attempt's, the transaction's, and the role's statement_timeout,
 * which a background worker does not have by itself. "timeout_us" 0: the attempt has none.
 */
class HandlerTime {
public:
	explicit HandlerTime(int64 timeout_us);
	~HandlerTime();
	HandlerTime(const HandlerTime &) = delete;
	HandlerTime &operator=(const HandlerTime &) = delete;
	/* May be called before the destructor: nothing interrupts what follows. */
	void end() noexcept;
	/*
	 * pause(): the handler has returned, and our own code runs. resume(): what the handler has deferred to the commit
	 * runs, in the time that is left.
	 */
	void pause() noexcept;
	void resume() noexcept;

private:
	int64 left_us_ = 0; /* of the attempt, and of the transaction; 0: no limit */
	int64 left_in_transaction_us_ = 0;
};

/*
 * A fused batch runs. A task is interrupted if it takes far longer than tasks of such a batch may, and, unless it is
 * the first, if it waits for a lock longer than a few milliseconds: the locks of earlier tasks are held meanwhile.
 */
class FusedTime {
public:
	FusedTime();
	~FusedTime();
	FusedTime(const FusedTime &) = delete;
	FusedTime &operator=(const FusedTime &) = delete;

	/* A handler begins, or the commit with what was deferred to it. */
	void begin(bool holds_locks) noexcept;
	/* The handler, or the commit, has ended. False if it was interrupted, however it reacted. */
	bool end() noexcept;

	/* A task that may take this long is not fused. */
	static int64 longest_us() noexcept;
};

} // namespace jobqueue::interrupts
