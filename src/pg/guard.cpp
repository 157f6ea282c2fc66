/*
 * guard.cpp -- the part of guard.hpp that is no template. run_caught and report are C regions; throw_pending_error,
 * describe and as_pg_error are C++.
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

/* The length of the text without a character that was cut in two. */
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

void describe(Report &report) noexcept {
	try {
		throw;
	} catch (const Error &e) {
		report.sqlerrcode = e.sqlerrcode();
		strlcpy(report.message, e.what(), sizeof(report.message));
		strlcpy(report.hint, e.hint().c_str(), sizeof(report.hint));
	} catch (const std::bad_alloc &) {
		report.sqlerrcode = ERRCODE_OUT_OF_MEMORY;
		strlcpy(report.message, "out of memory", sizeof(report.message));
	} catch (const std::exception &e) {
		strlcpy(report.message, e.what(), sizeof(report.message));
	} catch (...) {
		strlcpy(report.message, "unknown C++ exception", sizeof(report.message));
	}
}

} // namespace jobqueue::detail

namespace jobqueue {

PgError as_pg_error(const std::exception_ptr &problem) {
	detail::Report report;
	std::optional<PgError> error;
	try {
		std::rethrow_exception(problem);
	} catch (const PgError &e) {
		error = e;
	} catch (...) {
		detail::describe(report);
	}
	if (error)
		return *error;
	const detail::Report *const described = &report;
	try {
		guard([described] { detail::report(*described); });
	} catch (const PgError &e) {
		error = e;
	}
	return *error;
}

} // namespace jobqueue
