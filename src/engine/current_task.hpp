/*
 * current_task.hpp -- the task whose handler runs in this session, and what the handler says of it. C++ region.
 */
#pragma once

#include "engine/store/attempts.hpp"

namespace jobqueue {

/* How to read the row of a task that runs: with the rights of the extension's owner, as this worker has claimed it. */
struct RowSource {
	Oid owner;
	std::string claimed_by; /* to show in the rows of tasks that run under their row lock alone */
};
/* The task's row, jobqueue.tasks; none if its handler has changed it. In the current memory context. */
std::optional<Datum> row_of(const store::Attempt &task, const RowSource &source);

/* While this object lives, a handler runs: of this task or, if null, of a batch. Forgets earlier calls of snooze(). */
class HandlerMark {
public:
	/* "row": of the task, if it is known; if it is read later, it goes into the memory context that is current now. */
	HandlerMark(const store::Attempt *task, const RowSource *source, Datum row) noexcept;
	~HandlerMark();
	HandlerMark(const HandlerMark &) = delete;
	HandlerMark &operator=(const HandlerMark &) = delete;
};
/* Error context callback that names these tasks; "arg" is a std::span<const store::Attempt *const>. C region. */
void add_task_context(void *arg);

/* In a handler: the row of the task that is running, jobqueue.tasks; none elsewhere. */
std::optional<Datum> current_task();
std::optional<int64> current_task_id() noexcept;
/* Does a handler run? Also true in the handler of a batch, which has no task of its own. */
bool in_handler() noexcept;

/*
 * snooze_current_task() is for handlers: the task must run again so long after the handler has returned. Forgotten if
 * the subtransaction of the call is rolled back. take_snooze() gets the delay after the handler has returned.
 */
void snooze_current_task(int64 delay_us);
std::optional<int64> take_snooze() noexcept;
/* Follows the transactions in which snooze() is called. Once in a process, before the first handler. C region. */
void watch_snoozes();

} // namespace jobqueue
