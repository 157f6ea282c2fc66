/*
 * executor.hpp -- runs the handler of a task: finds the function, calls it as the current role, makes its result jsonb.
 *
 * C++ region. Used by workers, which are connected as the role; knows nothing of how the task was claimed.
 */
#pragma once

#include "engine/task_store.hpp"

namespace jobqueue {

class Executor {
public:
	/* "owner" of the extension: functions are looked up with its rights, and called without. */
	explicit Executor(Oid owner);
	~Executor();
	Executor(const Executor &) = delete;
	Executor &operator=(const Executor &) = delete;

	/* Functions, schemas or roles may have changed: look them up again. */
	void forget() noexcept;

	/*
	 * Runs the task in the current transaction, which a procedure may have ended and begun again when this returns;
	 * if not "may_commit", trying that is an error. The result (jsonb, none for void and null) is in the memory context that was current at the call. Throws
	 * PgError: what the handler raised, 42883 if the function is gone, 42501 if the role may not execute it.
	 */
	std::optional<Datum> run(const store::Attempt &task, const std::string &function, bool may_commit);

	/*
	 * Calls a type's back-off function: how long to wait after this attempt. None for null; not negative. For a
	 * transaction that is rolled back afterwards: it shall decide, and do nothing. Throws PgError.
	 */
	std::optional<int64> backoff_us(const std::string &function, int32 attempt, std::string_view error);

	struct Resolved; /* a function that was looked up */

private:
	const Resolved &resolve(const std::string &function, const char *(*problem_of)(Oid));

	Oid owner_;
	std::vector<std::unique_ptr<Resolved>> resolved_;
	uint64 generation_ = 0;
};

/* In a handler: the row of the task that is running, jobqueue.tasks; none elsewhere. */
std::optional<Datum> current_task() noexcept;
std::optional<int64> current_task_id() noexcept;

/*
 * In a handler: when it returns, its task is to run again after so long. Forgotten with the subtransaction it was said
 * in. The other takes it, after the handler has returned.
 */
void snooze_current_task(int64 delay_us);
std::optional<int64> take_snooze() noexcept;

/* Is this something that can be a handler? Throws Error 42P13 with the reason if not. */
void check_handler_signature(Oid function);
/* Or a back-off function? */
void check_backoff_signature(Oid function);
/* What to store for it: its schema-qualified signature. */
std::string handler_signature(Oid function);

} // namespace jobqueue
