/*
 * transaction.cpp -- see transaction.hpp. C region.
 */
#include "pg/transaction.hpp"

namespace jobqueue::detail {

void begin_transaction(const char *synchronous_commit_value) {
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	XactIsoLevel = XACT_READ_COMMITTED;
	XactReadOnly = false;
	XactDeferrable = false;
	if (synchronous_commit_value != nullptr)
		set_config_option("synchronous_commit", synchronous_commit_value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL,
						  true, 0, false);
	PushActiveSnapshot(GetTransactionSnapshot());
}

void commit_transaction() {
	PopActiveSnapshot();
	CommitTransactionCommand();
}

void abort_transaction() {
	AbortCurrentTransaction();
	/* If the error was an interrupt, ProcessInterrupts() has not come to the others: they wait for another look. */
	InterruptPending = true;
}

void begin_subtransaction() {
	BeginInternalSubTransaction(nullptr);
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

} // namespace jobqueue::detail
