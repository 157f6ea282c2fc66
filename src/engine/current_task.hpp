/*
 * current_task.hpp -- the task whose handler runs in this session, and what the handler says of it. C++ region.
 */
#pragma once

#include "engine/store/attempts.hpp"

namespace jobqueue {

/* How to read the row of a task that runs: with the rights of the extension's owner, as this worker has claimed it. */
struct RowSource {
	Oid owner;
	std::string claimed_by; /* what the rows say of tasks that are run under their lock alone */
};
/* The task's row, jobqueue.tasks; none if its handler has changed it. In the current memory context. */
std::optional<Datum> row_of(const store::Attempt &task, const RowSource &source);

/* While it lives, a handler runs: of this task, or, if null, of a batch. What snooze() was told before is forgotten. */
class HandlerMark {
public:
	/* "row": of the task, if it is known. A copy that is made later goes into the current memory context. */
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
/* Also in that of a batch, which has no task of its own. */
bool in_handler() noexcept;

/*
 * In a handler: when it returns, its task is to run again after so long. Forgotten with the subtransaction it was said
 * in. The other takes it, after the handler has returned.
 */
void snooze_current_task(int64 delay_us);
std::optional<int64> take_snooze() noexcept;
/* Follows the transactions in which snooze() is called. Once in a process, before the first handler. C region. */
void watch_snoozes();

} // namespace jobqueue
