/*
 * jobqueue.cpp -- what happens when the server loads the library. C region.
 */
#include "api/plain_statements.hpp"
#include "pg/compat.hpp"
#include "pg/settings.hpp"
#include "pg/start_pause.hpp"
#include "server/processes.hpp"
#include "server/row_security.hpp"
#include "shared/shared_memory.hpp"

extern "C" {
JOBQUEUE_MODULE("jobqueue");
PGDLLEXPORT void _PG_init(void);

void _PG_init(void) {
	jobqueue::settings::define();
	jobqueue::install_row_security();
	if (!process_shared_preload_libraries_in_progress)
		return;
	jobqueue::look_for_start_pause();
	jobqueue::install_shared_memory_hooks();
	jobqueue::install_utility_hook();
	jobqueue::watch_inserts();
	/* pg_upgrade starts the server for itself alone. */
	if (!IsBinaryUpgrade)
		jobqueue::register_launcher();
}
}
