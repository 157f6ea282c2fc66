/*
 * flow.cpp -- tasks that run after others: what after and on_parent_failure mean, jobqueue.enqueue_flow, and
 * jobqueue.parent_results. C++ region; the lambdas given to guard are C.
 */
#include "api/flow.hpp"

#include "engine/dependencies.hpp"
#include "engine/executor.hpp"
#include "engine/limits.hpp"
#include "engine/sql_command.hpp"
#include "engine/store/dependencies.hpp"
#include "engine/store/role_limits.hpp"
#include "engine/store/task_graph.hpp"
#include "shared/transaction_notes.hpp"

#include <map>

extern "C" {
#include "utils/numeric.h"
}

namespace jobqueue {

/* Of these the text comes from no user's memory. Null: there is no such policy. */
static const char *policy_named(std::string_view name) noexcept {
	for (const char *policy : {"cancel", "run", "wait"})
		if (name == policy)
			return policy;
	return nullptr;
}

static constexpr const char *policy_hint = "Valid values are cancel, run and wait.";

/* Whose tasks a caller may make its own wait for. */
static Queues parents_queues(FunctionCallInfo fcinfo) {
	return callers_queues(fcinfo, {Access::consumer, Access::manager});
}

/* Asked for at every call: what it is by default costs no detour. */
static bool is_default_policy(Datum given) noexcept {
	const auto *policy = reinterpret_cast<const text *>(DatumGetPointer(given));
	return !VARATT_IS_EXTERNAL(policy) && !VARATT_IS_COMPRESSED(policy) &&
		   std::string_view(VARDATA_ANY(policy), static_cast<size_t>(VARSIZE_ANY_EXHDR(policy))) == "cancel";
}

Waiting::Waiting(FunctionCallInfo fcinfo, int after, int on_parent_failure) : policy_("cancel") {
	const Arguments arguments(fcinfo);
	if (arguments.is_null(after) && !arguments.is_null(on_parent_failure) &&
		is_default_policy(arguments.datum(on_parent_failure)))
		return;
	const std::string policy = arguments.text_at(on_parent_failure, "on_parent_failure");
	policy_ = policy_named(policy);
	if (policy_ == nullptr)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "unknown on_parent_failure \"" + policy + "\"", policy_hint);
	if (arguments.is_null(after))
		return;
	const Datum array = arguments.datum(after);
	const std::span<const Datum> ids = guard([array] {
		ArrayType *const values = DatumGetArrayTypeP(array);
		if (array_contains_nulls(values))
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("after must not contain nulls")));
		Datum *elements;
		int count;
		deconstruct_array(values, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &elements, nullptr, &count);
		return std::span<const Datum>(elements, static_cast<size_t>(count));
	});
	if (ids.empty())
		return;
	parents_.reserve(ids.size());
	for (const Datum id : ids)
		parents_.push_back(DatumGetInt64(id));
	std::sort(parents_.begin(), parents_.end());
	parents_.erase(std::unique(parents_.begin(), parents_.end()), parents_.end());
	const Queues allowed = parents_queues(fcinfo);
	const std::string role = caller_name();
	const Session session(function_owner(fcinfo));
	parents_ = allowed_parents(std::move(parents_), allowed, role);
}

void Waiting::add(Oid owner, std::span<const store::Added> tasks) const {
	if (!any() || tasks.empty())
		return;
	std::vector<int64> children;
	children.reserve(tasks.size());
	for (const store::Added &task : tasks)
		children.push_back(task.id);
	const Session session(owner);
	add_dependencies(children, parents_, policy_);
}

namespace {

/* A task of a flow as it is written there. */
struct Member {
	store::FlowTask task;
	std::vector<size_t> after; /* others of the flow */
	std::vector<std::string> names;
	std::vector<int64> ids; /* tasks that were there before */
};

[[noreturn]] void refuse(const std::string &name, const std::string &what, const std::string &hint = {}) {
	throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "task \"" + name + "\" of the flow: " + what, hint);
}

struct Pair {
	JsonbValue key, value;
};

/* Of an object, or the elements of an array. C region. */
std::span<Pair> pairs_of(JsonbContainer *container) {
	JsonbIterator *iterator = JsonbIteratorInit(container);
	JsonbValue value;
	int capacity = 8, count = 0;
	auto *pairs = static_cast<Pair *>(palloc(sizeof(Pair) * static_cast<size_t>(capacity)));
	JsonbIteratorToken token = JsonbIteratorNext(&iterator, &value, true);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE) {
		if (token == WJB_KEY) {
			if (count == capacity)
				pairs = static_cast<Pair *>(repalloc_huge(pairs, sizeof(Pair) * static_cast<size_t>(capacity *= 2)));
			pairs[count].key = value;
		} else if (token == WJB_VALUE) {
			pairs[count++].value = value;
		} else if (token == WJB_ELEM) {
			if (count == capacity)
				pairs = static_cast<Pair *>(repalloc_huge(pairs, sizeof(Pair) * static_cast<size_t>(capacity *= 2)));
			pairs[count++].value = value;
		}
	}
	return {pairs, static_cast<size_t>(count)};
}

bool is_object(const JsonbValue &value) {
	return value.type == jbvBinary && JsonContainerIsObject(value.val.binary.data);
}

bool is_array(const JsonbValue &value) {
	return value.type == jbvBinary && JsonContainerIsArray(value.val.binary.data) &&
		   !JsonContainerIsScalar(value.val.binary.data);
}

std::string_view text_of(const JsonbValue &value) {
	return {value.val.string.val, static_cast<size_t>(value.val.string.len)};
}

/* Reads the settings of one task. */
class Reader {
public:
	explicit Reader(Member &member) : member_(member) {}
	void read(std::span<Pair> pairs);

private:
	std::string text(const char *key, const JsonbValue &value, size_t longest) const {
		if (value.type != jbvString || value.val.string.len == 0)
			refuse(name(), std::string(key) + " must be a non-empty string");
		bounds::check("task \"" + name() + "\" of the flow: " + key, text_of(value).size(), longest);
		return std::string(text_of(value));
	}
	int64 number(const char *key, const JsonbValue &value, int64 low, int64 high) const;
	/* What the function for this type's input makes of it. */
	template <typename Convert> Datum converted(const char *key, const JsonbValue &value, Convert &&convert) const;
	int64 duration(const char *key, const JsonbValue &value, Datum *interval) const;
	void read_after(const JsonbValue &value);
	void read_one(std::string_view key, const JsonbValue &value);
	const std::string &name() const { return member_.task.name; }

	Member &member_;
	bool delayed_ = false;
};

int64 Reader::number(const char *key, const JsonbValue &value, int64 low, int64 high) const {
	std::optional<int64> number;
	if (value.type == jbvNumeric) {
		const Numeric numeric = value.val.numeric;
		struct Read {
			int64 value;
			bool whole;
		};
		try {
			const Read read = guard([numeric]() -> Read {
				const Datum given = NumericGetDatum(numeric);
				const int64 result = DatumGetInt64(DirectFunctionCall1(numeric_int8, given));
				const Datum back = DirectFunctionCall1(int8_numeric, Int64GetDatum(result));
				return {result, DatumGetBool(DirectFunctionCall2(numeric_eq, given, back))};
			});
			if (read.whole)
				number = read.value;
		} catch (const PgError &) {
		}
	}
	if (!number || *number < low || *number > high)
		refuse(name(), std::string(key) + " must be a whole number from " + std::to_string(low) + " to " +
						   std::to_string(high));
	return *number;
}

template <typename Convert> Datum Reader::converted(const char *key, const JsonbValue &value, Convert &&convert) const {
	const std::string given = text(key, value, bounds::key);
	const char *const input = given.c_str();
	std::optional<PgError> error;
	try {
		return guard([input, &convert] { return convert(input); });
	} catch (const PgError &caught) {
		error = caught;
	}
	refuse(name(), std::string(key) + ": " + error->what());
}

int64 Reader::duration(const char *key, const JsonbValue &value, Datum *interval) const {
	*interval = converted(key, value, [](const char *input) {
		return DirectFunctionCall3(interval_in, CStringGetDatum(input), ObjectIdGetDatum(InvalidOid),
								   Int32GetDatum(-1));
	});
	const Datum span = *interval;
	const TimestampTz now = GetCurrentTimestamp();
	std::optional<TimestampTz> then;
	try {
		then = guard([span, now] {
			return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now), span));
		});
	} catch (const PgError &) {
	}
	if (!then || TIMESTAMP_NOT_FINITE(*then) || *then > END_TIMESTAMP - USECS_PER_DAY)
		refuse(name(), std::string(key) + " is out of range");
	if (*then < now)
		refuse(name(), std::string(key) + " must not be negative");
	return *then - now;
}

void Reader::read_after(const JsonbValue &value) {
	if (!is_array(value))
		refuse(name(), "after must be an array of names and ids");
	JsonbContainer *const container = value.val.binary.data;
	for (const Pair &element : guard([container] { return pairs_of(container); })) {
		if (element.value.type == jbvString)
			member_.names.push_back(text("a name in after", element.value, bounds::flow_name));
		else
			member_.ids.push_back(number("an id in after", element.value, 1, PG_INT64_MAX));
	}
}

void Reader::read_one(std::string_view key, const JsonbValue &value) {
	store::NewTask &task = member_.task.task;
	const JsonbValue *const json = &value;
	const auto as_json = [json] {
		return guard([json] { return JsonbPGetDatum(JsonbValueToJsonb(const_cast<JsonbValue *>(json))); });
	};
	if (key == "name" || key == "type") /* they are known */
		return;
	if (key == "payload") {
		member_.task.payload = as_json();
		return;
	}
	if (key == "metadata") {
		task.metadata = as_json();
		bounds::check("task \"" + name() + "\" of the flow: metadata", bounds::size_of(*task.metadata),
					  bounds::metadata);
		return;
	}
	if (value.type == jbvNull) /* as if it had been left out */
		return;
	if (key == "queue") {
		if (value.type == jbvString && text_of(value).size() > bounds::queue)
			refuse(name(), "the name of a queue must have 1 to 63 bytes");
		task.queue = text("queue", value, bounds::queue);
	} else if (key == "priority") {
		task.priority = static_cast<int16>(number("priority", value, PG_INT16_MIN, PG_INT16_MAX));
	} else if (key == "run_at" || key == "delay") {
		if (std::exchange(delayed_, true))
			refuse(name(), "run_at and delay cannot be used together");
		if (key == "run_at") {
			const Datum time = converted("run_at", value, [](const char *input) {
				return DirectFunctionCall3(timestamptz_in, CStringGetDatum(input), ObjectIdGetDatum(InvalidOid),
										   Int32GetDatum(-1));
			});
			task.run_at = DatumGetTimestampTz(time);
			if (TIMESTAMP_NOT_FINITE(*task.run_at))
				refuse(name(), "run_at must be finite");
		} else {
			Datum span;
			task.run_at = GetCurrentTimestamp() + duration("delay", value, &span);
		}
	} else if (key == "max_attempts") {
		task.max_attempts = static_cast<int32>(number("max_attempts", value, 1, PG_INT32_MAX));
	} else if (key == "timeout") {
		Datum span;
		if (duration("timeout", value, &span) == 0)
			refuse(name(), "timeout must be positive");
		task.timeout = span;
	} else if (key == "group_key") {
		task.group_key = text("group_key", value, bounds::key);
	} else if (key == "after") {
		read_after(value);
	} else if (key == "on_parent_failure") {
		const std::string given = text("on_parent_failure", value, bounds::queue);
		if (policy_named(given) == nullptr)
			refuse(name(), "unknown on_parent_failure \"" + given + "\"", policy_hint);
		member_.task.policy = given;
	} else {
		refuse(name(), "unknown key \"" + std::string(key) + "\"");
	}
}

void Reader::read(std::span<Pair> pairs) {
	for (const Pair &pair : pairs)
		read_one(text_of(pair.key), pair.value);
}

/* A flow as it was given: types live in its members. */
class Flow {
public:
	explicit Flow(Datum json);
	std::vector<Member> members;
	std::vector<std::string> types; /* of the members */

private:
	void add(std::string name, const JsonbValue &settings);
	void link();
	void refuse_cycle(const std::vector<size_t> &waits_for) const;
};

void Flow::add(std::string name, const JsonbValue &settings) {
	if (name.empty())
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "the name of a task of a flow must not be empty");
	bounds::check("the name of a task of a flow", name.size(), bounds::flow_name);
	if (!is_object(settings))
		refuse(name, "it must be an object");
	Member member;
	member.task.name = std::move(name);
	member.task.policy = "cancel";
	member.task.payload = 0;
	JsonbContainer *const container = settings.val.binary.data;
	const std::span<Pair> pairs = guard([container] { return pairs_of(container); });
	Reader(member).read(pairs);
	std::string type;
	for (const Pair &pair : pairs)
		if (text_of(pair.key) == "type" && pair.value.type == jbvString)
			type = text_of(pair.value);
	if (type.empty())
		refuse(member.task.name, "type must be a non-empty string");
	bounds::check("task \"" + member.task.name + "\" of the flow: type", type.size(), bounds::type);
	types.push_back(std::move(type));
	members.push_back(std::move(member));
}

Flow::Flow(Datum json) {
	Jsonb *const flow = guard([json] { return DatumGetJsonbP(json); });
	JsonbContainer *const root = &flow->root;
	const bool list = JB_ROOT_IS_ARRAY(flow);
	if (JB_ROOT_IS_SCALAR(flow) || (!list && !JB_ROOT_IS_OBJECT(flow)))
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
					"a flow must be an object whose keys are the names of tasks, or an array of tasks");
	const std::span<Pair> pairs = guard([root] { return pairs_of(root); });
	members.reserve(pairs.size());
	types.reserve(pairs.size());
	for (size_t i = 0; i < pairs.size(); i++) {
		if (!list) {
			add(std::string(text_of(pairs[i].key)), pairs[i].value);
			continue;
		}
		std::optional<std::string> name;
		if (is_object(pairs[i].value)) {
			JsonbContainer *const container = pairs[i].value.val.binary.data;
			JsonbValue *const given =
				guard([container] { return getKeyJsonValueFromContainer(container, "name", 4, nullptr); });
			if (given != nullptr && given->type == jbvString)
				name = text_of(*given);
		}
		if (!name)
			throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
						"element " + std::to_string(i + 1) + " of the flow must be an object with a name");
		add(std::move(*name), pairs[i].value);
	}
	if (!list) { /* jsonb has an order of its own */
		std::vector<size_t> order(members.size());
		for (size_t i = 0; i < order.size(); i++)
			order[i] = i;
		std::sort(order.begin(), order.end(),
				  [this](size_t a, size_t b) { return members[a].task.name < members[b].task.name; });
		std::vector<Member> sorted;
		std::vector<std::string> sorted_types;
		for (const size_t i : order) {
			sorted.push_back(std::move(members[i]));
			sorted_types.push_back(std::move(types[i]));
		}
		members = std::move(sorted);
		types = std::move(sorted_types);
	}
	for (size_t i = 0; i < members.size(); i++)
		members[i].task.task.type = types[i];
	link();
}

/* Finds the others by their names, and refuses what could never run. */
void Flow::link() {
	std::map<std::string_view, size_t> places; /* no hash: users choose the names */
	for (size_t i = 0; i < members.size(); i++)
		if (!places.emplace(members[i].task.name, i).second)
			refuse(members[i].task.name, "there are two tasks with this name");
	std::vector<size_t> waits_for(members.size(), 0);
	std::vector<std::vector<size_t>> children(members.size());
	for (size_t i = 0; i < members.size(); i++) {
		Member &member = members[i];
		for (const std::string &name : member.names) {
			const auto place = places.find(name);
			if (place == places.end())
				refuse(member.task.name, "after names \"" + name + "\", which is not in the flow");
			member.after.push_back(place->second);
		}
		std::sort(member.after.begin(), member.after.end());
		member.after.erase(std::unique(member.after.begin(), member.after.end()), member.after.end());
		std::sort(member.ids.begin(), member.ids.end());
		member.ids.erase(std::unique(member.ids.begin(), member.ids.end()), member.ids.end());
		for (const size_t parent : member.after)
			children[parent].push_back(i);
		waits_for[i] = member.after.size();
	}
	std::vector<size_t> free;
	for (size_t i = 0; i < members.size(); i++)
		if (waits_for[i] == 0)
			free.push_back(i);
	for (size_t i = 0; i < free.size(); i++)
		for (const size_t child : children[free[i]])
			if (--waits_for[child] == 0)
				free.push_back(child);
	if (free.size() < members.size())
		refuse_cycle(waits_for);
}

/* Each of those that are left waits for another of them: on the way from one to the next, one comes twice. */
void Flow::refuse_cycle(const std::vector<size_t> &waits_for) const {
	size_t place = 0;
	while (waits_for[place] == 0)
		place++;
	std::vector<size_t> way;
	std::vector<bool> seen(members.size(), false);
	while (!seen[place]) {
		seen[place] = true;
		way.push_back(place);
		place = *std::find_if(members[place].after.begin(), members[place].after.end(),
							  [&waits_for](size_t parent) { return waits_for[parent] != 0; });
	}
	way.erase(way.begin(), std::find(way.begin(), way.end(), place));
	way.push_back(place);
	constexpr size_t longest = 20;
	std::string text;
	for (size_t i = 0; i < way.size() && i < longest; i++)
		text += (i ? " after " : "") + ("\"" + members[way[i]].task.name + "\"");
	throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
				"the flow has a cycle: " + text + (way.size() > longest ? " and so on" : ""));
}

/* The checks of enqueue(), for each task. Returns the queues in which the caller may add them. */
Queues check_flow(FunctionCallInfo fcinfo, const Flow &flow) {
	const Oid owner = function_owner(fcinfo);
	Queues allowed = callers_queues(fcinfo, {Access::producer});
	if (!allowed.all) {
		std::vector<std::string_view> types(flow.types.begin(), flow.types.end());
		std::sort(types.begin(), types.end());
		types.erase(std::unique(types.begin(), types.end()), types.end());
		for (const std::string_view type : types)
			require_type(allowed, owner, type);
	}
	std::for_each(flow.types.begin(), flow.types.end(), [](std::string_view type) { refuse_sql_type(type); });
	if (const std::optional<store::Limits> limits = callers_limits(owner))
		for (const Member &member : flow.members)
			check_limits(*limits, owner, {&member.task.payload, 1}, member.task.task.metadata);
	return allowed;
}

/* Of the ids that tasks of the flow wait for, those that they may. Needs a Session. */
void check_ids(Flow &flow, const Queues &allowed, const std::string &role) {
	std::vector<int64> ids;
	for (const Member &member : flow.members)
		ids.insert(ids.end(), member.ids.begin(), member.ids.end());
	std::sort(ids.begin(), ids.end());
	ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
	const std::vector<int64> known = allowed_parents(ids, allowed, role);
	if (known.size() == ids.size())
		return;
	for (Member &member : flow.members)
		std::erase_if(member.ids, [&known](int64 id) { return !std::binary_search(known.begin(), known.end(), id); });
}

std::vector<store::Edge> edges_of(const Flow &flow, const std::vector<store::Added> &added) {
	std::vector<store::Edge> edges;
	for (size_t i = 0; i < flow.members.size(); i++) {
		const Member &member = flow.members[i];
		const size_t first = edges.size();
		for (const int64 id : member.ids)
			edges.push_back({added[i].id, id, {}, member.task.policy});
		for (const size_t parent : member.after)
			edges.push_back({added[i].id, added[parent].id, flow.members[parent].task.name, member.task.policy});
		std::sort(edges.begin() + static_cast<std::ptrdiff_t>(first), edges.end(),
				  [](const store::Edge &a, const store::Edge &b) { return a.parent < b.parent; });
	}
	return edges;
}

void note_flow(const Flow &flow, const std::vector<store::Added> &added) {
	for (size_t i = 0; i < added.size(); i++) {
		const store::NewTask &task = flow.members[i].task.task;
		const store::Added &one = added[i];
		if (one.blocked)
			continue;
		guard([&task, &one] {
			if (one.scheduled)
				note_due(*task.run_at);
			else
				note_task(one.queue, task.priority, one.id, task.type, task.group_key.value_or(""));
		});
	}
}

std::vector<store::Added> add_flow(FunctionCallInfo fcinfo, Flow &flow) {
	if (flow.members.empty())
		return {};
	const std::string role = caller_name();
	const Datum nothing = guard([] { return DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")); });
	for (Member &member : flow.members) {
		member.task.task.created_by = role;
		if (member.task.payload == 0)
			member.task.payload = nothing;
	}
	const Queues allowed = check_flow(fcinfo, flow);
	const Queues reached = callers_queues(fcinfo, {Access::consumer, Access::manager});
	std::vector<store::Added> added;
	{
		const Session session(function_owner(fcinfo));
		check_ids(flow, reached, role);
		std::vector<store::FlowTask> tasks;
		tasks.reserve(flow.members.size());
		for (Member &member : flow.members) {
			member.task.task.own_queues = allowed.names;
			member.task.task.blocked = !member.after.empty() || !member.ids.empty();
			tasks.push_back(member.task);
		}
		added = store::insert_flow(tasks);
		for (const store::Added &one : added)
			require(allowed, one.queue);
		add_dependencies(edges_of(flow, added));
	}
	note_flow(flow, added);
	return added;
}

/* C region. */
Datum text_datum(const std::string *value) {
	return PointerGetDatum(cstring_to_text_with_len(value->data(), static_cast<int>(value->size())));
}

/* Of a task, into what the call returns. Needs a Session. */
void add_parent_results(ResultSet &result, int64 id) {
	const Rows rows = store::parent_results(id);
	for (uint64 i = 0; i < rows.size(); i++) {
		Datum values[4];
		bool nulls[4];
		for (int column = 0; column < 4; column++) {
			nulls[column] = rows.is_null(i, column + 1);
			values[column] = rows.datum(i, column + 1);
		}
		result.add_values(values, nulls);
	}
}

} // namespace
} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_enqueue_flow) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	arguments.require(0, "flow");
	Flow flow(arguments.datum(0));
	const std::vector<store::Added> added = add_flow(fcinfo, flow);
	ResultSet result(fcinfo, ResultSet::Of::record);
	for (size_t i = 0; i < added.size(); i++) {
		const std::string *const name = &flow.members[i].task.name;
		const Datum values[2] = {guard([name] { return text_datum(name); }), Int64GetDatum(added[i].id)};
		const bool nulls[2] = {false, false};
		result.add_values(values, nulls);
	}
	return 0;
}

JOBQUEUE_FUNCTION(jobqueue_parent_results) {
	using namespace jobqueue;
	const std::optional<int64> task = current_task_id();
	ResultSet result(fcinfo, ResultSet::Of::record);
	if (!task)
		return 0;
	const Session session(function_owner(fcinfo));
	add_parent_results(result, *task);
	return 0;
}

JOBQUEUE_FUNCTION(jobqueue_parent_results_of_claim) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const int64 id = arguments.int64_at(0, "id");
	const int32 attempt = arguments.int32_at(1, "attempt");
	ResultSet result(fcinfo, ResultSet::Of::record);
	const Queues allowed = callers_queues(fcinfo, {Access::consumer});
	const Session session(function_owner(fcinfo));
	require_tasks(allowed, {&id, 1});
	if (store::is_claimed(id, attempt))
		add_parent_results(result, id);
	return 0;
}
