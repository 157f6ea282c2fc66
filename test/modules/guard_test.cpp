/*
 * guard_test.cpp -- the boundary between C++ and the server, for test/tap/t/012_guard.pl. A library of its own with its
 * own copy of the guard: nothing of jobqueue runs here.
 *
 * C++ region, except for the callables given to guard() and the functions that say so.
 */
#include "pg/compat.hpp"
#include "pg/guard.hpp"
#include "../../src/pg/guard.cpp"

#include <malloc.h>
#include <stdexcept>

extern "C" {
JOBQUEUE_MODULE("guard_test");
}

using jobqueue::Error;
using jobqueue::guard;
using jobqueue::PgError;

namespace {

constinit int64 made = 0;
constinit int64 destroyed = 0;

/* An object that a longjmp would jump over. It owns memory, so that a leak shows if its destructor is not called. */
class Tracked {
public:
	Tracked() : text_(200, 'x') { ++made; }
	~Tracked() { ++destroyed; }
	Tracked(const Tracked &) = delete;
	Tracked &operator=(const Tracked &) = delete;

private:
	std::string text_;
};

std::string text_argument(FunctionCallInfo fcinfo, int n) {
	return guard([fcinfo, n] { return text_to_cstring(PG_GETARG_TEXT_PP(n)); });
}

Datum text_result(const std::string &text) {
	return guard(
		[&text] { return PointerGetDatum(cstring_to_text_with_len(text.data(), static_cast<int>(text.size()))); });
}

/* C region. Runs a statement; returns the first column of the first row, as text that SPI_finish does not free. */
char *run_sql(const char *query) {
	MemoryContext caller = CurrentMemoryContext;
	char *value = nullptr;
	SPI_connect();
	if (SPI_execute(query, false, 0) < 0)
		elog(ERROR, "SPI_execute failed");
	if (SPI_tuptable && SPI_processed > 0) {
		char *text = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
		if (text)
			value = MemoryContextStrdup(caller, text);
	}
	SPI_finish();
	return value;
}

std::string sql(const std::string &query) {
	Tracked tracked;
	const char *value = guard([&query] { return run_sql(query.c_str()); });
	return value ? value : "";
}

struct Subtransaction {
	MemoryContext context = nullptr;
	ResourceOwner owner = nullptr;
};

Subtransaction begin_subtransaction() {
	Subtransaction outer{CurrentMemoryContext, CurrentResourceOwner};
	guard([&outer] {
		BeginInternalSubTransaction(nullptr);
		MemoryContextSwitchTo(outer.context);
	});
	return outer;
}

void end_subtransaction(const Subtransaction &outer, bool commit) {
	guard([&outer, commit] {
		if (commit)
			ReleaseCurrentSubTransaction();
		else
			RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(outer.context);
		CurrentResourceOwner = outer.owner;
	});
}

std::string sqlstate_of(const PgError &error) {
	char code[6];
	int n = error.sqlerrcode();
	for (char &c : std::span(code, 5)) {
		c = static_cast<char>(PGUNSIXBIT(n));
		n >>= 6;
	}
	return {code, 5};
}

/* Runs fn in a subtransaction, and says how that ended. */
template <typename Fn> std::string attempt(Fn fn) {
	const Subtransaction outer = begin_subtransaction();
	std::string outcome;
	bool ok = false;
	try {
		Tracked tracked;
		outcome = "ok: " + fn();
		ok = true;
	} catch (const PgError &error) {
		outcome = sqlstate_of(error) + ": " + error.what();
	} catch (const std::exception &error) {
		outcome = std::string("exception: ") + error.what();
	} catch (int number) {
		outcome = "int: " + std::to_string(number);
	}
	end_subtransaction(outer, ok);
	return outcome;
}

/* C region. Raises one of the errors below the guard, with all its fields. */
void add_context(void *argument) {
	errcontext("guard test, %s", static_cast<const char *>(argument));
}

void raise_all_fields(const char *callback_says) {
	ErrorContextCallback callback{};
	callback.previous = error_context_stack;
	callback.callback = add_context;
	callback.arg = const_cast<char *>(callback_says);
	error_context_stack = &callback;
	ereport(ERROR, (errcode(ERRCODE_NO_DATA_FOUND), errmsg("the message: %d", 17), errdetail("the detail"),
					errdetail_log("for the log"), errhint("the hint"), errcontext("the context")));
}

std::string repeated(const char *text, int times) {
	std::string result;
	while (times-- > 0)
		result += text;
	return result;
}

/* Throws the exception of this name, some frames deep. */
void recurse(int depth, const std::string &kind) {
	Tracked tracked;
	if (depth > 0) {
		recurse(depth - 1, kind);
		return;
	}
	if (kind == "int")
		throw 42;
	if (kind == "text")
		throw "a string literal";
	if (kind == "bad_alloc")
		throw std::bad_alloc();
	if (kind == "new") {
		const volatile auto size = static_cast<std::size_t>(PTRDIFF_MAX) / 2;
		::operator delete(::operator new(size));
		return;
	}
	if (kind == "vector") {
		std::vector<char> big;
		big.reserve(static_cast<std::size_t>(PTRDIFF_MAX) / 2);
		/* what is not used may be left out by the compiler */
		[[maybe_unused]] static char *volatile used;
		used = big.data();
		return;
	}
	if (kind == "runtime_error")
		throw std::runtime_error("100% of it failed: %s %n");
	if (kind == "hint")
		throw Error(ERRCODE_DIVISION_BY_ZERO, "our own: %s", "try %d");
	if (kind == "no hint")
		throw Error(ERRCODE_LOCK_NOT_AVAILABLE, "our own");
	if (kind == "long")
		throw Error(ERRCODE_DATA_EXCEPTION, std::string(100000, 'm'), std::string(100000, 'h'));
	if (kind == "long text")
		/* two bytes a character, from an odd offset and from an even one: a cut at any length falls into one of them */
		throw Error(ERRCODE_DATA_EXCEPTION, "m" + repeated("\xc3\xa9", 1000), repeated("\xc3\xa9", 1000));
	if (kind == "empty")
		throw Error(ERRCODE_DATA_EXCEPTION, "");
	if (kind == "palloc")
		guard([] { palloc(static_cast<Size>(MaxAllocSize) + 1); });
	if (kind == "malloc")
		guard([] { MemoryContextAllocHuge(CurrentMemoryContext, static_cast<Size>(1) << 60); });
	if (kind == "fields")
		guard([] { raise_all_fields("callback"); });
}

} // namespace

/* guard_throw(kind): throws the exception of this kind, some frames deep. */
JOBQUEUE_FUNCTION(guard_throw) {
	recurse(5, text_argument(fcinfo, 0));
	PG_RETURN_VOID();
}

/* guard_sql(query): runs the query; an error comes through guard and boundary. */
JOBQUEUE_FUNCTION(guard_sql) {
	Tracked tracked;
	return text_result(sql(text_argument(fcinfo, 0)));
}

/* guard_try(query): runs the query in a subtransaction, and returns how that ended. */
JOBQUEUE_FUNCTION(guard_try) {
	const std::string query = text_argument(fcinfo, 0);
	return text_result(attempt([&query] { return sql(query); }));
}

/* guard_try_throw(kind): throws in a subtransaction, without SQL, and returns how that ended. */
JOBQUEUE_FUNCTION(guard_try_throw) {
	const std::string kind = text_argument(fcinfo, 0);
	return text_result(attempt([&kind] {
		recurse(3, kind);
		return std::string();
	}));
}

/* guard_rethrow(query): catches, throws the same again, catches, throws on. */
JOBQUEUE_FUNCTION(guard_rethrow) {
	Tracked tracked;
	const std::string query = text_argument(fcinfo, 0);
	std::exception_ptr kept;
	try {
		try {
			sql(query);
		} catch (const PgError &) {
			kept = std::current_exception();
			throw;
		}
	} catch (const PgError &error) {
		const PgError copy = error;
		throw copy;
	}
	return text_result("no error");
}

/* guard_nested(depth, kind): C++, SQL, C++, SQL … and at the end guard_throw(kind). */
JOBQUEUE_FUNCTION(guard_nested) {
	Tracked tracked;
	const int depth = PG_GETARG_INT32(0);
	const std::string kind = text_argument(fcinfo, 1);
	if (depth == 0)
		recurse(2, kind);
	else
		sql("SELECT guard_nested(" + std::to_string(depth - 1) + ", '" + kind + "')");
	PG_RETURN_VOID();
}

/* guard_sleep(seconds): in one guarded call. */
JOBQUEUE_FUNCTION(guard_sleep) {
	Tracked tracked;
	guard([fcinfo] { DirectFunctionCall1(pg_sleep, PG_GETARG_DATUM(0)); });
	PG_RETURN_VOID();
}

/* guard_spin(seconds): in very many guarded calls, none of which waits. */
JOBQUEUE_FUNCTION(guard_spin) {
	Tracked tracked;
	const float8 seconds = PG_GETARG_FLOAT8(0);
	const TimestampTz end = GetCurrentTimestamp() + static_cast<TimestampTz>(seconds * USECS_PER_SEC);
	while (GetCurrentTimestamp() < end)
		guard([] { CHECK_FOR_INTERRUPTS(); });
	PG_RETURN_VOID();
}

/* guard_in_context(): after a guarded call that fails in another memory context, the caller is in its own again. */
JOBQUEUE_FUNCTION(guard_in_context) {
	MemoryContext before = CurrentMemoryContext;
	const std::string outcome = attempt([before] {
		std::string inner = "caught nothing";
		try {
			guard([] {
				MemoryContextSwitchTo(TopMemoryContext);
				elog(ERROR, "elsewhere");
			});
		} catch (const PgError &) {
			inner = CurrentMemoryContext == before ? "context kept" : "context lost";
			guard([] { elog(ERROR, "the second one"); });
		}
		return inner;
	});
	const bool kept = CurrentMemoryContext == before;
	return text_result(outcome + (kept ? ", context kept" : ", context lost"));
}

/*
 * guard_caught(n): n errors caught in C++, each in a subtransaction, with the fields read. Returns how many bytes more
 * are in the server's contexts and in the heap than after the first thousand.
 */
JOBQUEUE_FUNCTION(guard_caught) {
	const int64 n = PG_GETARG_INT64(0);
	int64 contexts = 0;
	int64 heap = 0;
	int64 caught = 0;
	const auto in_contexts = [] { return static_cast<int64>(MemoryContextMemAllocated(TopMemoryContext, true)); };
	const auto in_heap = [] {
		const struct mallinfo2 info = mallinfo2();
		return static_cast<int64>(info.uordblks + info.hblkhd);
	};
	for (int64 i = 0; i < n; ++i) {
		if (i == 1000) {
			contexts = in_contexts();
			heap = in_heap();
		}
		const Subtransaction outer = begin_subtransaction();
		try {
			Tracked tracked;
			guard([] { raise_all_fields("caught"); });
		} catch (const PgError &error) {
			const ErrorData &data = error.data();
			if (data.sqlerrcode == ERRCODE_NO_DATA_FOUND && data.hint && std::string(data.hint) == "the hint")
				++caught;
		}
		end_subtransaction(outer, false);
	}
	if (caught != n)
		throw Error(ERRCODE_INTERNAL_ERROR, "only " + std::to_string(caught) + " errors were caught");
	return text_result(std::to_string(in_contexts() - contexts) + " " + std::to_string(in_heap() - heap));
}

/* guard_heap(): bytes in the process's heap, of which the server's contexts are a part. */
JOBQUEUE_FUNCTION(guard_heap) {
	const struct mallinfo2 info = mallinfo2();
	return Int64GetDatum(static_cast<int64>(info.uordblks + info.hblkhd));
}

/* guard_objects(): how many objects exist, and whether any was ever made. */
JOBQUEUE_FUNCTION(guard_objects) {
	return text_result(std::to_string(made - destroyed) + (made > 0 ? " of some" : " of none"));
}
