/*
 * handler_signature.cpp -- see handler_signature.hpp. C++ region, but where it says otherwise.
 */
#include "engine/handler_signature.hpp"

namespace jobqueue {

/* Compares the type itself, not its written name, which depends on the session's settings. C region. */
static bool is_task_type(Oid type) {
	if (type == JSONBOID)
		return true;
	const Oid table = get_typtype(type) == TYPTYPE_COMPOSITE ? get_typ_typrelid(type) : InvalidOid;
	return OidIsValid(table) && table == get_relname_relid("tasks", get_namespace_oid("jobqueue", true));
}

Oid batch_element(const FormData_pg_proc *form) {
	return form->pronargs == 1 ? get_element_type(form->proargtypes.values[0]) : InvalidOid;
}

/* When the session of a temporary function has ended, another session's function may get its name. */
static constexpr const char *is_temporary = "it is temporary";

/* Why the function cannot be a handler; null if it can. C region. */
const char *handler_problem(Oid function) {
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		return "it does not exist";
	auto *form = reinterpret_cast<Form_pg_proc>(GETSTRUCT(tuple));
	const char *found = nullptr;
	const Oid element = batch_element(form);
	const bool batch = OidIsValid(element);
	if (isAnyTempNamespace(form->pronamespace))
		found = is_temporary;
	else if (form->prokind != PROKIND_FUNCTION && form->prokind != PROKIND_PROCEDURE)
		found = "it is neither a function nor a procedure";
	else if (form->pronargs != 1 || !is_task_type(batch ? element : form->proargtypes.values[0]))
		found = "it does not take exactly one argument of type jsonb or jobqueue.tasks, or an array of them";
	else if (!heap_attisnull(tuple, Anum_pg_proc_proargmodes, nullptr))
		found = "it has output or variadic arguments";
	else if (form->proretset)
		found = "it returns a set";
	else if (batch && form->prokind == PROKIND_PROCEDURE)
		found = "it takes an array, and is a procedure";
	else if (batch && form->prorettype != VOIDOID && form->prorettype != JSONBARRAYOID)
		found = "it takes an array, and returns neither void nor jsonb[]";
	else if (form->prokind == PROKIND_FUNCTION && form->prorettype != VOIDOID && form->prorettype != RECORDOID &&
			 get_typtype(form->prorettype) == TYPTYPE_PSEUDO)
		found = "it returns a pseudo-type";
	ReleaseSysCache(tuple);
	return found;
}

/* Why the function cannot be a back-off function; null if it can. C region. */
const char *backoff_problem(Oid function) {
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		return "it does not exist";
	auto *form = reinterpret_cast<Form_pg_proc>(GETSTRUCT(tuple));
	const char *found = nullptr;
	if (isAnyTempNamespace(form->pronamespace))
		found = is_temporary;
	else if (form->prokind != PROKIND_FUNCTION || form->proretset || form->prorettype != INTERVALOID)
		found = "it does not return interval";
	else if (form->pronargs != 2 || form->proargtypes.values[0] != INT4OID || form->proargtypes.values[1] != TEXTOID ||
			 !heap_attisnull(tuple, Anum_pg_proc_proargmodes, nullptr))
		found = "it has other arguments";
	ReleaseSysCache(tuple);
	return found;
}

static void check_signature(Oid function, const char *(*problem_of)(Oid), const char *role, const char *hint) {
	const char *const problem = guard([function, problem_of] { return problem_of(function); });
	if (problem == nullptr)
		return;
	const char *const name = guard([function] { return format_procedure_qualified(function); });
	throw Error(ERRCODE_INVALID_FUNCTION_DEFINITION,
				std::string("function ") + name + " cannot be a " + role + ": " + problem, hint);
}

void check_handler_signature(Oid function) {
	check_signature(
		function, handler_problem, "handler",
		"A handler is a function or procedure f(payload jsonb) or f(task jobqueue.tasks). A batch handler is "
		"a function f(payloads jsonb[]) or f(tasks jobqueue.tasks[]) that returns void or jsonb[].");
}

bool is_batch_handler(Oid function) {
	return guard([function] {
		HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
		if (!HeapTupleIsValid(tuple))
			return false;
		const bool batch = OidIsValid(batch_element(reinterpret_cast<Form_pg_proc>(GETSTRUCT(tuple))));
		ReleaseSysCache(tuple);
		return batch;
	});
}

void check_backoff_signature(Oid function) {
	check_signature(function, backoff_problem, "back-off function",
					"It must be a function f(attempt integer, error text) that returns interval.");
}

std::string handler_signature(Oid function) {
	/* The signature must not depend on the session's settings: stored signatures are compared. */
	struct Quoting {
		const bool saved = std::exchange(quote_all_identifiers, false);
		~Quoting() { quote_all_identifiers = saved; }
	} const quoting;
	return guard([function] { return format_procedure_qualified(function); });
}

} // namespace jobqueue
