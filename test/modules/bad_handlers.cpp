/*
 * bad_handlers.cpp -- handlers in C that misbehave as C can: for the tests of crashes and timeouts.
 *
 *   crash(jsonb)    writes to address 0
 *   spin(jsonb)     computes for payload.seconds, or until the file payload.until exists; never checks for interrupts
 *   leave(jsonb)    ends its process with a FATAL error
 *   vanish(jsonb)   ends its process with exit(payload.code)
 *   drop(jsonb)     ends its process with _exit(payload.code): nothing is cleaned up
 *   panic(jsonb)    ends its process with a PANIC error
 *
 * C region.
 */
#include "pg/compat.hpp"

#include <unistd.h>

extern "C" {
JOBQUEUE_MODULE("bad_handlers");

PG_FUNCTION_INFO_V1(bad_crash);
PG_FUNCTION_INFO_V1(bad_spin);
PG_FUNCTION_INFO_V1(bad_leave);
PG_FUNCTION_INFO_V1(bad_vanish);
PG_FUNCTION_INFO_V1(bad_drop);
PG_FUNCTION_INFO_V1(bad_panic);
PGDLLEXPORT Datum bad_crash(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum bad_spin(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum bad_leave(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum bad_vanish(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum bad_drop(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum bad_panic(PG_FUNCTION_ARGS);

static const JsonbValue *value_of(Datum payload, const char *key) {
	JsonbValue name;
	name.type = jbvString;
	name.val.string.val = const_cast<char *>(key);
	name.val.string.len = static_cast<int>(strlen(key));
	return findJsonbValueFromContainer(&DatumGetJsonbP(payload)->root, JB_FOBJECT, &name);
}

static double number_of(Datum payload, const char *key, double otherwise) {
	const JsonbValue *value = value_of(payload, key);
	if (value == nullptr || value->type != jbvNumeric)
		return otherwise;
	return DatumGetFloat8(DirectFunctionCall1(numeric_float8, NumericGetDatum(value->val.numeric)));
}

Datum bad_crash(PG_FUNCTION_ARGS) {
	(void)fcinfo;
	volatile int *volatile nowhere = nullptr;
	*nowhere = 1;
	PG_RETURN_VOID();
}

Datum bad_spin(PG_FUNCTION_ARGS) {
	const TimestampTz end = TimestampTzPlusMilliseconds(
		GetCurrentTimestamp(), static_cast<int64>(1000 * number_of(PG_GETARG_DATUM(0), "seconds", 3600)));
	const JsonbValue *until = value_of(PG_GETARG_DATUM(0), "until");
	const char *path = until != nullptr && until->type == jbvString
						   ? pnstrdup(until->val.string.val, static_cast<Size>(until->val.string.len))
						   : nullptr;
	while (GetCurrentTimestamp() < end && (path == nullptr || access(path, F_OK) != 0)) {
	}
	PG_RETURN_VOID();
}

Datum bad_leave(PG_FUNCTION_ARGS) {
	(void)fcinfo;
	ereport(FATAL, (errmsg("leaving")));
	PG_RETURN_VOID();
}

Datum bad_vanish(PG_FUNCTION_ARGS) {
	exit(static_cast<int>(number_of(PG_GETARG_DATUM(0), "code", 1)));
}

Datum bad_drop(PG_FUNCTION_ARGS) {
	_exit(static_cast<int>(number_of(PG_GETARG_DATUM(0), "code", 1)));
}

Datum bad_panic(PG_FUNCTION_ARGS) {
	(void)fcinfo;
	ereport(PANIC, (errmsg("panicking")));
	PG_RETURN_VOID();
}
}
