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

/* The latest attempt's time was up. */
bool timed_out() noexcept;
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
};

/*
 * A group of tasks runs. Each is interrupted where it takes far longer than tasks of a group may, and each but the first
 * where it waits for a lock longer than a few milliseconds: the locks of those before are held meanwhile.
 */
class GroupTime {
public:
	GroupTime();
	~GroupTime();
	GroupTime(const GroupTime &) = delete;
	GroupTime &operator=(const GroupTime &) = delete;

	/* A handler begins, or the commit with what was deferred to it. */
	void begin(bool holds_locks) noexcept;
	/* It is over. False if it was interrupted, whatever it made of that. */
	bool end() noexcept;

	/* No task that may take this long belongs into a group. */
	static int64 longest_us() noexcept;
};

} // namespace jobqueue::interrupts
