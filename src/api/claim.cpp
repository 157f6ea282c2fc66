/*
 * claim.cpp -- what workers outside the server call: jobqueue.claim, complete, complete_many, complete_and_claim, fail,
 * extend_lease, release, and those forms of snooze, discard and set_progress that name a claim. C++ region.
 */
#include "api/arguments.hpp"
#include "engine/outcome.hpp"
#include "engine/outside_claims.hpp"
#include "engine/sql_command.hpp"
#include "engine/store/claims.hpp"
#include "engine/store/type_filter.hpp"
#include "pg/raw_size.hpp"
#include "shared/transaction_notes.hpp"

namespace jobqueue {

static constexpr int most_tasks = 100000;
static constexpr size_t most_types = 1000;
/* A claimant that dies keeps its tasks until the lease ends, which can last so long at most. */
static constexpr int64 longest_lease_us = 366 * USECS_PER_DAY;

/* Application name and pid. */
static std::string default_claimant() {
	const std::string pid = std::to_string(MyProcPid);
	return application_name && application_name[0] ? std::string(application_name) + " (" + pid + ")" : "pid " + pid;
}

static std::vector<std::string> read_types(const Arguments &arguments, int n) {
	std::vector<std::string> types = arguments.texts_at(n, "types");
	std::ranges::for_each(types, refuse_sql_type);
	std::sort(types.begin(), types.end());
	types.erase(std::unique(types.begin(), types.end()), types.end());
	if (types.size() > most_types)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
					"types must not have more than " + std::to_string(most_types) + " elements");
	return types;
}

static TimestampTz lease_end(const Arguments &arguments, int n) {
	arguments.require(n, "lease");
	const int64 lease = *arguments.optional_duration(n, "lease");
	if (lease == 0)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "lease must be positive");
	if (lease > longest_lease_us)
		throw Error(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE, "lease is out of range",
					"The maximum is 366 days; call jobqueue.extend_lease() for a task that takes longer.");
	return GetCurrentTimestamp() + lease;
}

/* What to claim: five arguments from "first" on. */
static ClaimRequest read_request(const Arguments &arguments, int first) {
	ClaimRequest request;
	request.queue = arguments.optional_queue(first);
	request.count = arguments.int32_at(first + 1, "max_tasks");
	if (request.count < 1 || request.count > most_tasks)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "max_tasks must be between 1 and " + std::to_string(most_tasks));
	request.lease = lease_end(arguments, first + 2);
	if (!arguments.is_null(first + 3))
		request.types = read_types(arguments, first + 3);
	const std::optional<std::string> given = arguments.optional_text(first + 4, "claimed_by", bounds::claimed_by);
	request.claimant = given ? *given : default_claimant();
	return request;
}

/* The queues where the caller is a consumer; throws if "queue" is given and is not one of them. */
static Queues consumers_queues(FunctionCallInfo fcinfo, const std::optional<std::string> &queue = {}) {
	Queues allowed = callers_queues(fcinfo, {Access::consumer});
	if (queue)
		require(allowed, queue);
	return allowed;
}

namespace {

/* A claim, as claim() returned it. */
struct ClaimName {
	int64 id;
	int32 attempt;
	explicit ClaimName(const Arguments &arguments)
		: id(arguments.int64_at(0, "id")), attempt(arguments.int32_at(1, "attempt")) {}
};

/*
 * A Session for work on a claim that the caller says is its own. Throws if the caller has no right to the task's queue.
 */
class ClaimSession {
public:
	ClaimSession(FunctionCallInfo fcinfo, const ClaimName &name)
		: allowed_(consumers_queues(fcinfo)), session_(function_owner(fcinfo)) {
		require_tasks(allowed_, {&name.id, 1});
	}

private:
	const Queues allowed_;
	const Session session_;
};

} // namespace

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

namespace {

/* Completed claims, from the first three arguments. */
struct Completions {
	std::vector<int64> ids;
	std::vector<int32> attempts;
	std::optional<Datum> results; /* jsonb[] */

	explicit Completions(const Arguments &arguments) {
		arguments.require(0, "ids");
		arguments.require(1, "attempts");
		ids = read_numbers<int64>(arguments.datum(0), INT8OID, "ids");
		attempts = read_numbers<int32>(arguments.datum(1), INT4OID, "attempts");
		if (ids.size() != attempts.size())
			throw Error(ERRCODE_ARRAY_SUBSCRIPT_ERROR, "ids and attempts must have the same length");
		if (arguments.is_null(2))
			return;
		const Datum array = arguments.datum(2);
		const int count = guard([array] {
			ArrayType *values = DatumGetArrayTypeP(array);
			return ArrayGetNItems(ARR_NDIM(values), ARR_DIMS(values));
		});
		if (static_cast<size_t>(count) != ids.size())
			throw Error(ERRCODE_ARRAY_SUBSCRIPT_ERROR, "ids and results must have the same length");
		results = array;
	}
	/* Needs a Session. Returns the ids whose claims were still valid. */
	std::vector<int64> end(const Queues &allowed) const {
		require_tasks(allowed, ids);
		return end_completed(ids, attempts, results, false);
	}
};

} // namespace

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_is_wanted) {
	using namespace jobqueue;
	const Datum given = PG_GETARG_DATUM(0);
	const auto *type = reinterpret_cast<const text *>(DatumGetPointer(given));
	if (VARATT_IS_EXTERNAL(type) || VARATT_IS_COMPRESSED(type)) /* called for every candidate: a guard only if needed */
		type = guard([given] { return DatumGetTextPP(given); });
	return BoolGetDatum(
		store::is_wanted({VARDATA_ANY(type), static_cast<size_t>(VARSIZE_ANY_EXHDR(type))}, PG_GETARG_BOOL(1)));
}

JOBQUEUE_FUNCTION(jobqueue_raw_size) {
	return Int64GetDatum(jobqueue::raw_size(PG_GETARG_DATUM(0)));
}

JOBQUEUE_FUNCTION(jobqueue_claim) {
	using namespace jobqueue;
	const ClaimRequest request = read_request(Arguments(fcinfo), 0);
	Queues allowed = consumers_queues(fcinfo, request.queue);
	ResultSet result(fcinfo, ResultSet::Of::tasks);
	const Session session(function_owner(fcinfo));
	for (HeapTuple row : claim_for_outside(request, std::move(allowed)))
		result.add_row(row);
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
	const ClaimSession session(fcinfo, name);
	return BoolGetDatum(!end_completed({&name.id, 1}, {&name.attempt, 1}, results, false).empty());
}

JOBQUEUE_FUNCTION(jobqueue_complete_many) {
	using namespace jobqueue;
	const Completions completions(Arguments{fcinfo});
	const Queues allowed = consumers_queues(fcinfo);
	ResultSet result(fcinfo, ResultSet::Of::bigint);
	const Session session(function_owner(fcinfo));
	std::vector<int64> done = completions.end(allowed);
	std::sort(done.begin(), done.end());
	for (const int64 id : completions.ids) {
		const auto found = std::lower_bound(done.begin(), done.end(), id);
		if (found == done.end() || *found != id)
			continue;
		result.add(id);
		done.erase(found);
	}
	return 0;
}

JOBQUEUE_FUNCTION(jobqueue_complete_and_claim) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const Completions completions(arguments);
	const ClaimRequest request = read_request(arguments, 3);
	Queues allowed = consumers_queues(fcinfo, request.queue);
	ResultSet result(fcinfo, ResultSet::Of::tasks);
	const Session session(function_owner(fcinfo));
	/* Complete first: a claim whose lease has ended is still valid until somebody takes the task back. */
	completions.end(allowed);
	for (HeapTuple row : claim_for_outside(request, std::move(allowed)))
		result.add_row(row);
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
					"sqlstate must be five digits or upper-case letters, and must not mean success");
	const FailureOptions options = {.retryable = DatumGetBool(arguments.datum(5)),
									.retry_in_us = arguments.optional_duration(4, "retry_in")};
	const char *status = nullptr;
	{
		const ClaimSession session(fcinfo, name);
		const std::optional<store::Claim> claim = store::lock_claim(name.id, name.attempt, false);
		/* P0001: what RAISE EXCEPTION would have had */
		if (claim)
			status =
				end_failed(*claim, {*arguments.optional_remark(2, bounds::error), valid ? sqlstate : "P0001"}, options);
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
	const ClaimSession session(fcinfo, name);
	const bool held = store::extend_lease(name.id, name.attempt, lease);
	if (held)
		guard([lease] { note_due(lease); });
	return BoolGetDatum(held);
}

JOBQUEUE_FUNCTION(jobqueue_release) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const ClaimName name(arguments);
	const ClaimSession session(fcinfo, name);
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
	const ClaimSession session(fcinfo, name);
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
	const ClaimSession session(fcinfo, name);
	const std::optional<store::Claim> claim = store::lock_claim(name.id, name.attempt, false);
	if (claim)
		end_failed(*claim, {*arguments.optional_remark(2, bounds::error), sqlstate::discarded}, {.discarded = true});
	return BoolGetDatum(claim.has_value());
}

JOBQUEUE_FUNCTION(jobqueue_set_progress_claim) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const ClaimName name(arguments);
	const float4 fraction = arguments.fraction_at(2);
	const std::optional<std::string> message = arguments.optional_remark(3, bounds::progress_message);
	const ClaimSession session(fcinfo, name);
	return BoolGetDatum(store::set_progress(name.id, name.attempt, fraction, message));
}
