/*
 * claim.cpp -- what workers outside the server call: jobqueue.claim, complete, complete_many, complete_and_claim, fail,
 * extend_lease, release, and those forms of snooze, discard and set_progress that name a claim. C++ region.
 */
#include "api/arguments.hpp"
#include "engine/kept_configuration.hpp"
#include "engine/claimer.hpp"
#include "engine/dependencies.hpp"
#include "engine/held_claims.hpp"
#include "engine/outcome.hpp"
#include "engine/set_aside.hpp"
#include "engine/sql_command.hpp"
#include "pg/raw_size.hpp"
#include "shared/announcements.hpp"

namespace jobqueue {

static constexpr int most_tasks = 100000;
static constexpr size_t most_types = 1000;
/* Who has died with a task in hand keeps what it holds for so long. */
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

namespace {

/* What a claim must know of handlers and queues. */
struct ClaimConfiguration {
	Conditions conditions;
	std::vector<store::HandledType> handled_types;
};

} // namespace

/* Every type without a handler: another set whenever the configuration changes. */
static Scope scope_of_unhandled(std::vector<std::string> handled_types) {
	Scope scope = scope_of_types(std::move(handled_types));
	scope.key = hash_name("unhandled", scope.key);
	scope.types = ~0ULL;
	scope.filter.others = true;
	return scope;
}

/* Nobody else makes scheduled tasks due and ends leases where there is no scheduler. */
static void stand_in_for_scheduler() {
	DatabaseSlot *slot = guard([] { return find_database(MyDatabaseId); });
	if (is_served(slot))
		return;
	constexpr int batch = 1000;
	static SetAside *due = nullptr, *expired = nullptr; /* for the life of the backend */
	if (expired == nullptr) {
		due = new SetAside("make due");
		expired = new SetAside("take back the lease of");
	}
	const TimestampTz now = GetCurrentTimestamp();
	step_in_subtransaction(
		*due, batch,
		[now](const store::Batch &rows) {
			const std::vector<store::Due> tasks = store::promote_due(DT_NOBEGIN, now, rows);
			for (const store::Due &task : tasks)
				announce_due(task);
			return static_cast<int64>(tasks.size());
		},
		[now](const store::Batch &rows) { return store::due_ids(DT_NOBEGIN, now, rows); });
	step_in_subtransaction(
		*expired, batch,
		[now](const store::Batch &rows) {
			const std::vector<store::Claim> claims = store::lock_expired(now, rows);
			for (const store::Claim &claim : claims)
				end_expired(claim);
			return static_cast<int64>(claims.size());
		},
		[now](const store::Batch &rows) { return store::expired_ids(now, rows); });
	resolve_in_turn();
}

/* A claim that comes before the scheduler has counted what is running, for new limits, counts itself: it cannot wait. */
static void count_for_limits(const Conditions &conditions) {
	static Conditions *counted = nullptr; /* as of which it was done, for all that this session knows */
	DatabaseSlot *slot = guard([] { return find_database(MyDatabaseId); });
	if (slot == nullptr || (counted != nullptr && counted->configuration == conditions.configuration))
		return;
	const bool known =
		counted != nullptr && counted->configuration != 0 && admission_is_ready(slot, counted->configuration);
	conditions.flow.make_ready(slot, conditions.configuration, known ? &counted->flow : nullptr);
	if (counted == nullptr)
		counted = new Conditions;
	*counted = conditions;
}

static TimestampTz lease_end(const Arguments &arguments, int n) {
	arguments.require(n, "lease");
	const int64 lease = *arguments.optional_duration(n, "lease");
	if (lease == 0)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "lease must be longer than nothing");
	if (lease > longest_lease_us)
		throw Error(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE, "lease is out of range",
					"It is 366 days at most: call jobqueue.extend_lease() for a task that takes longer.");
	return GetCurrentTimestamp() + lease;
}

namespace {

/* What to claim: five arguments from "first" on. */
struct ClaimRequest {
	std::optional<std::string> queue;
	int count;
	TimestampTz lease;
	std::optional<std::vector<std::string>> types;
	std::string claimant;

	ClaimRequest(const Arguments &arguments, int first)
		: queue(arguments.optional_queue(first)), count(arguments.int32_at(first + 1, "max_tasks")) {
		if (count < 1 || count > most_tasks)
			throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
						"max_tasks must be between 1 and " + std::to_string(most_tasks));
		lease = lease_end(arguments, first + 2);
		if (!arguments.is_null(first + 3))
			types = read_types(arguments, first + 3);
		const std::optional<std::string> given = arguments.optional_text(first + 4, "claimed_by", bounds::claimed_by);
		claimant = given ? *given : default_claimant();
	}
};

} // namespace

/* Where the caller is a consumer; what it names must be among it. */
static Queues consumers_queues(FunctionCallInfo fcinfo, const std::optional<std::string> &queue = {}) {
	Queues allowed = callers_queues(fcinfo, {Access::consumer});
	if (queue)
		require(allowed, queue);
	return allowed;
}

/* Needs a Session. */
static void claim_into(ResultSet &result, ClaimRequest request, Queues allowed) {
	static Claimer *claimer = nullptr; /* for the life of the backend: it knows the lanes */
	if (claimer == nullptr)
		claimer = new Claimer(false);

	stand_in_for_scheduler();
	const auto &known = kept_configuration<ClaimConfiguration>([] {
		DatabaseSlot *slot = guard([] { return find_database(MyDatabaseId); });
		const uint64 configuration = slot ? pg_atomic_read_u64(&slot->configuration) : 0;
		return ClaimConfiguration{Conditions::read(configuration), store::handled_types()};
	});
	bool unhandled = false;
	const std::vector<std::string> &dead_letter_queues = known.conditions.pauses.dead_letter_queues;
	const auto is_for_dead_letters = [&dead_letter_queues](const std::string &queue) {
		return std::find(dead_letter_queues.begin(), dead_letter_queues.end(), queue) != dead_letter_queues.end();
	};
	Scope scope;
	std::map<std::string, std::vector<std::string>> kept; /* by queue: types whose handlers have a say there only */
	if (request.types) {
		scope = scope_of_types(std::move(*request.types));
	} else if (request.queue && is_for_dead_letters(*request.queue)) {
		scope = scope_of_unhandled({}); /* no handler serves it */
	} else {
		std::vector<std::string> handled;
		for (const store::HandledType &one : known.handled_types)
			if (one.is_served && (!one.governed || (request.queue && one.queue == *request.queue)))
				handled.push_back(one.type);
			else if (one.is_served && !request.queue)
				kept[one.queue].push_back(one.type);
		scope = scope_of_unhandled(std::move(handled));
		unhandled = true;
	}
	if (request.queue) { /* dead letters are for those who ask for their queue */
		scope.filter.dead_letters = true;
		scope.key = hash_name("dead letters", scope.key);
	}
	limit_scope(scope, std::move(allowed));
	for (const auto &[queue, types] : kept)
		leave_to_handlers(scope, queue, types);
	separate_limited(scope, known.conditions.flow, request.queue);
	count_for_limits(known.conditions);
	claimer->absorb(scope);
	int missing = request.count;
	/* False if some of what it found was somebody else's by then. */
	const auto take = [&](bool by_place) {
		const Locked found = claimer->lock(scope, known.conditions, request.queue, missing, by_place);
		if (found.empty())
			return true;
		size_t lost = 0;
		for (HeapTuple row : store::claim(found.tasks, unhandled, request.lease, request.claimant)) {
			if (row == nullptr) {
				lost++;
				continue;
			}
			result.add_row(row);
			missing--;
		}
		for (const store::Candidate &task : found.tasks)
			if (task.admitted_as != 0)
				guard([&task] { note_begun(task.admitted_as, task.id); });
		return lost == 0;
	};
	/* To lock tasks costs as much as to find them: who is alone does without. */
	constexpr int patience = 100;
	static int met_others = 0; /* so many claims are still to be made with locks */
	met_others = std::max(met_others - 1, 0);
	if (!unhandled || met_others > 0 || !store::may_begin_by_place()) {
		take(false);
	} else if (!take(true)) {
		met_others = patience;
		take(false);
	}
	if (missing < request.count)
		guard([&request] { note_due(request.lease); });
}

namespace {

/* A claim, as claim() returned it. */
struct ClaimName {
	int64 id;
	int32 attempt;
	explicit ClaimName(const Arguments &arguments)
		: id(arguments.int64_at(0, "id")), attempt(arguments.int32_at(1, "attempt")) {}
};

/* A visit to a claim that the caller says is its own. */
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

/* Claims that are done: the first three arguments. */
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
	/* Needs a Session. Returns the ids of those that were still good. */
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
	if (VARATT_IS_EXTERNAL(type) || VARATT_IS_COMPRESSED(type)) /* asked for every candidate: rarely a guard */
		type = guard([given] { return DatumGetTextPP(given); });
	return BoolGetDatum(
		store::is_wanted({VARDATA_ANY(type), static_cast<size_t>(VARSIZE_ANY_EXHDR(type))}, PG_GETARG_BOOL(1)));
}

JOBQUEUE_FUNCTION(jobqueue_raw_size) {
	return Int64GetDatum(jobqueue::raw_size(PG_GETARG_DATUM(0)));
}

JOBQUEUE_FUNCTION(jobqueue_claim) {
	using namespace jobqueue;
	const ClaimRequest request(Arguments(fcinfo), 0);
	Queues allowed = consumers_queues(fcinfo, request.queue);
	ResultSet result(fcinfo, ResultSet::Of::tasks);
	const Session session(function_owner(fcinfo));
	claim_into(result, request, std::move(allowed));
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
	const ClaimRequest request(arguments, 3);
	Queues allowed = consumers_queues(fcinfo, request.queue);
	ResultSet result(fcinfo, ResultSet::Of::tasks);
	const Session session(function_owner(fcinfo));
	/* First: a lease that has ended, but that nobody has taken back, is still good. */
	completions.end(allowed);
	claim_into(result, request, std::move(allowed));
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
