/*
 * start_pause.cpp -- see start_pause.hpp. C region.
 */
#include "pg/start_pause.hpp"

#include "pg/settings.hpp"

#include <unistd.h>

namespace jobqueue {

/* Inherited from the postmaster, which keeps it when it starts its processes again after a crash. */
static constinit const char *paused_by = nullptr;

void look_for_start_pause() {
	const char *const file = psprintf("%s/%s", DataDir, pause_file);
	if (settings::start_paused)
		paused_by = "jobqueue.start_paused is on";
	else if (access(file, F_OK) == 0)
		paused_by = "there is a file jobqueue.paused in its data directory";
}

const char *start_paused_by() noexcept {
	return paused_by;
}

} // namespace jobqueue
