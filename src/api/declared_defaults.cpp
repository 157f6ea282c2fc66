/*
 * declared_defaults.cpp -- see declared_defaults.hpp. To read a default takes as long as a third of a call of
 * enqueue(), and wrappers leave several to it in each call: the backend keeps those that are constants. C region.
 */
#include "api/declared_defaults.hpp"

extern "C" {
#include "executor/executor.h"
#include "nodes/nodeFuncs.h"
#include "utils/datum.h"
#include "utils/inval.h"
}

namespace jobqueue {

namespace {

struct Default {
	Oid function;
	int place;
	NullableDatum value;
	int16 length;
	bool by_value;
	bool is_constant;
};

/* More than there are constant defaults in the extension. What does not fit is read each time. */
constinit std::array<Default, 64> kept = {};
constinit size_t kept_count = 0;
constinit bool kept_are_valid = false;
constinit MemoryContext kept_memory = nullptr; /* of the values */

void forget(Datum, int, uint32) {
	kept_are_valid = false;
}

/* Empties what has become invalid. Values that were given out are copies, so nobody uses what goes. */
void validate() {
	if (kept_memory == nullptr) {
		kept_memory = AllocSetContextCreate(TopMemoryContext, "jobqueue defaults", ALLOCSET_SMALL_SIZES);
		CacheRegisterSyscacheCallback(PROCOID, forget, 0);
	}
	if (kept_are_valid)
		return;
	kept_count = 0;
	MemoryContextReset(kept_memory);
	kept_are_valid = true;
}

Datum copy_of(const Default &given) {
	return given.value.isnull ? 0 : datumCopy(given.value.value, given.by_value, given.length);
}

void keep(Default given) {
	if (!given.is_constant || !kept_are_valid || kept_count == kept.size())
		return;
	MemoryContext caller = MemoryContextSwitchTo(kept_memory);
	given.value.value = copy_of(given);
	MemoryContextSwitchTo(caller);
	kept[kept_count++] = given;
}

/* The expression; null if there is none. */
Expr *expression_of(Oid function, int place) {
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	bool isnull;
	const Datum written = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_proargdefaults, &isnull);
	/* those of the last arguments */
	List *const defaults =
		isnull ? NIL : castNode(List, static_cast<Node *>(stringToNode(TextDatumGetCString(written))));
	const int first = reinterpret_cast<Form_pg_proc>(GETSTRUCT(tuple))->pronargs - list_length(defaults);
	ReleaseSysCache(tuple);
	const bool found = place >= first && place < first + list_length(defaults);
	return found ? static_cast<Expr *>(list_nth(defaults, place - first)) : nullptr;
}

Default read(Oid function, int place) {
	Default result = {function, place, {0, true}, 0, true, true};
	Expr *const expression = expression_of(function, place);
	if (expression == nullptr)
		return result;
	get_typlenbyval(exprType(reinterpret_cast<Node *>(expression)), &result.length, &result.by_value);
	EState *const state = CreateExecutorState();
	ExprState *const prepared = ExecPrepareExpr(expression, state);
	/* simplified: 'keep'::text is a constant, CURRENT_USER and now() are not */
	result.is_constant = IsA(prepared->expr, Const);
	result.value.value = ExecEvalExprSwitchContext(prepared, GetPerTupleExprContext(state), &result.value.isnull);
	result.value.value = copy_of(result);
	FreeExecutorState(state);
	return result;
}

} // namespace

NullableDatum declared_default(Oid function, int place) {
	validate();
	for (size_t i = 0; i < kept_count; i++)
		if (kept[i].function == function && kept[i].place == place)
			return {copy_of(kept[i]), kept[i].value.isnull};
	const Default found = read(function, place);
	keep(found);
	return found.value;
}

} // namespace jobqueue
