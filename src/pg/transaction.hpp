/*
 * transaction.hpp -- transactions of the background processes. C++ region.
 */
#pragma once

#include "pg/guard.hpp"

namespace jobqueue {

namespace detail {
/* C regions. */
void begin_transaction(bool synchronous);
void commit_transaction();
void abort_transaction();
} // namespace detail

/* When the commit of a transaction of ours is on disk: before it returns, or a moment later. */
enum class Durability { synchronous, asynchronous };

/*
 * Runs fn in a transaction of its own, read-committed and read-write, with a snapshot, and commits. When anything
 * throws, the transaction is aborted first. The memory context is afterwards what it was before.
 */
template <typename Fn> auto in_transaction(Durability durability, Fn &&fn) -> std::invoke_result_t<Fn &> {
	using Result = std::invoke_result_t<Fn &>;
	MemoryContext caller = CurrentMemoryContext;
	std::exception_ptr problem;
	guard([durability] { detail::begin_transaction(durability == Durability::synchronous); });
	try {
		if constexpr (std::is_void_v<Result>) {
			fn();
			guard(detail::commit_transaction);
			MemoryContextSwitchTo(caller);
			return;
		} else {
			Result result = fn();
			guard(detail::commit_transaction);
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

} // namespace jobqueue
