/*
 * deaths.cpp -- see deaths.hpp. C region.
 */
#include "shared/deaths.hpp"

namespace jobqueue {

/*
 * The next slot; if that is taken, one of the database that has most of them. So no database can push out everything
 * that is known of another.
 */
static Death *slot_for_death() noexcept {
	const uint32 next = shared()->death_count++ % max_deaths;
	if (!OidIsValid(shared()->deaths[next].database))
		return &shared()->deaths[next];
	const auto count_of = [](Oid database) {
		return std::ranges::count_if(shared()->deaths,
									 [database](const Death &other) { return other.database == database; });
	};
	Death *chosen = &shared()->deaths[next];
	auto most = count_of(chosen->database);
	for (uint32 i = 1; i < max_deaths; i++) {
		Death *const other = &shared()->deaths[(next + i) % max_deaths];
		if (other->database == chosen->database)
			continue;
		if (const auto count = count_of(other->database); count > most) {
			chosen = other;
			most = count;
		}
	}
	return chosen;
}

void record_death(const Death &death) {
	LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
	/* A death that could not be dealt with is recorded again, in its old place. */
	const auto known =
		std::find_if(std::begin(shared()->deaths), std::end(shared()->deaths), [&death](const Death &other) {
			return other.database == death.database && other.task == death.task && other.attempt == death.attempt;
		});
	(known != std::end(shared()->deaths) ? *known : *slot_for_death()) = death;
	LWLockRelease(shared()->lock);
}

Death death_of(Oid database, int64 task, int32 attempt) {
	Death found = {database, task, attempt, false, DeathCause::unknown, InvalidOid};
	LWLockAcquire(shared()->lock, LW_SHARED);
	for (const Death &death : shared()->deaths)
		if (death.database == database && death.task == task && death.attempt == attempt)
			found = death;
	LWLockRelease(shared()->lock);
	return found;
}

bool take_fused_death(Oid database, Death *out) {
	bool found = false;
	LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
	for (Death &death : shared()->deaths) {
		if (!death.fused || death.database != database)
			continue;
		*out = death;
		death.fused = false;
		found = true;
		break;
	}
	LWLockRelease(shared()->lock);
	return found;
}

bool has_fused_death(Oid database, Oid role) {
	LWLockAcquire(shared()->lock, LW_SHARED);
	const bool found = std::ranges::any_of(shared()->deaths, [database, role](const Death &death) {
		return death.fused && death.database == database && death.role == role;
	});
	LWLockRelease(shared()->lock);
	return found;
}

} // namespace jobqueue
