/*
 * claim.cpp -- what workers outside the server call: jobqueue.claim, complete, complete_many, fail, extend_lease,
 * release, and those forms of snooze, discard and set_progress that name a claim. C++ region.
 */
#include "api/arguments.hpp"
#include "engine/claimer.hpp"
#include "engine/outcome.hpp"
#include "shared/announcements.hpp"

namespace jobqueue {

static constexpr int most_tasks = 100000;
static constexpr size_t most_types = 1000; /* each is compared with each task that is passed */

/* Application name and pid. */
static std::string default_claimant() {
	const std::string pid = std::to_string(MyProcPid);
	return application_name && application_name[0] ? std::string(application_name) + " (" + pid + ")" : "pid " + pid;
}

static std::vector<std::string> read_types(const Arguments &arguments, int n) {
	std::vector<std::string> types = arguments.texts_at(n, "types");
	std::sort(types.begin(), types.end());
	types.erase(std::unique(types.begin(), types.end()), types.end());
	if (types.size() > most_types)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
					"types must not have more than " + std::to_string(most_types) + " elements");
	return types;
}

/* Every type without a handler: another set whenever the configuration changes. */
static Scope scope_of_unhandled() {
	Scope scope;
	scope.filter.unhandled = true;
	DatabaseSlot *slot = guard([] { return attach_database(MyDatabaseId); });
	const uint64 configuration = slot ? pg_atomic_read_u64(&slot->configuration) : 0;
	scope.key = hash_name("unhandled") ^ (configuration * 1099511628211ULL);
	return scope;
}

/* Nobody else makes scheduled tasks due and ends leases where there is no scheduler. */
static void stand_in_for_scheduler() {
	DatabaseSlot *slot = guard([] { return find_database(MyDatabaseId); });
	if (is_served(slot))
		return;
	constexpr int batch = 1000;
	const TimestampTz now = GetCurrentTimestamp();
	for (const store::Due &task : store::promote_due(DT_NOBEGIN, now, batch))
		guard([&task] { note_task(task.queue, task.priority, task.id, task.type); });
	for (const store::Claim &claim : store::lock_expired(now, batch))
		end_expired(claim);
}

static TimestampTz lease_end(const Arguments &arguments, int n) {
	arguments.require(n, "lease");
	const int64 lease = *arguments.optional_duration(n, "lease");
	if (lease == 0)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "lease must be longer than nothing");
	return GetCurrentTimestamp() + lease;
}

/* A claim, as claim() returned it. */
struct ClaimName {
	int64 id;
	int32 attempt;
	explicit ClaimName(const Arguments &arguments)
		: id(arguments.int64_at(0, "id")), attempt(arguments.int32_at(1, "attempt")) {}
};

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_claim) {
	using namespace jobqueue;
	/* One for the life of the backend: it knows the lanes. */
	static Claimer *claimer = nullptr;

	const Arguments arguments(fcinfo);
	const std::optional<std::string> queue = arguments.optional_queue(0);
	const int count = arguments.int32_at(1, "max_tasks");
	if (count < 1 || count > most_tasks)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "max_tasks must be between 1 and " + std::to_string(most_tasks));
	const TimestampTz lease = lease_end(arguments, 2);
	std::optional<std::string> claimant = arguments.optional_text(4);
	Scope scope = arguments.is_null(3) ? scope_of_unhandled() : scope_of_types(read_types(arguments, 3));

	ResultSet result(fcinfo, ResultSet::Of::tasks);
	const Session session(function_owner(fcinfo));
	stand_in_for_scheduler();
	const store::Pauses pauses = store::pauses();
	if (queue) { /* dead letters are for those who ask for their queue */
		const auto &queues = pauses.dead_letter_queues;
		scope.filter.dead_letters = true;
		scope.filter.every_type = std::find(queues.begin(), queues.end(), *queue) != queues.end();
		scope.key = hash_name(scope.filter.every_type ? "every type" : "dead letters", scope.key);
	}
	if (claimer == nullptr)
		claimer = new Claimer(false);
	claimer->absorb(scope);
	const Locked locked = claimer->lock(scope, pauses, queue, count);
	if (locked.ids.empty())
		return 0;
	for (const store::Attempt &attempt :
		 store::begin_attempts(locked.ids, lease, claimant ? *claimant : default_claimant()))
		result.add_row(attempt.row);
	guard([lease] { note_due(lease); });
	return 0;
}

JOBQUEUE_FUNCTION(jobqueue_complete) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const ClaimName name(arguments);
	std::optional<Datum> results;
	if (!arguments.is_null(2)) {
		const Datum given = arguments.datum(2);
		results = guard([given] {
			Datum element = PointerGetDatum(PG_DETOAST_DATUM(given));
			return PointerGetDatum(construct_array(&element, 1, JSONBOID, -1, false, TYPALIGN_INT));
		});
	}
	const Session session(function_owner(fcinfo));
	return BoolGetDatum(!end_completed({&name.id, 1}, {&name.attempt, 1}, results, false).empty());
}

namespace jobqueue {

template <typename T> static std::vector<T> read_numbers(Datum array, Oid type, const char *name) {
	struct List {
		Datum *values;
		bool *nulls;
		int count;
	};
	const List list = guard([array, type]() -> List {
		List result;
		deconstruct_array(DatumGetArrayTypeP(array), type, sizeof(T), true,
						  sizeof(T) == 8 ? TYPALIGN_DOUBLE : TYPALIGN_INT, &result.values, &result.nulls,
						  &result.count);
		return result;
	});
	std::vector<T> numbers;
	numbers.reserve(static_cast<size_t>(list.count));
	for (int i = 0; i < list.count; i++) {
		if (list.nulls[i])
			throw Error(ERRCODE_NULL_VALUE_NOT_ALLOWED, std::string(name) + " must not contain nulls");
		numbers.push_back(static_cast<T>(list.values[i]));
	}
	return numbers;
}

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_complete_many) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	arguments.require(0, "ids");
	arguments.require(1, "attempts");
	const std::vector<int64> ids = read_numbers<int64>(arguments.datum(0), INT8OID, "ids");
	const std::vector<int32> attempts = read_numbers<int32>(arguments.datum(1), INT4OID, "attempts");
	if (ids.size() != attempts.size())
		throw Error(ERRCODE_ARRAY_SUBSCRIPT_ERROR, "ids and attempts must have the same length");
	std::optional<Datum> results;
	if (!arguments.is_null(2)) {
		results = arguments.datum(2);
		const Datum array = *results;
		const int count = guard([array] {
			ArrayType *values = DatumGetArrayTypeP(array);
			return ArrayGetNItems(ARR_NDIM(values), ARR_DIMS(values));
		});
		if (static_cast<size_t>(count) != ids.size())
			throw Error(ERRCODE_ARRAY_SUBSCRIPT_ERROR, "ids and results must have the same length");
	}
	ResultSet result(fcinfo, ResultSet::Of::bigint);
	const Session session(function_owner(fcinfo));
	std::vector<int64> done = end_completed(ids, attempts, results, false);
	std::sort(done.begin(), done.end());
	for (const int64 id : ids) {
		const auto found = std::lower_bound(done.begin(), done.end(), id);
		if (found == done.end() || *found != id)
			continue;
		result.add(id);
		done.erase(found);
	}
	return 0;
}

JOBQUEUE_FUNCTION(jobqueue_fail) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const ClaimName name(arguments);
	arguments.require(2, "error");
	arguments.require(5, "retryable");
	const std::string sqlstate = arguments.optional_text(3).value_or("");
	const bool valid = sqlstate.size() == 5 && !sqlstate.starts_with("00") &&
					   sqlstate.find_first_not_of("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == std::string::npos;
	if (!sqlstate.empty() && !valid)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
					"sqlstate must be five digits or upper-case letters, and not that of a success");
	const FailureOptions options = {.retryable = DatumGetBool(arguments.datum(5)),
									.retry_in_us = arguments.optional_duration(4, "retry_in")};
	const char *status = nullptr;
	{
		const Session session(function_owner(fcinfo));
		const std::optional<store::Claim> claim = store::lock_claim(name.id, name.attempt, false);
		/* P0001: what RAISE EXCEPTION would have had */
		if (claim)
			status = end_failed(*claim, {*arguments.optional_text(2), valid ? sqlstate : "P0001"}, options);
	}
	if (status == nullptr) {
		fcinfo->isnull = true;
		return 0;
	}
	return guard([status] { return CStringGetTextDatum(status); });
}

JOBQUEUE_FUNCTION(jobqueue_extend_lease) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const ClaimName name(arguments);
	const TimestampTz lease = lease_end(arguments, 2);
	const Session session(function_owner(fcinfo));
	const bool held = store::extend_lease(name.id, name.attempt, lease);
	if (held)
		guard([lease] { note_due(lease); });
	return BoolGetDatum(held);
}

JOBQUEUE_FUNCTION(jobqueue_release) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const ClaimName name(arguments);
	const Session session(function_owner(fcinfo));
	const std::optional<store::Claim> claim = store::lock_claim(name.id, name.attempt, false);
	if (claim)
		end_released(*claim);
	return BoolGetDatum(claim.has_value());
}

JOBQUEUE_FUNCTION(jobqueue_snooze_claim) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const ClaimName name(arguments);
	arguments.require(2, "delay");
	const int64 delay = *arguments.optional_duration(2, "delay");
	const Session session(function_owner(fcinfo));
	const std::optional<store::Claim> claim = store::lock_claim(name.id, name.attempt, false);
	if (claim)
		end_snoozed(*claim, GetCurrentTimestamp() + delay);
	return BoolGetDatum(claim.has_value());
}

JOBQUEUE_FUNCTION(jobqueue_discard_claim) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const ClaimName name(arguments);
	arguments.require(2, "reason");
	const Session session(function_owner(fcinfo));
	const std::optional<store::Claim> claim = store::lock_claim(name.id, name.attempt, false);
	if (claim)
		end_failed(*claim, {*arguments.optional_text(2), sqlstate::discarded}, {.discarded = true});
	return BoolGetDatum(claim.has_value());
}

JOBQUEUE_FUNCTION(jobqueue_set_progress_claim) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const ClaimName name(arguments);
	const float4 fraction = arguments.fraction_at(2);
	const std::optional<std::string> message = arguments.optional_text(3);
	const Session session(function_owner(fcinfo));
	return BoolGetDatum(store::set_progress(name.id, name.attempt, fraction, message));
}
