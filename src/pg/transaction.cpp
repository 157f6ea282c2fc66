/*
 * transaction.cpp -- see transaction.hpp. C region.
 */
#include "pg/transaction.hpp"

#include "pg/compat.hpp"

namespace jobqueue::detail {

/*
 * Switches the variable behind the setting: a setting that has been set makes the server look through all settings at
 * the end of every subtransaction.
 */
static int synchronous_commit_of_role = 0;

void begin_transaction(Durability durability) {
	synchronous_commit_of_role = synchronous_commit;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	XactIsoLevel = XACT_READ_COMMITTED;
	XactReadOnly = false;
	XactDeferrable = false;
	change_durability(durability);
	PushActiveSnapshot(GetTransactionSnapshot());
}

void commit_transaction() {
	PopActiveSnapshot();
	CommitTransactionCommand();
	compat::set_synchronous_commit(synchronous_commit_of_role);
}

void abort_transaction() {
	AbortCurrentTransaction();
	compat::set_synchronous_commit(synchronous_commit_of_role);
	/* If the error was an interrupt, ProcessInterrupts() has not handled the others: they wait for another look. */
	InterruptPending = true;
}

void begin_subtransaction() {
	BeginInternalSubTransaction(nullptr);
}

void begin_visibility() {
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
}

void commit_subtransaction() {
	PopActiveSnapshot();
	ReleaseCurrentSubTransaction();
}

void abort_subtransaction() {
	RollbackAndReleaseCurrentSubTransaction();
}

void defer_nothing() {
	ConstraintsSetStmt *statement = makeNode(ConstraintsSetStmt);
	statement->constraints = NIL;
	statement->deferred = false;
	AfterTriggerSetState(statement);
}

} // namespace jobqueue::detail

void jobqueue::change_durability(Durability durability) noexcept {
	compat::set_synchronous_commit(durability == Durability::synchronous ? detail::synchronous_commit_of_role
								   : durability == Durability::local ? static_cast<int>(SYNCHRONOUS_COMMIT_LOCAL_FLUSH)
																	 : static_cast<int>(SYNCHRONOUS_COMMIT_OFF));
}
