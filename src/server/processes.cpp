/*
 * processes.cpp -- see processes.hpp. C region but for the functions that return C++ values.
 */
#include "server/processes.hpp"

#include "engine/access.hpp"
#include "pg/compat.hpp"
#include "shared/flight_recorder.hpp"

namespace jobqueue {

static void describe(BackgroundWorker *process, const char *type, const char *entry) {
	memset(process, 0, sizeof(*process));
	process->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	process->bgw_start_time = BgWorkerStart_RecoveryFinished;
	process->bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(process->bgw_library_name, "jobqueue", sizeof(process->bgw_library_name));
	strlcpy(process->bgw_function_name, entry, sizeof(process->bgw_function_name));
	strlcpy(process->bgw_type, type, sizeof(process->bgw_type));
	strlcpy(process->bgw_name, type, sizeof(process->bgw_name));
}

void register_launcher() {
	BackgroundWorker process;
	describe(&process, "jobqueue launcher", "jobqueue_launcher_main");
	process.bgw_restart_time = 1;
	RegisterBackgroundWorker(&process);
}

BackgroundWorkerHandle *start_scheduler(DatabaseSlot *slot) {
	BackgroundWorker process;
	describe(&process, "jobqueue scheduler", "jobqueue_scheduler_main");
	const Oid database = pg_atomic_read_u32(&slot->database);
	snprintf(process.bgw_name, sizeof(process.bgw_name), "jobqueue scheduler for database %u", database);
	process.bgw_main_arg = Int32GetDatum(index_of(slot));
	memcpy(process.bgw_extra, &database, sizeof(database));
	process.bgw_notify_pid = MyProcPid;
	BackgroundWorkerHandle *handle;
	return RegisterDynamicBackgroundWorker(&process, &handle) ? handle : nullptr;
}

BackgroundWorkerHandle *start_worker(WorkerSlot *slot) {
	BackgroundWorker process;
	describe(&process, "jobqueue worker", "jobqueue_worker_main");
	snprintf(process.bgw_name, sizeof(process.bgw_name), "jobqueue worker for role %u in database %u",
			 pg_atomic_read_u32(&slot->role), pg_atomic_read_u32(&slot->database));
	process.bgw_main_arg = Int32GetDatum(static_cast<int32>(slot - shared()->workers));
	const uint64 token = pg_atomic_read_u64(&slot->token);
	memcpy(process.bgw_extra, &token, sizeof(token));
	process.bgw_notify_pid = MyProcPid;
	BackgroundWorkerHandle *handle;
	return RegisterDynamicBackgroundWorker(&process, &handle) ? handle : nullptr;
}

void on_lock_timeout(int signal) {
	if (get_timeout_indicator(LOCK_TIMEOUT, false))
		StatementCancelHandler(signal);
}

static constinit int recorded_worker = -1;

/* The postmaster says that a process has crashed, or that the server stops immediately. */
static void on_quit(int signal) {
	record_innocence(recorded_worker);
	SignalHandlerForCrashExit(signal);
}

static constinit emit_log_hook_type previous_log_hook = nullptr;

/*
 * Errors for which no task is to blame: the disk is full or broken, or the files on it are damaged. And any error while
 * the server cannot write its log.
 */
static bool is_failure_of_system(const ErrorData *error) {
	const int category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
	const char *const file = error->filename ? error->filename : "";
	return category == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) ||
		   category == ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR) || error->sqlerrcode == ERRCODE_DATA_CORRUPTED ||
		   error->sqlerrcode == ERRCODE_INDEX_CORRUPTED || strncmp(file, "xlog", 4) == 0;
}

static void on_log(ErrorData *error) {
	if (error->elevel == PANIC && is_failure_of_system(error))
		record_mishap(recorded_worker);
	if (previous_log_hook)
		previous_log_hook(error);
}

void prepare_process(pqsigfunc on_interrupt, int worker) {
	recorded_worker = worker;
	if (worker >= 0) {
		previous_log_hook = emit_log_hook;
		emit_log_hook = on_log;
	}
	pqsignal(SIGQUIT, on_quit);
	pqsignal(SIGTERM, die);
	pqsignal(SIGINT, on_interrupt);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
}

bool wait_for_news(int64 milliseconds) {
	compat::sleep_on_latch(milliseconds);
	return reload_settings();
}

bool reload_settings() {
	if (!ConfigReloadPending)
		return false;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	return true;
}

static std::string postmaster_prefix() {
	char text[64];
	snprintf(text, sizeof(text), "worker %llx.", static_cast<unsigned long long>(PgStartTime));
	return text;
}

static std::string token_prefix() {
	char text[64];
	snprintf(text, sizeof(text), "%llx.", static_cast<unsigned long long>(shared()->server_start));
	return postmaster_prefix() + text;
}

std::string worker_token(uint64 token) {
	return token_prefix() + std::to_string(token);
}

TokenAge token_age(std::string_view token) {
	if (token.starts_with(token_prefix()))
		return TokenAge::current;
	return token.starts_with(postmaster_prefix()) ? TokenAge::before_crash : TokenAge::earlier;
}

static constinit uint64 role_changes = 1;

uint64 roles_generation() {
	return role_changes;
}

static void role_changed(Datum, int, uint32) {
	role_changes++;
}

/* Of the objects on which rights are granted by hand: our schema, and what makes a role a worker of all queues. */
static constinit uint32 rights_hashes[3] = {};

static void rights_changed(Datum, int, uint32 hash) {
	if (hash == 0 || std::find(std::begin(rights_hashes), std::end(rights_hashes), hash) != std::end(rights_hashes))
		role_changes++;
}

void watch_roles() {
	CacheRegisterSyscacheCallback(AUTHOID, role_changed, 0);
	CacheRegisterSyscacheCallback(DATABASEOID, role_changed, 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, role_changed, 0);
	CacheRegisterSyscacheCallback(PROCOID, rights_changed, 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, rights_changed, 0);
}

void watch_rights() {
	rights_hashes[0] = GetSysCacheHashValue1(NAMESPACEOID, ObjectIdGetDatum(get_namespace_oid("jobqueue", false)));
	rights_hashes[1] = GetSysCacheHashValue1(PROCOID, ObjectIdGetDatum(own_function("register_handler")));
	rights_hashes[2] = GetSysCacheHashValue1(PROCOID, ObjectIdGetDatum(own_function("claim")));
}

void report_running(const char *what) {
	pgstat_report_activity(STATE_RUNNING, what);
	set_ps_display(what);
}

void report_idle() {
	pgstat_report_activity(STATE_IDLE, nullptr);
	set_ps_display("idle");
}

} // namespace jobqueue
