/*
 * interrupts.hpp -- the clocks of a worker and the signals it heeds: an interrupt is for the handler that runs, and for
 * no other, and never for our own work around it.
 *
 * Constructors and destructors are safe in C++ regions; the functions called by signals are C, and async-signal-safe.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue::interrupts {

/* For SIGINT. */
void on_interrupt(int signal);
/* C region; when the process starts, and once it is connected. */
void install();
void register_timeouts();

/* The process ends: from now on no clock writes into its slot, which may soon be another's. */
void leave() noexcept;

/*
 * A limit of the role, beside those of tasks and types: transaction_timeout, which counts from each transaction's
 * start.
 */
void set_transaction_limit(int64 limit_us) noexcept;
int64 transaction_limit_us() noexcept;

/* The latest attempt's time was up; or that of its transaction. */
bool timed_out() noexcept;
bool transaction_timed_out() noexcept;
/*
 * While none of a handler's code runs: a wait of ours for a row, with a lock_timeout, took too long. Forgotten when it
 * is asked.
 */
bool row_was_locked() noexcept;
/* Why the process ends, if it does. */
bool told_to_end() noexcept; /* by somebody */
bool overdue() noexcept;	 /* by the scheduler, because the task is */
bool handler_runs() noexcept;

/*
 * Server code runs a handler, with its clocks: the attempt's timeout, and the role's statement_timeout, which a
 * background worker does not have by itself. "timeout_us" 0: none.
 */
class HandlerTime {
public:
	explicit HandlerTime(int64 timeout_us);
	~HandlerTime();
	HandlerTime(const HandlerTime &) = delete;
	HandlerTime &operator=(const HandlerTime &) = delete;
	/* Before it is destroyed: nothing interrupts what follows. */
	void end() noexcept;
	/*
	 * The handler has returned, and we do our part; then comes what it has deferred to the commit, in the time it has
	 * left.
	 */
	void pause() noexcept;
	void resume() noexcept;

private:
	int64 left_us_ = 0; /* of the attempt, and of the transaction; 0: no limit */
	int64 left_in_transaction_us_ = 0;
};

/*
 * A fused batch runs. Each task is interrupted where it takes far longer than tasks of such a batch may, and each but
 * the first where it waits for a lock longer than a few milliseconds: the locks of those before are held meanwhile.
 */
class FusedTime {
public:
	FusedTime();
	~FusedTime();
	FusedTime(const FusedTime &) = delete;
	FusedTime &operator=(const FusedTime &) = delete;

	/* A handler begins, or the commit with what was deferred to it. */
	void begin(bool holds_locks) noexcept;
	/* It is over. False if it was interrupted, whatever it made of that. */
	bool end() noexcept;

	/* A task that may take this long is not fused. */
	static int64 longest_us() noexcept;
};

} // namespace jobqueue::interrupts
