/*
 * settings.hpp -- the jobqueue.* settings. Defined by _PG_init, read everywhere.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

enum class NotifyMode : int { coalesced, immediate, off };
enum class QueueOrder : int { weighted, strict };

namespace settings {

extern int max_workers;
extern int max_databases;
extern int poll_interval_ms;
extern int worker_idle_timeout_s;
extern int notify_mode; /* NotifyMode */
extern int completed_retention_s;
extern int failed_retention_s; /* -1 = for ever */
extern bool allow_superuser_handlers;
extern int max_crashes;
extern int timeout_grace_ms;
extern bool kill_stuck;
extern bool worker_synchronous_commit;
extern int fused_time_ms; /* 0 = nothing is fused */
extern int fused_tasks;
extern int fused_after;
extern int queue_order; /* QueueOrder */
extern bool start_paused;

/* C region; called once, when the library is loaded. */
void define();

} // namespace settings
} // namespace jobqueue
