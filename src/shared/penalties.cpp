/*
 * penalties.cpp -- see penalties.hpp. C region.
 */
#include "shared/penalties.hpp"

#include "shared/state.hpp"

namespace jobqueue {

namespace {

constexpr int most_alone = 256;
constexpr int most_troubled = 256;
/* If so many types of a role run alone, and another one must, then all tasks of the role run alone. */
constexpr int most_types_of_role = 4;
constexpr int64 first_delay_us = 100000;
/* So many tasks in a row may end their process before the next worker of their role is delayed. */
constexpr int free_crashes = 3;

struct Alone {
	Oid database;
	Oid role;
	uint64 type; /* 0: all */
	SteadyTime until;
};

struct Trouble {
	Oid database; /* 0 = free */
	Oid role;
	int errors, crashes; /* in a row */
	int sqlerrcode;
	SteadyTime at;
	SteadyTime not_before;
};

struct Penalties {
	pg_atomic_uint64 alone_until; /* no task must run alone after that */
	pg_atomic_uint32 troubled;	  /* number of roles in the array, at most */
	SteadyTime all_alone_until;
	Alone alone[most_alone];
	Trouble trouble[most_troubled];
};

} // namespace

static Penalties *penalties = nullptr;

Size penalties_size() {
	return sizeof(Penalties);
}

void startup_penalties() {
	bool found;
	auto *fresh = static_cast<Penalties *>(ShmemInitStruct("jobqueue penalties", sizeof(Penalties), &found));
	if (!found) {
		memset(static_cast<void *>(fresh), 0, sizeof(Penalties));
		pg_atomic_init_u64(&fresh->alone_until, 0);
		pg_atomic_init_u32(&fresh->troubled, 0);
	}
	penalties = fresh;
}

uint64 penalty_type(std::string_view type) noexcept {
	uint64 hash = 14695981039346656037ULL;
	for (const char c : type)
		hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
	return hash ? hash : 1;
}

bool somebody_runs_alone() noexcept {
	const uint64 until = penalties ? pg_atomic_read_u64(&penalties->alone_until) : 0;
	return until != 0 && static_cast<uint64>(steady_now()) < until;
}

void make_run_alone(Oid database, Oid role, uint64 type) {
	if (penalties == nullptr)
		return;
	const SteadyTime now = steady_now(), until = now + alone_after_crash_us;
	LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
	Alone *place = nullptr;
	int of_role = 0;
	for (Alone &alone : penalties->alone) {
		const bool same_role = alone.until > now && alone.database == database && alone.role == role;
		of_role += same_role;
		if (same_role && (alone.type == 0 || alone.type == type)) {
			place = &alone;
			type = alone.type;
			break;
		}
		if (place == nullptr || alone.until < place->until)
			place = &alone;
	}
	if (of_role >= most_types_of_role && type != 0 && place->type != type) {
		for (Alone &alone : penalties->alone)
			if (alone.database == database && alone.role == role)
				alone.until = 0;
		type = 0;
	}
	*place = {database, role, type, until};
	atomic_max(&penalties->alone_until, static_cast<uint64>(until));
	LWLockRelease(shared()->lock);
}

void make_all_run_alone() {
	if (penalties == nullptr)
		return;
	const SteadyTime until = steady_now() + alone_after_crash_us;
	penalties->all_alone_until = until;
	atomic_max(&penalties->alone_until, static_cast<uint64>(until));
}

bool must_run_alone(Oid database, Oid role, uint64 type) {
	if (!somebody_runs_alone())
		return false;
	const SteadyTime now = steady_now();
	LWLockAcquire(shared()->lock, LW_SHARED);
	const bool must = penalties->all_alone_until > now ||
					  std::any_of(std::begin(penalties->alone), std::end(penalties->alone), [=](const Alone &alone) {
						  return alone.until > now && alone.database == database && alone.role == role &&
								 (alone.type == 0 || alone.type == type);
					  });
	LWLockRelease(shared()->lock);
	return must;
}

/* The caller holds the lock. */
static Trouble *find_trouble(Oid database, Oid role) noexcept {
	for (Trouble &trouble : penalties->trouble)
		if (trouble.database == database && trouble.role == role)
			return &trouble;
	return nullptr;
}

/* Likewise; makes an entry if there is none, in place of the oldest. */
static Trouble *enter_trouble(Oid database, Oid role) noexcept {
	if (Trouble *known = find_trouble(database, role))
		return known;
	Trouble *place = &penalties->trouble[0];
	for (Trouble &trouble : penalties->trouble)
		if (trouble.at < place->at)
			place = &trouble;
	if (place->database == InvalidOid)
		pg_atomic_fetch_add_u32(&penalties->troubled, 1);
	*place = {};
	place->database = database;
	place->role = role;
	return place;
}

static void leave_trouble(Trouble *trouble) noexcept {
	*trouble = {};
	pg_atomic_fetch_sub_u32(&penalties->troubled, 1);
}

static int64 delay_after(int failures) noexcept {
	return failures <= 0 ? 0 : std::min(first_delay_us << std::min(failures - 1, 20), longest_penalty_us);
}

static bool is_in_trouble() noexcept {
	return penalties != nullptr && pg_atomic_read_u32(&penalties->troubled) != 0;
}

OwnError note_own_error(Oid database, Oid role, int sqlerrcode) {
	if (penalties == nullptr)
		return {true, 0};
	LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
	Trouble *trouble = enter_trouble(database, role);
	const bool is_new = trouble->errors == 0 || trouble->sqlerrcode != sqlerrcode;
	trouble->sqlerrcode = sqlerrcode;
	const int64 delay_us = delay_after(trouble->errors + 1);
	LWLockRelease(shared()->lock);
	return {is_new, delay_us};
}

void note_worker_end(Oid database, Oid role, WorkerEnd end, bool survived) {
	if (penalties == nullptr || (end == WorkerEnd::in_order && !is_in_trouble()))
		return;
	const SteadyTime now = steady_now();
	LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
	if (end == WorkerEnd::in_order || (end == WorkerEnd::in_task && survived)) {
		Trouble *trouble = find_trouble(database, role);
		if (trouble != nullptr) {
			trouble->crashes = 0;
			if (trouble->errors == 0)
				leave_trouble(trouble);
		}
	} else {
		Trouble *trouble = enter_trouble(database, role);
		if (end == WorkerEnd::own_error)
			trouble->errors++;
		else
			trouble->crashes++;
		trouble->at = now;
		trouble->not_before = now + (end == WorkerEnd::own_error ? delay_after(trouble->errors)
																 : delay_after(trouble->crashes - free_crashes));
	}
	LWLockRelease(shared()->lock);
}

SteadyTime next_worker_at(Oid database, Oid role) {
	if (!is_in_trouble())
		return at_once;
	LWLockAcquire(shared()->lock, LW_SHARED);
	const Trouble *trouble = find_trouble(database, role);
	const SteadyTime until = trouble ? trouble->not_before : at_once;
	LWLockRelease(shared()->lock);
	return until;
}

int own_errors(Oid database, Oid role) {
	if (!is_in_trouble())
		return 0;
	LWLockAcquire(shared()->lock, LW_SHARED);
	const Trouble *trouble = find_trouble(database, role);
	const int errors = trouble ? trouble->errors : 0;
	LWLockRelease(shared()->lock);
	return errors;
}

bool forget_own_errors(Oid database, Oid role) {
	if (!is_in_trouble())
		return false;
	LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
	Trouble *trouble = find_trouble(database, role);
	const bool any = trouble != nullptr && trouble->errors > 0;
	if (any)
		leave_trouble(trouble);
	LWLockRelease(shared()->lock);
	return any;
}

} // namespace jobqueue
