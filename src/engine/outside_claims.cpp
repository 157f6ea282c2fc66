/*
 * outside_claims.cpp -- see outside_claims.hpp. C++ region; the lambdas given to guard are C.
 */
#include "engine/outside_claims.hpp"

#include "engine/claimer.hpp"
#include "engine/dependency_resolution.hpp"
#include "engine/kept_configuration.hpp"
#include "engine/outcome.hpp"
#include "engine/set_aside.hpp"
#include "engine/store/attempts.hpp"
#include "engine/store/batch.hpp"
#include "engine/store/candidates.hpp"
#include "engine/store/claims.hpp"
#include "engine/store/due_tasks.hpp"
#include "engine/store/handlers.hpp"
#include "engine/store/held_claims.hpp"
#include "shared/admission.hpp"
#include "shared/databases.hpp"
#include "shared/transaction_notes.hpp"

namespace jobqueue {

namespace {

/* What a claim must know of handlers and queues. */
struct ClaimConfiguration {
	Conditions conditions;
	std::vector<store::HandledType> handled_types;
};

} // namespace

/* A chore that claims do where there is no scheduler, some rows at a time. Lives as long as the backend. */
struct StandIn {
	SetAside aside;
	store::Cursor cursor = {};
};

static constexpr int stand_in_batch = 1000;

template <typename Look, typename Take> static void stand_in(StandIn &chore, Look &&look, Take &&take) {
	step_of_pass(chore.aside, chore.cursor, look, take, [&chore](auto &&run, auto &&list) {
		return step_in_subtransaction(chore.aside, stand_in_batch, run, list);
	});
}

/* Makes scheduled tasks due and ends leases, if there is no scheduler: nobody else does. */
static void stand_in_for_scheduler() {
	DatabaseSlot *slot = guard([] { return find_database(MyDatabaseId); });
	if (is_served(slot))
		return;
	static StandIn *due = nullptr, *expired = nullptr;
	if (expired == nullptr) {
		due = new StandIn{SetAside("make due")};
		expired = new StandIn{SetAside("take back the lease of")};
	}
	const TimestampTz now = GetCurrentTimestamp();
	stand_in(
		*due, [now](const store::Cursor &cursor, const store::Batch &rows) { return store::due(cursor, now, rows); },
		[now](std::span<const int64> ids) { return make_due(ids, now); });
	stand_in(
		*expired,
		[now](const store::Cursor &cursor, const store::Batch &rows) { return store::expired(cursor, now, rows); },
		[now](std::span<const int64> ids) { return end_expired(ids, now); });
	resolve_in_turn();
}

/*
 * A claim cannot wait until the scheduler has counted what is running under new limits: a claim that comes before
 * counts the tasks itself.
 */
static void count_for_limits(const Conditions &conditions) {
	static Conditions *counted = nullptr; /* the conditions of the latest count, as far as this session knows */
	DatabaseSlot *slot = guard([] { return find_database(MyDatabaseId); });
	if (slot == nullptr || (counted != nullptr && counted->configuration == conditions.configuration))
		return;
	const bool known =
		counted != nullptr && counted->configuration != 0 && admission_is_ready(slot, counted->configuration);
	conditions.throttling.make_ready(slot, conditions.configuration, known ? &counted->throttling : nullptr);
	if (counted == nullptr)
		counted = new Conditions;
	*counted = conditions;
}

std::vector<HeapTuple> claim_for_outside(const ClaimRequest &request, Queues allowed) {
	static Claimer *claimer = nullptr; /* for the life of the backend: it knows the lanes */
	if (claimer == nullptr)
		claimer = new Claimer(false);

	stand_in_for_scheduler();
	const auto &known = kept_configuration<ClaimConfiguration>([] {
		DatabaseSlot *slot = guard([] { return find_database(MyDatabaseId); });
		const uint64 configuration = slot ? pg_atomic_read_u64(&slot->configuration) : 0;
		return ClaimConfiguration{Conditions::read(configuration), store::handled_types()};
	});
	const bool unhandled = !request.types && !(request.queue && known.conditions.is_for_dead_letters(*request.queue));
	const Scope scope =
		scope_of_claim(request.types, request.queue, std::move(allowed), known.conditions, known.handled_types);
	count_for_limits(known.conditions);
	claimer->absorb(scope);
	std::vector<HeapTuple> rows;
	rows.reserve(static_cast<size_t>(std::min(request.count, 1000)));
	/* False if some of the tasks that it found belonged to others by then. */
	const auto take = [&](bool by_tid) {
		const int missing = request.count - static_cast<int>(rows.size());
		const Locked found = claimer->lock(scope, known.conditions, request.queue, missing, by_tid);
		if (found.empty())
			return true;
		size_t lost = 0;
		for (HeapTuple row : store::claim(found.tasks, unhandled, request.lease, request.claimant)) {
			if (row != nullptr)
				rows.push_back(row);
			else
				lost++;
		}
		for (const store::Candidate &task : found.tasks)
			if (task.admitted_as != 0)
				guard([&task] { note_begun(task.admitted_as, task.id); });
		return lost == 0;
	};
	/* Locking tasks costs as much as finding them, so a session that meets no others claims without locks. */
	constexpr int patience = 100;
	static int met_others = 0; /* how many claims are still to be made with locks */
	met_others = std::max(met_others - 1, 0);
	if (!unhandled || met_others > 0 || !store::may_begin_by_tid()) {
		take(false);
	} else if (!take(true)) {
		met_others = patience;
		take(false);
	}
	if (!rows.empty())
		guard([&request] { note_due(request.lease); });
	return rows;
}

} // namespace jobqueue
