/*
 * guard.hpp -- the only two places where longjmp meets throw.
 *
 * C region:   may ereport(ERROR); holds only trivially destructible locals.
 * C++ region: may throw; owns objects; reaches the server only through guard().
 *
 *   C -> C++   boundary()   a thrown exception becomes an ereport, after every handler is closed
 *   C++ -> C   guard()      an ereport becomes a thrown PgError
 *
 * Every file says in its head which region its functions are.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

/* An ERROR taken off the server's error stack, with every field intact. */
class PgError final : public std::exception {
public:
	/* Owns a private memory context: FreeErrorData() alone leaks what CopyErrorData() duplicated. */
	struct Owned {
		MemoryContext context = nullptr;
		ErrorData *edata = nullptr;
		Owned() = default;
		Owned(const Owned &) = delete;
		Owned &operator=(const Owned &) = delete;
		~Owned() {
			if (context)
				MemoryContextDelete(context);
		}
	};

	explicit PgError(std::shared_ptr<Owned> owned) noexcept : owned_(std::move(owned)) {}
	const char *what() const noexcept override { return data().message ? data().message : "missing error text"; }
	const ErrorData &data() const noexcept { return *owned_->edata; }
	int sqlerrcode() const noexcept { return data().sqlerrcode; }

	/* Hands the data to the server: from now on it lives as long as "parent". Cannot fail. Call once, last. */
	ErrorData *release(MemoryContext parent) const noexcept {
		MemoryContextSetParent(std::exchange(owned_->context, nullptr), parent);
		return owned_->edata;
	}

private:
	std::shared_ptr<Owned> owned_; /* shared, because exceptions must be copyable */
};

/* An error of our own, thrown from a C++ region where ereport cannot be used. "hint" may be null. Both are copied. */
class Error final : public std::exception {
public:
	Error(int sqlerrcode, std::string message, std::string hint = {})
		: sqlerrcode_(sqlerrcode), message_(std::move(message)), hint_(std::move(hint)) {}
	const char *what() const noexcept override { return message_.c_str(); }
	int sqlerrcode() const noexcept { return sqlerrcode_; }
	const std::string &hint() const noexcept { return hint_; }

private:
	int sqlerrcode_;
	std::string message_;
	std::string hint_;
};

namespace detail {

/* Restores the error stacks on every way out of a scope: return, throw, longjmp to here. */
class ErrorStackScope {
public:
	ErrorStackScope() noexcept : jump_(PG_exception_stack), context_(error_context_stack) {}
	~ErrorStackScope() {
		PG_exception_stack = jump_;
		error_context_stack = context_;
	}
	ErrorStackScope(const ErrorStackScope &) = delete;
	ErrorStackScope &operator=(const ErrorStackScope &) = delete;

private:
	sigjmp_buf *const jump_;
	ErrorContextCallback *const context_;
};

/* Runs fn(arg); true if it returned, false if it ereported. Not a template: one copy, easy to audit. */
bool run_caught(void (*fn)(void *), void *arg);
[[noreturn]] void throw_pending_error(MemoryContext caller);

struct Report {
	ErrorData *edata = nullptr;
	int sqlerrcode = ERRCODE_INTERNAL_ERROR;
	char message[512] = {};
	char hint[512] = {};
};
[[noreturn]] void report(const Report &report);
/* What boundary() reports of any exception but a PgError. Called while it is being handled. */
void describe(Report &report) noexcept;

} // namespace detail

/*
 * Calls server code from a C++ region. The callable is a C region: short, without objects that need a destructor.
 * Throws PgError if it ereports. The memory context is then the one that was current at the call.
 */
template <typename Fn> auto guard(Fn fn) -> std::invoke_result_t<Fn &> {
	using Result = std::invoke_result_t<Fn &>;
	static_assert(std::is_void_v<Result> || std::is_trivially_copyable_v<Result>,
				  "a guarded call runs in a C region: return a trivially copyable value");
	static_assert(std::is_trivially_destructible_v<Fn>,
				  "a guarded callable must not own resources: capture by reference");
	MemoryContext caller = CurrentMemoryContext;
	if constexpr (std::is_void_v<Result>) {
		if (!detail::run_caught([](void *p) { (*static_cast<Fn *>(p))(); }, &fn))
			detail::throw_pending_error(caller);
	} else {
		struct Call {
			Fn *fn;
			Result result;
		} call{&fn, Result{}};
		const auto invoke = [](void *p) {
			auto *c = static_cast<Call *>(p);
			c->result = (*c->fn)();
		};
		if (!detail::run_caught(invoke, &call))
			detail::throw_pending_error(caller);
		return call.result;
	}
}

/*
 * What was thrown, as an error of the server, with its code and hint: an Error becomes one, too, and so does lack of
 * memory. Must not be called in a catch block. To record errors of any kind, catch everything, and call this.
 */
PgError as_pg_error(const std::exception_ptr &problem);

/* Enters a C++ region from C. No C++ object is alive when report() jumps. */
template <typename Fn> auto boundary(Fn &&fn) -> std::invoke_result_t<Fn &> {
	static_assert(std::is_void_v<std::invoke_result_t<Fn &>> ||
					  std::is_trivially_copyable_v<std::invoke_result_t<Fn &>>,
				  "C callers take plain values");
	MemoryContext caller = CurrentMemoryContext;
	detail::Report report;
	try {
		return fn();
	} catch (const PgError &e) {
		report.edata = e.release(caller);
	} catch (...) {
		detail::describe(report);
	}
	MemoryContextSwitchTo(caller);
	detail::report(report);
}

} // namespace jobqueue

/* Defines a function callable from SQL whose body is a C++ region. */
#define JOBQUEUE_FUNCTION(name)                                                                                        \
	static Datum name##_body(FunctionCallInfo fcinfo);                                                                 \
	extern "C" {                                                                                                       \
	PGDLLEXPORT Datum name(PG_FUNCTION_ARGS);                                                                          \
	PG_FUNCTION_INFO_V1(name);                                                                                         \
	Datum name(PG_FUNCTION_ARGS) {                                                                                     \
		return jobqueue::boundary([fcinfo] { return name##_body(fcinfo); });                                           \
	}                                                                                                                  \
	}                                                                                                                  \
	static Datum name##_body([[maybe_unused]] FunctionCallInfo fcinfo)
