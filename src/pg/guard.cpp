/*
 * guard.cpp -- the non-template half of guard.hpp. run_caught and report are C regions, throw_pending_error is C++.
 */
#include "pg/guard.hpp"

namespace jobqueue::detail {

bool run_caught(void (*fn)(void *), void *arg) {
	const ErrorStackScope scope;
	sigjmp_buf here;
	if (sigsetjmp(here, 0) != 0)
		return false;
	PG_exception_stack = &here;
	fn(arg);
	return true;
}

static void take_error(void *out) {
	auto *owned = static_cast<PgError::Owned *>(out);
	owned->context = AllocSetContextCreate(TopMemoryContext, "jobqueue error", ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(owned->context);
	owned->edata = CopyErrorData();
	FlushErrorState();
}

void throw_pending_error(MemoryContext caller) {
	std::shared_ptr<PgError::Owned> owned;
	try {
		owned = std::make_shared<PgError::Owned>();
	} catch (const std::bad_alloc &) {
		/* reported below, when the server's error is off its stack */
	}
	const bool taken = owned && run_caught(take_error, owned.get());
	MemoryContextSwitchTo(caller);
	if (!taken) {
		FlushErrorState();
		throw std::bad_alloc();
	}
	throw PgError(std::move(owned));
}

/* Where a character ends, if the text was cut. */
static int whole(const char *text) {
	const int length = static_cast<int>(strlen(text));
	return pg_mbcliplen(text, length, length);
}

void report(const Report &report) {
	if (report.edata)
		ReThrowError(report.edata);
	ereport(ERROR, (errcode(report.sqlerrcode), errmsg_internal("%.*s", whole(report.message), report.message),
					report.hint[0] ? errhint("%.*s", whole(report.hint), report.hint) : 0));
	pg_unreachable();
}

} // namespace jobqueue::detail
