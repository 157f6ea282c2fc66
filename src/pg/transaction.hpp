/*
 * transaction.hpp -- transactions of the background processes, and subtransactions. C++ region.
 */
#pragma once

#include "pg/injection.hpp"

namespace jobqueue {

/*
 * When the commit of a transaction of ours is safe: before it returns, as the server's settings have it (synchronous,
 * that may wait for a standby) or on this machine's disk (local); or a moment later.
 */
enum class Durability { synchronous, local, asynchronous };

namespace detail {
/* C regions. */
void begin_transaction(Durability durability);
void commit_transaction();
void abort_transaction();
void begin_subtransaction();
void begin_visibility();
void commit_subtransaction();
void abort_subtransaction();
/* SET CONSTRAINTS ALL IMMEDIATE */
void defer_nothing();
} // namespace detail

/*
 * Runs fn in a transaction of its own, read-committed and read-write, with a snapshot, and commits. When anything
 * throws, the transaction is aborted first. The memory context is afterwards what it was before.
 */
template <typename Fn> auto in_transaction(Durability durability, Fn &&fn) -> std::invoke_result_t<Fn &> {
	using Result = std::invoke_result_t<Fn &>;
	MemoryContext caller = CurrentMemoryContext;
	std::exception_ptr problem;
	try {
		guard([durability] { detail::begin_transaction(durability); }); /* what fails half way is aborted, too */
		if constexpr (std::is_void_v<Result>) {
			fn();
			injection_point("before_commit");
			guard(detail::commit_transaction);
			injection_point("after_commit");
			MemoryContextSwitchTo(caller);
			return;
		} else {
			Result result = fn();
			injection_point("before_commit");
			guard(detail::commit_transaction);
			injection_point("after_commit");
			MemoryContextSwitchTo(caller);
			return result;
		}
	} catch (...) {
		problem = std::current_exception();
	}
	guard(detail::abort_transaction);
	MemoryContextSwitchTo(caller);
	std::rethrow_exception(problem);
}

/* For the current transaction's commit, if another than in_transaction() was told. */
void change_durability(Durability durability) noexcept;

/*
 * Runs fn in a subtransaction of the caller's, with a snapshot that sees everything done before. When anything throws,
 * the subtransaction is rolled back first. Memory context and resource owner are the same afterwards as before.
 */
template <typename Fn> void in_subtransaction(Fn &&fn) {
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	std::exception_ptr problem;
	const auto restore = [caller, owner] {
		MemoryContextSwitchTo(caller);
		CurrentResourceOwner = owner;
	};
	guard(detail::begin_subtransaction);
	MemoryContextSwitchTo(caller);
	try {
		guard(detail::begin_visibility);
		fn();
		guard(detail::commit_subtransaction);
		restore();
		return;
	} catch (...) {
		problem = std::current_exception();
	}
	guard(detail::abort_subtransaction);
	restore();
	std::rethrow_exception(problem);
}

} // namespace jobqueue
