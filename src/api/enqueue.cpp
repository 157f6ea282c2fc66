/*
 * enqueue.cpp -- jobqueue.enqueue, enqueue_unique, enqueue_many and enqueue_row. C++ region.
 */
#include "api/arguments.hpp"
#include "api/dependencies.hpp"
#include "api/trigger.hpp"
#include "engine/access.hpp"
#include "engine/kept_configuration.hpp"
#include "engine/quotas.hpp"
#include "engine/sql_command.hpp"
#include "engine/adding.hpp"
#include "engine/store/quotas.hpp"
#include "engine/store/unique_keys.hpp"
#include "engine/unique.hpp"
#include "pg/compat.hpp"

#include <map>

namespace jobqueue {

namespace {

/* Positions of the arguments that differ between the functions, or that not all of them have. */
struct Places {
	int group_key, after, on_parent_failure, metadata;
};

} // namespace

static constexpr Places of_enqueue = {10, 11, 12, 13};
static constexpr Places of_enqueue_many = {8, 9, 10, 11};

/* The arguments that enqueue, enqueue_unique and enqueue_many have in common, from position 2 on. */
static store::NewTask read_task(const Arguments &arguments, const std::string &type, const Places &places) {
	store::NewTask task;
	task.type = type;
	task.queue = arguments.optional_queue(2);
	/* The argument is an integer, so that callers can write 5: literals are not smallint. */
	const int32 priority = arguments.int32_at(3, "priority");
	if (priority < PG_INT16_MIN || priority > PG_INT16_MAX)
		throw Error(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, "priority must be between -32768 and 32767");
	task.priority = static_cast<int16>(priority);
	task.run_at = arguments.optional_time(4, "run_at");
	if (const std::optional<int64> delay = arguments.optional_duration(5, "delay")) {
		if (task.run_at)
			throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "run_at and delay cannot be used together");
		task.run_at = GetCurrentTimestamp() + *delay;
	}
	if (!arguments.is_null(6)) {
		task.max_attempts = DatumGetInt32(arguments.datum(6));
		if (*task.max_attempts < 1)
			throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "max_attempts must be at least 1");
	}
	if (const std::optional<int64> timeout = arguments.optional_duration(7, "timeout")) {
		if (*timeout == 0)
			throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "timeout must be positive");
		task.timeout = arguments.datum(7);
	}
	if (!arguments.is_null(places.group_key))
		task.group_key = arguments.text_at(places.group_key, "group_key", bounds::key);
	arguments.check_size(places.metadata, "metadata", bounds::metadata);
	if (!arguments.is_null(places.metadata))
		task.metadata = arguments.datum(places.metadata);
	task.created_by = caller_name();
	return task;
}

/* By type: the queue of a task that names none, as this backend found it last. */
using DefaultQueues = std::map<std::string, std::string, std::less<>>;
static constexpr size_t most_default_queues = 1000;

/*
 * Returns the queues to which "role" may add such a task. Throws if it may add none of this type, or if its limits
 * forbid these payloads; payloads() is only called if there are limits.
 */
template <typename Payloads>
static Queues check_producer(FunctionCallInfo fcinfo, const store::NewTask &task, Payloads &&payloads,
							 Oid role = GetUserId()) {
	refuse_sql_type(task.type);
	const Oid owner = function_owner(fcinfo);
	Queues allowed = callers_queues(fcinfo, {Access::producer}, role);
	require_type(allowed, owner, task.type);
	if (const std::optional<store::Quota> quota = callers_quota(owner, role))
		check_quota(*quota, owner, payloads(), task.metadata);
	return allowed;
}

static store::Added add_task(Oid owner, store::NewTask &task, Datum payload, const Queues &allowed) {
	DefaultQueues &queues = kept_configuration<DefaultQueues>([] { return DefaultQueues(); });
	task.own_queues = allowed.names;
	const auto known = queues.find(task.type);
	const bool look_up = !task.queue && (known == queues.end() || !allowed.all);
	if (!task.queue && !look_up)
		task.queue = known->second;
	const Session session(owner);
	store::Added added = store::insert(task, payload);
	require(allowed, added.queue);
	if (look_up && allowed.all && queues.size() < most_default_queues)
		queues.emplace(task.type, added.queue);
	return added;
}

/* Positions of the arguments about a key, in enqueue and enqueue_unique. They are checked even if there is no key. */
static constexpr int unique_key_place = 8, on_conflict_place = 9, unique_scope_place = 14, unique_for_place = 15;

/* The index of the given word in the list. */
static size_t choice(const Arguments &arguments, int n, const char *name,
					 std::initializer_list<std::string_view> words) {
	/* The value is nearly always the default, which comes uncompressed from the catalog: compare without a guard. */
	if (!arguments.is_null(n)) {
		const char *const value = DatumGetPointer(arguments.datum(n));
		if (!VARATT_IS_EXTERNAL(value) && !VARATT_IS_COMPRESSED(value) &&
			std::string_view(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value)) == *words.begin())
			return 0;
	}
	const std::string given = arguments.text_at(n, name);
	const auto found = std::find(words.begin(), words.end(), given);
	if (found != words.end())
		return static_cast<size_t>(found - words.begin());
	std::string hint = "Valid values are";
	for (const std::string_view &word : words)
		hint += (&word == words.begin() ? " " : &word + 1 == words.end() ? " and " : ", ") + std::string(word);
	throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "unknown " + std::string(name) + " \"" + given + "\"", hint + ".");
}

namespace {

struct KeyArguments {
	std::optional<store::UniqueKey> key;
	OnConflict on_conflict;
};

} // namespace

static KeyArguments read_key(const Arguments &arguments) {
	static constexpr OnConflict actions[] = {OnConflict::keep, OnConflict::replace, OnConflict::error};
	KeyArguments result = {std::nullopt,
						   actions[choice(arguments, on_conflict_place, "on_conflict", {"keep", "replace", "error"})]};
	const bool waiting = choice(arguments, unique_scope_place, "unique_scope", {"live", "waiting"}) == 1;
	const std::optional<int64> period = arguments.optional_duration(unique_for_place, "unique_for");
	if (period && *period == 0)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "unique_for must be positive");
	if (period && waiting)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "unique_for and unique_scope \"waiting\" cannot be used together");
	if (arguments.is_null(unique_key_place))
		return result;
	result.key = {arguments.text_at(unique_key_place, "unique_key", bounds::key), waiting, std::nullopt};
	if (period)
		result.key->until = GetCurrentTimestamp() + *period;
	return result;
}

/* Adds a task with a key. A call that adds no task does not count towards the role's quota. */
static UniqueOutcome add_keyed_task(FunctionCallInfo fcinfo, store::NewTask &task, Datum payload,
									const KeyArguments &arguments) {
	refuse_sql_type(task.type);
	const Oid owner = function_owner(fcinfo);
	const Queues allowed = callers_queues(fcinfo, {Access::producer});
	require_type(allowed, owner, task.type);
	require_keys_of(allowed, owner, task.type);
	const std::optional<store::Quota> quota = callers_quota(owner);
	if (quota)
		check_payload(*quota, payload, task.metadata);
	const bool room = !quota || has_room(*quota, owner, 1);
	task.own_queues = allowed.names;
	const ParentArguments parents(fcinfo, of_enqueue.after, of_enqueue.on_parent_failure);
	task.blocked = parents.any();
	const UniqueOutcome outcome = add_unique(owner, {task, payload, *arguments.key, arguments.on_conflict}, allowed);
	if (outcome.is_new)
		parents.add(owner, {&*outcome.announce, 1});
	if (outcome.is_new && quota)
		count_added(*quota, 1, room);
	if (!outcome.is_new)
		task.group_key = outcome.group;
	if (outcome.announce)
		note_added(task, *outcome.announce);
	return outcome;
}

/* The elements of a jsonb[] without nulls, in the caller's memory. */
static std::span<const Datum> elements_of(Datum array) {
	return guard([array] {
		Datum *values;
		bool *nulls;
		int count;
		deconstruct_array(DatumGetArrayTypeP(array), JSONBOID, -1, false, TYPALIGN_INT, &values, &nulls, &count);
		return std::span<const Datum>(values, static_cast<size_t>(count));
	});
}

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_enqueue) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const std::string type = arguments.text_at(0, "type", bounds::type);
	arguments.require(1, "payload");
	store::NewTask task = read_task(arguments, type, of_enqueue);
	const Datum payload = arguments.datum(1);
	if (const KeyArguments key = read_key(arguments); key.key)
		return Int64GetDatum(add_keyed_task(fcinfo, task, payload, key).id);
	const ParentArguments parents(fcinfo, of_enqueue.after, of_enqueue.on_parent_failure);
	task.blocked = parents.any();
	const Queues allowed = check_producer(fcinfo, task, [&payload] { return std::span(&payload, 1); });
	const store::Added added = add_task(function_owner(fcinfo), task, payload, allowed);
	parents.add(function_owner(fcinfo), {&added, 1});
	note_added(task, added);
	return Int64GetDatum(added.id);
}

JOBQUEUE_FUNCTION(jobqueue_enqueue_unique) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const std::string type = arguments.text_at(0, "type", bounds::type);
	arguments.require(1, "payload");
	arguments.require(unique_key_place, "unique_key");
	store::NewTask task = read_task(arguments, type, of_enqueue);
	const UniqueOutcome outcome = add_keyed_task(fcinfo, task, arguments.datum(1), read_key(arguments));
	return guard([fcinfo, &outcome] {
		TupleDesc layout;
		if (get_call_result_type(fcinfo, nullptr, &layout) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		Datum values[2] = {Int64GetDatum(outcome.id), BoolGetDatum(outcome.is_new)};
		bool nulls[2] = {false, false};
		return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(layout), values, nulls));
	});
}

JOBQUEUE_FUNCTION(jobqueue_enqueue_many) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const std::string type = arguments.text_at(0, "type", bounds::type);
	arguments.require(1, "payloads");
	const Datum payloads = arguments.datum(1);
	if (guard([payloads] { return array_contains_nulls(DatumGetArrayTypeP(payloads)); }))
		throw Error(ERRCODE_NULL_VALUE_NOT_ALLOWED, "payloads must not contain nulls");
	store::NewTask task = read_task(arguments, type, of_enqueue_many);
	const ParentArguments parents(fcinfo, of_enqueue_many.after, of_enqueue_many.on_parent_failure);
	task.blocked = parents.any();
	std::vector<store::Added> added;
	{
		const Queues allowed = check_producer(fcinfo, task, [payloads] { return elements_of(payloads); });
		task.own_queues = allowed.names;
		const Session session(function_owner(fcinfo));
		added = store::insert_many(task, payloads);
		if (!added.empty())
			require(allowed, added.front().queue);
	}
	parents.add(function_owner(fcinfo), added);
	ResultSet result(fcinfo, ResultSet::Of::bigint);
	for (const store::Added &one : added)
		result.add(one.id);
	/* All tasks went to one queue, and the first one has the lowest id. */
	if (!added.empty()) {
		note_added(task, added.front());
		if (!added.front().scheduled && !added.front().blocked)
			note_added(task, added.back());
	}
	return 0;
}

namespace jobqueue {

/* {"op", "table", "new", "old"} of a row trigger. C region. */
static Datum describe_row(TriggerData *trigger) {
	Oid row_type = InvalidOid;
	const auto as_datum = [trigger, &row_type](HeapTuple row) {
		return row ? compat::row_of_trigger(row, trigger->tg_relation, row_type) : Datum(0);
	};
	const bool update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
	const bool remove = TRIGGER_FIRED_BY_DELETE(trigger->tg_event);
	const Datum fresh = remove ? 0 : as_datum(update ? trigger->tg_newtuple : trigger->tg_trigtuple);
	const Datum old = update || remove ? as_datum(trigger->tg_trigtuple) : 0;
	const char *operation = GetCommandTagName(update ? CMDTAG_UPDATE : remove ? CMDTAG_DELETE : CMDTAG_INSERT);
	const char *table = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(trigger->tg_relation)),
												   RelationGetRelationName(trigger->tg_relation));

	Datum values[8] = {CStringGetTextDatum("op"),	 CStringGetTextDatum(operation),
					   CStringGetTextDatum("table"), CStringGetTextDatum(table),
					   CStringGetTextDatum("new"),	 fresh,
					   CStringGetTextDatum("old"),	 old};
	const Oid types[8] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, row_type, TEXTOID, row_type};
	/* jsonb_build_object finds the types in the expression that calls it. */
	List *parameters = NIL;
	for (int i = 0; i < 8; i++)
		parameters = lappend(parameters, makeConst(types[i], -1, InvalidOid, -1, values[i], values[i] == 0, false));
	FuncExpr *expression =
		makeFuncExpr(F_JSONB_BUILD_OBJECT_ANY, JSONBOID, parameters, InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	FmgrInfo function;
	fmgr_info(F_JSONB_BUILD_OBJECT_ANY, &function);
	fmgr_info_set_expr(reinterpret_cast<Node *>(expression), &function);
	LOCAL_FCINFO(call, 8);
	InitFunctionCallInfoData(*call, &function, 8, InvalidOid, nullptr, nullptr);
	for (int i = 0; i < 8; i++) {
		call->args[i].value = values[i];
		call->args[i].isnull = values[i] == 0;
	}
	return FunctionCallInvoke(call);
}

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_enqueue_row) {
	using namespace jobqueue;
	TriggerData *const trigger = trigger_data(fcinfo);
	if (!TRIGGER_FIRED_AFTER(trigger->tg_event) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		throw Error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, "enqueue_row must be an AFTER ... FOR EACH ROW trigger");
	if (trigger->tg_trigger->tgnargs != 1 || trigger->tg_trigger->tgargs[0][0] == '\0')
		throw Error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, "enqueue_row takes the type of the task as its argument",
					"Use CREATE TRIGGER ... EXECUTE FUNCTION jobqueue.enqueue_row('type').");
	/* Converting the row may call casts that users defined: do it before the rights change. */
	const Datum payload = guard([trigger] { return describe_row(trigger); });
	store::NewTask task;
	task.type = trigger->tg_trigger->tgargs[0];
	task.created_by = caller_name();
	/*
	 * The rights of the table's owner count, who may create triggers on it: a role that changes the table need not know
	 * of us.
	 */
	const Queues allowed = check_producer(
		fcinfo, task, [&payload] { return std::span(&payload, 1); }, trigger->tg_relation->rd_rel->relowner);
	const store::Added added = add_task(function_owner(fcinfo), task, payload, allowed);
	note_added(task, added);
	return PointerGetDatum(nullptr);
}
