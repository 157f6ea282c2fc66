/*
 * transaction.cpp -- see transaction.hpp. C region.
 */
#include "pg/transaction.hpp"

namespace jobqueue::detail {

void begin_transaction(bool synchronous) {
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	XactIsoLevel = XACT_READ_COMMITTED;
	XactReadOnly = false;
	XactDeferrable = false;
	if (!synchronous)
		set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	PushActiveSnapshot(GetTransactionSnapshot());
}

void commit_transaction() {
	PopActiveSnapshot();
	CommitTransactionCommand();
}

void abort_transaction() {
	AbortCurrentTransaction();
}

} // namespace jobqueue::detail
