/*
 * shared_memory.cpp -- see shared_memory.hpp. C region.
 */
#include "shared/shared_memory.hpp"

#include "shared/counting.hpp"
#include "shared/flight_recorder.hpp"
#include "shared/penalties.hpp"
#include "shared/positions.hpp"
#include "shared/ring.hpp"
#include "shared/state.hpp"

namespace jobqueue {

static shmem_request_hook_type previous_request_hook = nullptr;
static shmem_startup_hook_type previous_startup_hook = nullptr;

static void request_shared_memory() {
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(add_size(shared_state_size(), ring_bytes()));
	RequestAddinShmemSpace(add_size(positions_size(), counting_size()));
	RequestAddinShmemSpace(penalties_size());
	RequestNamedLWLockTranche(lwlock_tranche, lwlock_count);
}

static void startup_shared_memory() {
	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	startup_penalties();
	PreparedState prepared;
	if (prepare_shared_state(&prepared)) {
		static bool before_crash = false;
		open_flight_recorder();
		/* Shared memory is made again after a crash, and without the recorder nobody knows what was running. */
		if (std::exchange(before_crash, true) && !flight_recorder_works())
			make_all_run_alone();
	}
	set_name_key(prepared.state->name_key);
	startup_ring();
	startup_positions();
	startup_counting();
	LWLockRelease(AddinShmemInitLock);
	use_shared_state(prepared);
}

void install_shared_memory_hooks() {
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request_shared_memory;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shared_memory;
}

} // namespace jobqueue
