/*
 * task_graph_reader.cpp -- see task_graph_reader.hpp. C++ region; the lambdas given to guard are C.
 */
#include "engine/task_graph_reader.hpp"

#include "engine/store/bounds.hpp"
#include "engine/dependencies.hpp"

extern "C" {
#include "utils/numeric.h"
}

namespace jobqueue {

namespace {

struct Pair {
	JsonbValue key, value;
};

/* The pairs of an object, or the elements of an array. C region. */
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
class TaskReader {
public:
	explicit TaskReader(GraphTask &task) : task_(task) {}
	void read(std::span<Pair> pairs);

private:
	std::string text(const char *key, const JsonbValue &value, size_t longest) const {
		if (value.type != jbvString || value.val.string.len == 0)
			refuse_graph_task(name(), std::string(key) + " must be a non-empty string");
		bounds::check("task \"" + name() + "\" of the flow: " + key, text_of(value).size(), longest);
		return std::string(text_of(value));
	}
	int64 number(const char *key, const JsonbValue &value, int64 low, int64 high) const;
	/* The value, as the input function of the type reads it. */
	template <typename Convert> Datum converted(const char *key, const JsonbValue &value, Convert &&convert) const;
	int64 duration(const char *key, const JsonbValue &value, Datum *interval) const;
	void read_after(const JsonbValue &value);
	void read_one(std::string_view key, const JsonbValue &value);
	const std::string &name() const { return task_.task.name; }

	GraphTask &task_;
	bool delayed_ = false;
};

int64 TaskReader::number(const char *key, const JsonbValue &value, int64 low, int64 high) const {
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
		refuse_graph_task(name(), std::string(key) + " must be a whole number from " + std::to_string(low) + " to " +
									  std::to_string(high));
	return *number;
}

template <typename Convert>
Datum TaskReader::converted(const char *key, const JsonbValue &value, Convert &&convert) const {
	const std::string given = text(key, value, bounds::key);
	const char *const input = given.c_str();
	std::optional<PgError> error;
	try {
		return guard([input, &convert] { return convert(input); });
	} catch (const PgError &caught) {
		error = caught;
	}
	refuse_graph_task(name(), std::string(key) + ": " + error->what());
}

int64 TaskReader::duration(const char *key, const JsonbValue &value, Datum *interval) const {
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
		refuse_graph_task(name(), std::string(key) + " is out of range");
	if (*then < now)
		refuse_graph_task(name(), std::string(key) + " must not be negative");
	return *then - now;
}

void TaskReader::read_after(const JsonbValue &value) {
	if (!is_array(value))
		refuse_graph_task(name(), "after must be an array of names and ids");
	JsonbContainer *const container = value.val.binary.data;
	for (const Pair &element : guard([container] { return pairs_of(container); })) {
		if (element.value.type == jbvString)
			task_.names.push_back(text("a name in after", element.value, bounds::graph_name));
		else
			task_.ids.push_back(number("an id in after", element.value, 1, PG_INT64_MAX));
	}
}

void TaskReader::read_one(std::string_view key, const JsonbValue &value) {
	store::NewTask &task = task_.task.task;
	const JsonbValue *const json = &value;
	const auto as_json = [json] {
		return guard([json] { return JsonbPGetDatum(JsonbValueToJsonb(const_cast<JsonbValue *>(json))); });
	};
	if (key == "name" || key == "type") /* already read */
		return;
	if (key == "payload") {
		task_.task.payload = as_json();
		return;
	}
	if (key == "metadata") {
		task.metadata = as_json();
		bounds::check("task \"" + name() + "\" of the flow: metadata", bounds::size_of(*task.metadata),
					  bounds::metadata);
		return;
	}
	if (value.type == jbvNull) /* as if the key had been left out */
		return;
	if (key == "queue") {
		if (value.type == jbvString && text_of(value).size() > bounds::queue)
			refuse_graph_task(name(), "the name of a queue must have 1 to 63 bytes");
		task.queue = text("queue", value, bounds::queue);
	} else if (key == "priority") {
		task.priority = static_cast<int16>(number("priority", value, PG_INT16_MIN, PG_INT16_MAX));
	} else if (key == "run_at" || key == "delay") {
		if (std::exchange(delayed_, true))
			refuse_graph_task(name(), "run_at and delay cannot be used together");
		if (key == "run_at") {
			const Datum time = converted("run_at", value, [](const char *input) {
				return DirectFunctionCall3(timestamptz_in, CStringGetDatum(input), ObjectIdGetDatum(InvalidOid),
										   Int32GetDatum(-1));
			});
			task.run_at = DatumGetTimestampTz(time);
			if (TIMESTAMP_NOT_FINITE(*task.run_at))
				refuse_graph_task(name(), "run_at must be finite");
		} else {
			Datum span;
			task.run_at = GetCurrentTimestamp() + duration("delay", value, &span);
		}
	} else if (key == "max_attempts") {
		task.max_attempts = static_cast<int32>(number("max_attempts", value, 1, PG_INT32_MAX));
	} else if (key == "timeout") {
		Datum span;
		if (duration("timeout", value, &span) == 0)
			refuse_graph_task(name(), "timeout must be positive");
		task.timeout = span;
	} else if (key == "group_key") {
		task.group_key = text("group_key", value, bounds::key);
	} else if (key == "after") {
		read_after(value);
	} else if (key == "on_parent_failure") {
		const std::string given = text("on_parent_failure", value, bounds::queue);
		if (failure_policy_named(given) == nullptr)
			refuse_graph_task(name(), "unknown on_parent_failure \"" + given + "\"", failure_policy_hint);
		task_.task.policy = given;
	} else {
		refuse_graph_task(name(), "unknown key \"" + std::string(key) + "\"");
	}
}

void TaskReader::read(std::span<Pair> pairs) {
	for (const Pair &pair : pairs)
		read_one(text_of(pair.key), pair.value);
}

void add_task(TaskGraph &graph, std::string name, const JsonbValue &settings) {
	if (name.empty())
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "the name of a task of a flow must not be empty");
	bounds::check("the name of a task of a flow", name.size(), bounds::graph_name);
	if (!is_object(settings))
		refuse_graph_task(name, "it must be an object");
	GraphTask task;
	task.task.name = std::move(name);
	task.task.policy = "cancel";
	task.task.payload = 0;
	JsonbContainer *const container = settings.val.binary.data;
	const std::span<Pair> pairs = guard([container] { return pairs_of(container); });
	TaskReader(task).read(pairs);
	std::string type;
	for (const Pair &pair : pairs)
		if (text_of(pair.key) == "type" && pair.value.type == jbvString)
			type = text_of(pair.value);
	if (type.empty())
		refuse_graph_task(task.task.name, "type must be a non-empty string");
	bounds::check("task \"" + task.task.name + "\" of the flow: type", type.size(), bounds::type);
	graph.types.push_back(std::move(type));
	graph.tasks.push_back(std::move(task));
}

} // namespace

TaskGraph read_task_graph(Datum json) {
	TaskGraph graph;

	Jsonb *const graph_json = guard([json] { return DatumGetJsonbP(json); });
	JsonbContainer *const root = &graph_json->root;
	const bool list = JB_ROOT_IS_ARRAY(graph_json);
	if (JB_ROOT_IS_SCALAR(graph_json) || (!list && !JB_ROOT_IS_OBJECT(graph_json)))
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
					"a flow must be an object whose keys are the names of tasks, or an array of tasks");
	const std::span<Pair> pairs = guard([root] { return pairs_of(root); });
	graph.tasks.reserve(pairs.size());
	graph.types.reserve(pairs.size());
	for (size_t i = 0; i < pairs.size(); i++) {
		if (!list) {
			add_task(graph, std::string(text_of(pairs[i].key)), pairs[i].value);
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
		add_task(graph, std::move(*name), pairs[i].value);
	}
	if (!list) { /* sort by name: a jsonb object does not keep the order in which it was written */
		std::vector<size_t> order(graph.tasks.size());
		for (size_t i = 0; i < order.size(); i++)
			order[i] = i;
		std::sort(order.begin(), order.end(),
				  [&graph](size_t a, size_t b) { return graph.tasks[a].task.name < graph.tasks[b].task.name; });
		std::vector<GraphTask> sorted;
		std::vector<std::string> sorted_types;
		for (const size_t i : order) {
			sorted.push_back(std::move(graph.tasks[i]));
			sorted_types.push_back(std::move(graph.types[i]));
		}
		graph.tasks = std::move(sorted);
		graph.types = std::move(sorted_types);
	}
	for (size_t i = 0; i < graph.tasks.size(); i++)
		graph.tasks[i].task.task.type = graph.types[i];
	graph.link();
	return graph;
}

} // namespace jobqueue
