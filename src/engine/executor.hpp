/*
 * executor.hpp -- runs the handler of a task: finds the function, calls it as the current role, makes its result jsonb.
 *
 * C++ region. Used by workers, which are connected as the role, and by drain(); knows nothing of how the task was
 * claimed.
 */
#pragma once

#include "engine/current_task.hpp"
#include "engine/store/attempts.hpp"
#include "engine/store/handlers.hpp"

namespace jobqueue {

class Executor {
public:
	/*
	 * "owner" of the extension: functions are looked up with its rights, but called without them. "claimed_by" is shown
	 * in the rows of tasks that run under their row lock alone.
	 */
	explicit Executor(Oid owner, std::string claimed_by = {});
	~Executor();
	Executor(const Executor &) = delete;
	Executor &operator=(const Executor &) = delete;

	/* Functions, schemas or roles may have changed: look them up again. */
	void forget() noexcept;

	/*
	 * Runs the tasks in the current transaction. A procedure may end it and begin another one; if not "may_commit",
	 * this is an error. Several tasks are for a batch handler, which gets them in one call; functions about the
	 * handler's own task only work if there is just one. The results in order (jsonb, none for void and null) are in
	 * the memory context that was current at the call. A task without row gets it when it is asked for. Throws PgError:
	 * what the handler raised, 42883 if the function is gone, 42501 if the role may not execute it, or if somebody
	 * else's function has taken its place.
	 */
	std::vector<std::optional<Datum>> run(std::span<const store::Attempt *const> tasks, const store::Function &function,
										  bool may_commit);
	std::vector<std::optional<Datum>> run(std::span<const store::Attempt> tasks, const store::Function &function,
										  bool may_commit);

	/*
	 * Calls a type's back-off function: how long to wait after this attempt. None for null; not negative. The caller
	 * rolls back the transaction afterwards: the function may only decide, not change anything. Throws PgError.
	 */
	std::optional<int64> backoff_us(const store::Function &function, int32 attempt, std::string_view error);

	/* Facts about the function that are known without calling it; throws like run(). */
	bool is_procedure(const store::Function &function);
	bool takes_row(const store::Function &function);

	struct Resolved; /* a function that was looked up */

	/* For the HandlerMark of tasks that are not run by run(). */
	const RowSource &row_source() const noexcept { return source_; }

private:
	struct Value {
		Datum value;
		bool isnull;
	};
	Value call(Resolved *handler, Datum argument, Datum row, std::span<const store::Attempt *const> tasks,
			   bool may_commit);
	Datum argument_of(const store::Attempt &task, bool row) const;
	Datum array_of(std::span<const store::Attempt *const> tasks, Oid element) const;
	Resolved &resolve(const store::Function &function, const char *(*problem_of)(Oid));

	RowSource source_;
	std::unordered_map<std::string, std::unique_ptr<Resolved>> resolved_; /* by signature */
	uint64 generation_ = 0;
};

} // namespace jobqueue
