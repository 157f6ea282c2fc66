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
	 * Runs the task in the current transaction, which a procedure may have ended and begun again when this returns.
	 * The result (jsonb, none for void and null) is in the memory context that was current at the call. Throws
	 * PgError: what the handler raised, 42883 if the function is gone, 42501 if the role may not execute it.
	 */
	std::optional<Datum> run(const store::Attempt &task, const std::string &function);

	struct Resolved; /* a handler that was looked up */

private:
	const Resolved &resolve(const std::string &function);

	Oid owner_;
	std::vector<std::unique_ptr<Resolved>> resolved_;
	uint64 generation_ = 0;
};

/* In a handler: the row of the task that is running, jobqueue.tasks; none elsewhere. */
std::optional<Datum> current_task() noexcept;
std::optional<int64> current_task_id() noexcept;

/* Is this something that can be a handler? Throws Error 42P13 with the reason if not. */
void check_handler_signature(Oid function);
/* What to store for it: its schema-qualified signature. */
std::string handler_signature(Oid function);

} // namespace jobqueue
