/*
 * faults.cpp -- what regions.py must find, and what it must not: each marked line is reported, and no other. It is
 * compiled, but never run.
 */
#include "pg/guard.hpp"

namespace jobqueue {

static bool is_zero(int n) {
	if (n < 0)
		ereport(ERROR, (errmsg("negative")));
	return n == 0;
}

static int may_throw(int n) {
	return std::vector<int>(static_cast<size_t>(n)).at(0);
}

void error_past_object(const std::string &text) {
	const std::string copy = text;
	ereport(ERROR, (errmsg("%s", copy.c_str()))); /* fault */
}

bool error_past_object_of_the_caller(const std::string &text) {
	const std::string copy = text;
	return is_zero(static_cast<int>(copy.size())); /* fault */
}

bool error_past_temporary(const char *text) {
	return is_zero(std::string(text).compare("!")); /* fault */
}

bool error_after_object(const char *text) {
	bool is_empty;
	{
		const std::string object(text);
		is_empty = object.empty();
	}
	return is_zero(is_empty);
}

bool error_past_catch(int n) {
	try {
		return is_zero(may_throw(n)); /* fault */
	} catch (const std::exception &) {
		return false;
	}
}

template <typename Fn> static auto with_object(Fn fn) {
	const std::vector<int> object(3);
	return fn(); /* fault */
}
bool error_through_template(int n) {
	return with_object([n] { return is_zero(n); });
}

bool error_through_pointer(int n) {
	static bool (*volatile function)(int) = is_zero;
	const std::string object = std::to_string(n);
	return function(n); /* fault */
}

void error_past_object_in_guard(const std::optional<std::string> &text) {
	guard([&text] { elog(WARNING, "%s", text.value_or("").c_str()); }); /* fault */
}

int exception_in_guard(int n) {
	return guard([n] { return may_throw(n); }); /* fault */
}

bool error_in_guard(int n) {
	const std::string object = std::to_string(n);
	return guard([n] { return is_zero(n); });
}

static void at_exit(int, Datum) { /* fault */
	may_throw(1);
}
void exception_in_callback() {
	before_shmem_exit(at_exit, 0);
}

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_fine) {
	return Int32GetDatum(jobqueue::may_throw(PG_GETARG_INT32(0)));
}

extern "C" PGDLLEXPORT Datum jobqueue_without_boundary(PG_FUNCTION_ARGS) { /* fault */
	return Int32GetDatum(jobqueue::may_throw(PG_GETARG_INT32(0)));
}
