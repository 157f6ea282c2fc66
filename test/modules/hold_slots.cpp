// Helper of the tests: background workers that do nothing but hold a worker slot (max_worker_processes).
//
//	CREATE FUNCTION hold_slots(integer) RETURNS integer LANGUAGE c AS 'hold_slots';
//	SELECT hold_slots(3);  -- how many could be had
//	SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'slot holder';
//
// A C region: it may ereport, and owns nothing.

#include "pg/compat.hpp"

extern "C" {
#include <postmaster/bgworker.h>
#include <storage/latch.h>
#include <tcop/tcopprot.h>
#include <utils/wait_event.h>

JOBQUEUE_MODULE("hold_slots");
PG_FUNCTION_INFO_V1(hold_slots);

PGDLLEXPORT void hold_slots_main(Datum argument);

void hold_slots_main(Datum) {
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	// no database, but a line in pg_stat_activity
	BackgroundWorkerInitializeConnection(nullptr, nullptr, 0);
	for (;;) {
		WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

PGDLLEXPORT Datum hold_slots(PG_FUNCTION_ARGS) {
	int32 taken = 0;
	for (; taken < PG_GETARG_INT32(0); ++taken) {
		BackgroundWorker worker = {};
		worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
		worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
		worker.bgw_restart_time = BGW_NEVER_RESTART;
		worker.bgw_notify_pid = MyProcPid;
		strlcpy(worker.bgw_library_name, "hold_slots", sizeof worker.bgw_library_name);
		strlcpy(worker.bgw_function_name, "hold_slots_main", sizeof worker.bgw_function_name);
		strlcpy(worker.bgw_name, "slot holder", sizeof worker.bgw_name);
		strlcpy(worker.bgw_type, "slot holder", sizeof worker.bgw_type);
		BackgroundWorkerHandle *handle = nullptr;
		if (!RegisterDynamicBackgroundWorker(&worker, &handle)) {
			break;
		}
		pid_t pid = 0;
		if (WaitForBackgroundWorkerStartup(handle, &pid) != BGWH_STARTED) {
			ereport(ERROR, errmsg("a slot holder did not start"));
		}
	}
	PG_RETURN_INT32(taken);
}
}
