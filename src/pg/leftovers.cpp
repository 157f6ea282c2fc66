/*
 * leftovers.cpp -- see leftovers.hpp. C region.
 */
#include "pg/leftovers.hpp"

#include "pg/compat.hpp"

extern "C" {
#include "common/pg_prng.h"
#include "utils/fmgrprotos.h"
}

namespace jobqueue {

/*
 * Cursors and open large objects can be seen only in the memory that they use: every other way of looking leaves
 * something itself.
 */
static MemoryContext find_context(const char *name) {
	MemoryContext child = TopMemoryContext->firstchild;
	while (child != nullptr && strcmp(child->name, name) != 0)
		child = child->nextchild;
	return child;
}

static bool has_cursors() {
	static MemoryContext context = nullptr; /* made once, and for ever */
	if (context == nullptr)
		context = find_context("TopPortalContext");
	return context == nullptr || context->firstchild != nullptr;
}

/* The context exists from the first descriptor to the end of the transaction. */
static bool has_large_objects() {
	return find_context("Filesystem") != nullptr;
}

static constinit TimestampTz constraints_set_in = 0; /* when the transaction began */

void note_set_constraints() noexcept {
	constraints_set_in = GetCurrentTransactionStartTimestamp();
}

void forget_random_seed() {
	DirectFunctionCall1(setseed, Float8GetDatum(pg_prng_double(&pg_global_prng_state)));
}

Leftovers look_for_leftovers() {
	Leftovers found = {};
	found.residue = (MyXactFlags & XACT_FLAGS_ACCESSEDTEMPNAMESPACE) != 0 || has_cursors() || has_large_objects() ||
					constraints_set_in == GetCurrentTransactionStartTimestamp();
	found.subtransactions = MyProc->subxidStatus.overflowed ? most_subtransactions : MyProc->subxidStatus.count;
	compat::visit_own_locks(
		[](const LOCK *lock, void *arg) {
			auto *leftovers = static_cast<Leftovers *>(arg);
			leftovers->residue |= lock->tag.locktag_type == LOCKTAG_ADVISORY;
			leftovers->others_wait |= lock->nRequested > lock->nGranted;
		},
		&found);
	return found;
}

bool waits_for_lock() noexcept {
	return MyProc != nullptr && MyProc->waitStatus == PROC_WAIT_STATUS_WAITING;
}

/* A process whose turn it is to get a row waits for the transaction that has the row. */
bool waits_for_row() noexcept {
	const LOCK *const lock = waits_for_lock() ? MyProc->waitLock : nullptr; /* it stays where it is while we wait */
	return lock != nullptr &&
		   (lock->tag.locktag_type == LOCKTAG_TRANSACTION || lock->tag.locktag_type == LOCKTAG_TUPLE);
}

} // namespace jobqueue
