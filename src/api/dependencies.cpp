/*
 * dependencies.cpp -- tasks that run after others: the arguments after and on_parent_failure, jobqueue.enqueue_flow,
 * and jobqueue.parent_results. C++ region; the lambdas given to guard are C.
 */
#include "api/dependencies.hpp"

#include "engine/access.hpp"
#include "engine/dependencies.hpp"
#include "engine/current_task.hpp"
#include "engine/quotas.hpp"
#include "engine/sql_command.hpp"
#include "engine/store/dependencies.hpp"
#include "engine/store/quotas.hpp"
#include "engine/task_graph_reader.hpp"

namespace jobqueue {

/* The queues whose tasks the caller may name as parents. */
static Queues parents_queues(FunctionCallInfo fcinfo) {
	return callers_queues(fcinfo, {Access::consumer, Access::manager});
}

/* Called for every task: recognizes the default without a guard. */
static bool is_default_policy(Datum given) noexcept {
	const auto *policy = reinterpret_cast<const text *>(DatumGetPointer(given));
	return !VARATT_IS_EXTERNAL(policy) && !VARATT_IS_COMPRESSED(policy) &&
		   std::string_view(VARDATA_ANY(policy), static_cast<size_t>(VARSIZE_ANY_EXHDR(policy))) == "cancel";
}

ParentArguments::ParentArguments(FunctionCallInfo fcinfo, int after, int on_parent_failure) : policy_("cancel") {
	const Arguments arguments(fcinfo);
	if (arguments.is_null(after) && !arguments.is_null(on_parent_failure) &&
		is_default_policy(arguments.datum(on_parent_failure)))
		return;
	const std::string policy = arguments.text_at(on_parent_failure, "on_parent_failure");
	policy_ = failure_policy_named(policy);
	if (policy_ == nullptr)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "unknown on_parent_failure \"" + policy + "\"",
					failure_policy_hint);
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

void ParentArguments::add(Oid owner, std::span<const store::Added> tasks) const {
	if (!any() || tasks.empty())
		return;
	std::vector<int64> children;
	children.reserve(tasks.size());
	for (const store::Added &task : tasks)
		children.push_back(task.id);
	const Session session(owner);
	add_dependencies(children, parents_, policy_);
}

/* Makes the checks of enqueue() for each task. Returns the queues to which the caller may add tasks. */
static Queues check_graph(FunctionCallInfo fcinfo, const TaskGraph &graph) {
	const Oid owner = function_owner(fcinfo);
	Queues allowed = callers_queues(fcinfo, {Access::producer});
	if (!allowed.all) {
		std::vector<std::string_view> types(graph.types.begin(), graph.types.end());
		std::sort(types.begin(), types.end());
		types.erase(std::unique(types.begin(), types.end()), types.end());
		for (const std::string_view type : types)
			require_type(allowed, owner, type);
	}
	std::for_each(graph.types.begin(), graph.types.end(), [](std::string_view type) { refuse_sql_type(type); });
	if (const std::optional<store::Quota> quota = callers_quota(owner))
		for (const GraphTask &task : graph.tasks)
			check_quota(*quota, owner, {&task.task.payload, 1}, task.task.task.metadata);
	return allowed;
}

/* Returns the tasks in the order of the graph. */
static std::vector<store::Added> add_graph(FunctionCallInfo fcinfo, TaskGraph &graph) {
	if (graph.tasks.empty())
		return {};
	const std::string role = caller_name();
	const Datum nothing = guard([] { return DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")); });
	for (GraphTask &task : graph.tasks) {
		task.task.task.created_by = role;
		if (task.task.payload == 0)
			task.task.payload = nothing;
	}
	const Queues allowed = check_graph(fcinfo, graph);
	const Queues reached = parents_queues(fcinfo);
	std::vector<store::Added> added;
	{
		const Session session(function_owner(fcinfo));
		added = graph.add(allowed, reached, role);
	}
	graph.note(added);
	return added;
}

/* C region. */
static Datum text_datum(const std::string *value) {
	return PointerGetDatum(cstring_to_text_with_len(value->data(), static_cast<int>(value->size())));
}

/* Adds the results of a task's parents to what the call returns. Needs a Session. */
static void add_parent_results(ResultSet &result, int64 id) {
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

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_enqueue_flow) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	arguments.require(0, "flow");
	TaskGraph graph = read_task_graph(arguments.datum(0));
	const std::vector<store::Added> added = add_graph(fcinfo, graph);
	ResultSet result(fcinfo, ResultSet::Of::record);
	for (size_t i = 0; i < added.size(); i++) {
		const std::string *const name = &graph.tasks[i].task.name;
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
