/*
 * own_settings.cpp -- see own_settings.hpp.
 *
 * Pinned settings are set with a source that no configuration file, role or database can override; a handler may still
 * SET them for itself.
 */
#include "pg/own_settings.hpp"

#include "pg/compat.hpp"

extern "C" {
#include "storage/fd.h"
#include "storage/proc.h"
#include "utils/rls.h"
}

namespace jobqueue {

OwnSettings::OwnSettings(int lock_timeout_ms) noexcept
	: lock_timeout_(std::exchange(LockTimeout, lock_timeout_ms)), temp_file_limit_(std::exchange(temp_file_limit, -1)),
	  row_security_(std::exchange(row_security, true)) {}

OwnSettings::~OwnSettings() {
	LockTimeout = lock_timeout_;
	temp_file_limit = temp_file_limit_;
	row_security = row_security_;
}

static void pin(const char *name, const char *value) {
	SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE);
}

/* A procedure begins transactions of its own, after each COMMIT: these must be like the first. */
static void pin_transactions() {
	pin("default_transaction_isolation", "read committed");
	pin("default_transaction_read_only", "off");
	pin("default_transaction_deferrable", "off");
	compat::pin_transaction_timeout();
}

void pin_settings() {
	pin_transactions();
	pin("statement_timeout", "0");
	pin("lock_timeout", "0");
	pin("temp_file_limit", "-1");
	pin("row_security", "on");
}

int pin_settings_around_handlers() {
	const int timeout_ms = compat::transaction_timeout();
	pin_transactions();
	return timeout_ms;
}

} // namespace jobqueue
