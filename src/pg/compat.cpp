/*
 * compat.cpp -- see compat.hpp. C region.
 */
#include "pg/compat.hpp"

extern "C" {
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_namespace.h"
#include "pgtime.h"
#include "executor/executor.h"
#include "replication/syncrep.h"
#if PG_VERSION_NUM >= 160000
#include "utils/guc_hooks.h"
#endif
}

#include <sys/stat.h>
#include <unistd.h>

/* The function exists in every version; its header (timezone/pgtz.h) is not installed. */
extern "C" int pg_open_tzfile(const char *name, char *canonname);

namespace jobqueue::compat {

int my_procno() noexcept {
#if PG_VERSION_NUM >= 170000
	return MyProcNumber;
#else
	return MyProc->pgprocno;
#endif
}

Oid role_of(int procno) noexcept {
	return GetPGProcByNumber(procno)->roleId;
}

Latch *latch_of(int procno) noexcept {
	return &GetPGProcByNumber(procno)->procLatch;
}

static uint32 wait_event() {
#if PG_VERSION_NUM >= 170000
	static uint32 event = 0;
	if (event == 0)
		event = WaitEventExtensionNew("JobqueueMain");
	return event;
#else
	return PG_WAIT_EXTENSION;
#endif
}

void sleep_on_latch(int64 milliseconds) {
	constexpr int64 longest = 3600 * 1000;
	const int events = WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
								 static_cast<long>(std::clamp<int64>(milliseconds, 0, longest)), wait_event());
	if (events & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

bool may_execute(Oid function, Oid role) {
	const Oid schema = get_func_namespace(function);
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE) == ACLCHECK_OK && OidIsValid(schema) &&
		   object_aclcheck(NamespaceRelationId, schema, role, ACL_USAGE) == ACLCHECK_OK;
#else
	return pg_proc_aclcheck(function, role, ACL_EXECUTE) == ACLCHECK_OK && OidIsValid(schema) &&
		   pg_namespace_aclcheck(schema, role, ACL_USAGE) == ACLCHECK_OK;
#endif
}

int background_workers() {
	int count = 0;
	pgstat_clear_backend_activity_snapshot();
	for (int i = 1; i <= pgstat_fetch_stat_numbackends(); i++) {
#if PG_VERSION_NUM >= 160000
		const LocalPgBackendStatus *backend = pgstat_get_local_beentry_by_index(i);
#else
		const LocalPgBackendStatus *backend = pgstat_fetch_stat_local_beentry(i);
#endif
		count += backend != nullptr && backend->backendStatus.st_backendType == B_BG_WORKER;
	}
	pgstat_clear_backend_activity_snapshot();
	return count;
}

bool owns_database(Oid database, Oid role) {
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(DatabaseRelationId, database, role);
#else
	return pg_database_ownercheck(database, role);
#endif
}

bool owns_extension(Oid extension, Oid role) {
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(ExtensionRelationId, extension, role);
#else
	return pg_extension_ownercheck(extension, role);
#endif
}

bool may_connect(Oid database, Oid role) {
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(DatabaseRelationId, database, role, ACL_CONNECT) == ACLCHECK_OK;
#else
	return pg_database_aclcheck(database, role, ACL_CONNECT) == ACLCHECK_OK;
#endif
}

bool may_become(Oid member, Oid role) {
#if PG_VERSION_NUM >= 160000
	return member_can_set_role(member, role);
#else
	return is_member_of_role(member, role);
#endif
}

#if PG_VERSION_NUM < 170000

static void be_under_postmaster(int, Datum) {
	IsUnderPostmaster = true;
}

/*
 * Standalone backends skip the check for LOGIN, and nothing else in InitializeSessionUserId() looks at
 * IsUnderPostmaster. But a process that ends while it is false does not tell the postmaster that it has left everything
 * in order, and the postmaster takes that for a crash. So whatever could block or be missing is dealt with before:
 * nobody can drop the role, or lock its catalog, until our transaction ends. If something else fails (memory), the flag
 * is put back on the way out.
 */
static void authenticate_without_login(Oid role) {
	LockSharedObject(AuthIdRelationId, role, 0, AccessShareLock);
	table_close(table_open(AuthIdRelationId, AccessShareLock), NoLock);
	index_close(index_open(AuthIdOidIndexId, AccessShareLock), NoLock);
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(role)))
		ereport(FATAL, (errcode(ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION),
						errmsg("role with OID %u does not exist", role)));
	CHECK_FOR_INTERRUPTS();
	InterruptHoldoffCount =
		InterruptHoldoffCount + 1; /* HOLD_INTERRUPTS(), which C++20 deprecates for what is volatile */
	PG_ENSURE_ERROR_CLEANUP(be_under_postmaster, 0);
	{
		IsUnderPostmaster = false;
		InitializeSessionUserId(nullptr, role);
		IsUnderPostmaster = true;
	}
	PG_END_ENSURE_ERROR_CLEANUP(be_under_postmaster, 0);
	InterruptHoldoffCount = InterruptHoldoffCount - 1;
}

/*
 * 15 and 16 refuse to connect a background worker as a role without LOGIN, and connecting as superuser to step down
 * afterwards leaves a way back up. So: connect as superuser, put every setting back to what the postmaster gave us
 * (the superuser's own ALTER ROLE ... SET must not stay), and then make the role the authenticated one, as
 * InitPostgres would have done had the role been allowed to log in.
 */
static void connect_as_role_without_login(Oid database, Oid role) {
#ifdef USE_ASSERT_CHECKING
	ereport(FATAL,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("role with OID %u has no LOGIN and cannot run handlers on this server", role),
			 errdetail("A server before version 17 with assertions cannot connect a worker as a role without LOGIN.")));
#endif
	const Size size = EstimateGUCStateSpace();
	auto *settings = static_cast<char *>(MemoryContextAlloc(TopMemoryContext, size));
	SerializeGUCState(size, settings);

	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);

	StartTransactionCommand();
	RestoreGUCState(settings);
	authenticate_without_login(role);
	pgstat_bestart(); /* pg_stat_activity shows the role */

	if (!superuser() && !may_connect(database, role))
		ereport(FATAL, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied for database \"%s\"", get_database_name(database))));

	Relation relation = table_open(DbRoleSettingRelationId, AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetCatalogSnapshot(DbRoleSettingRelationId));
	ApplySetting(snapshot, database, role, relation, PGC_S_DATABASE_USER);
	ApplySetting(snapshot, InvalidOid, role, relation, PGC_S_USER);
	ApplySetting(snapshot, database, InvalidOid, relation, PGC_S_DATABASE);
	ApplySetting(snapshot, InvalidOid, InvalidOid, relation, PGC_S_GLOBAL);
	UnregisterSnapshot(snapshot);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
	pfree(settings);
}

#endif

void connect_as(Oid database, Oid role, [[maybe_unused]] bool can_login) {
#if PG_VERSION_NUM >= 170000
	BackgroundWorkerInitializeConnectionByOid(database, role, BGWORKER_BYPASS_ROLELOGINCHECK);
#else
	if (can_login)
		BackgroundWorkerInitializeConnectionByOid(database, role, 0);
	else
		connect_as_role_without_login(database, role);
#endif
}

void connect_as_superuser(Oid database) {
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
}

int pin_search_path() {
#if PG_VERSION_NUM >= 170000
	const int level = NewGUCNestLevel();
	RestrictSearchPath();
	return level;
#else
	OverrideSearchPath path = {};
	path.addCatalog = true;
	PushOverrideSearchPath(&path);
	return 0;
#endif
}

bool search_path_is_pinned() noexcept {
#if PG_VERSION_NUM >= 170000
	return strcmp(namespace_search_path, "pg_catalog, pg_temp") == 0; /* what RestrictSearchPath() sets */
#else
	return true; /* whatever the setting is, the override is in force */
#endif
}

void pin_search_path_again() {
#if PG_VERSION_NUM >= 170000
	RestrictSearchPath();
#else
	[[maybe_unused]] OverrideSearchPath path = {};
	path.addCatalog = true;
	Assert(OverrideSearchPathMatchesCurrent(&path));
#endif
}

void unpin_search_path([[maybe_unused]] int level) {
#if PG_VERSION_NUM >= 170000
	AtEOXact_GUC(true, level);
#else
	PopOverrideSearchPath();
#endif
}

void set_synchronous_commit(int value) noexcept {
	synchronous_commit = value;
	assign_synchronous_commit(value, nullptr); /* it tells what to wait for */
}

int transaction_timeout() noexcept {
#if PG_VERSION_NUM >= 170000
	return TransactionTimeout;
#else
	return 0;
#endif
}

void pin_transaction_timeout() {
#if PG_VERSION_NUM >= 170000
	SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
#endif
}

bool holds_lock_on(Oid table) {
	LOCKTAG tag;
	SET_LOCKTAG_RELATION(tag, MyDatabaseId, table);
#if PG_VERSION_NUM >= 170000
	return LockHeldByMe(&tag, AccessShareLock, true);
#else
	return LockHeldByMe(&tag, AccessShareLock) || LockHeldByMe(&tag, RowExclusiveLock) ||
		   LockHeldByMe(&tag, RowShareLock);
#endif
}

void visit_own_locks(void (*visit)(const LOCK *lock, void *arg), void *arg) {
	for (int i = 0; i < NUM_LOCK_PARTITIONS; i++) {
		/*
		 * Only this process adds locks of its own, and others that move such locks here from the fast path: they can
		 * wait.
		 */
#if PG_VERSION_NUM >= 160000
		dlist_head *list = &MyProc->myProcLocks[i];
		if (dlist_is_empty(list))
			continue;
		LWLockAcquire(LockHashPartitionLockByIndex(i), LW_SHARED);
		/* dlist_foreach() and dlist_container() are for C only */
		for (dlist_node *node = list->head.next; node != &list->head; node = node->next)
			visit(
				reinterpret_cast<PROCLOCK *>(reinterpret_cast<char *>(node) - offsetof(PROCLOCK, procLink))->tag.myLock,
				arg);
#else
		SHM_QUEUE *list = &MyProc->myProcLocks[i];
		if (SHMQueueEmpty(list))
			continue;
		LWLockAcquire(LockHashPartitionLockByIndex(i), LW_SHARED);
		for (Pointer held = SHMQueueNext(list, list, offsetof(PROCLOCK, procLink)); held != nullptr;
			 held = SHMQueueNext(list, &reinterpret_cast<PROCLOCK *>(held)->procLink, offsetof(PROCLOCK, procLink)))
			visit(reinterpret_cast<PROCLOCK *>(held)->tag.myLock, arg);
#endif
		LWLockRelease(LockHashPartitionLockByIndex(i));
	}
}

bool is_time_zone_name(const char *name) {
	if (pg_strcasecmp(name, "GMT") == 0)
		return true;				   /* the server knows it without a file */
	char canonical[TZ_STRLEN_MAX + 1]; /* with it, the server looks at nothing outside of the directory */
	const int file = pg_open_tzfile(name, canonical);
	if (file < 0)
		return false;
	struct stat status;
	const bool found = fstat(file, &status) == 0 && S_ISREG(status.st_mode);
	close(file);
	return found;
}

IndexScanDesc begin_index_scan(Relation table, Relation index, Snapshot snapshot, int keys) {
#if PG_VERSION_NUM >= 180000
	return index_beginscan(table, index, snapshot, nullptr, keys, 0);
#else
	return index_beginscan(table, index, snapshot, keys, 0);
#endif
}

TM_Result update_row(ResultRelInfo *target, EState *estate, ItemPointerData tid, TupleTableSlot *row, bool wait) {
	TM_FailureData failure;
	LockTupleMode mode;
#if PG_VERSION_NUM >= 160000
	TU_UpdateIndexes indexes = TU_None;
#else
	bool indexes = false;
#endif
	const TM_Result result = table_tuple_update(target->ri_RelationDesc, &tid, row, GetCurrentCommandId(true),
												SnapshotSelf, InvalidSnapshot, wait, &failure, &mode, &indexes);
	if (result != TM_Ok)
		return result;
#if PG_VERSION_NUM >= 160000
	if (indexes != TU_None)
		list_free(ExecInsertIndexTuples(target, row, estate, false, false, nullptr, NIL, indexes == TU_Summarizing));
#else
	if (indexes)
		list_free(ExecInsertIndexTuples(target, row, estate, false, false, nullptr, NIL));
#endif
	return TM_Ok;
}

void run_portal(Portal portal, bool top_level, DestReceiver *receiver, QueryCompletion *completion) {
#if PG_VERSION_NUM >= 180000
	PortalRun(portal, FETCH_ALL, top_level, receiver, receiver, completion);
#else
	PortalRun(portal, FETCH_ALL, top_level, true, receiver, receiver, completion);
#endif
}

Datum row_of_trigger(HeapTuple row, Relation table, Oid &type) {
	const TupleDesc all = RelationGetDescr(table);
#if PG_VERSION_NUM >= 180000
	if (all->constr != nullptr && all->constr->has_generated_virtual) {
		auto *values = palloc_array(Datum, all->natts);
		auto *nulls = palloc_array(bool, all->natts);
		auto *places = palloc_array(AttrNumber, all->natts);
		heap_deform_tuple(row, all, values, nulls);
		int kept = 0;
		for (int i = 0; i < all->natts; i++) {
			const Form_pg_attribute column = TupleDescAttr(all, i);
			if (column->attisdropped || column->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL)
				continue;
			values[kept] = values[i];
			nulls[kept] = nulls[i];
			places[kept] = column->attnum;
			kept++;
		}
		const TupleDesc some = CreateTemplateTupleDesc(kept);
		for (int i = 0; i < kept; i++)
			TupleDescCopyEntry(some, static_cast<AttrNumber>(i + 1), all, places[i]);
		type = RECORDOID;
		return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(some), values, nulls));
	}
#endif
	type = table->rd_rel->reltype;
	return heap_copy_tuple_as_datum(row, all);
}

static ExecutorCheckPerms_hook_type previous_check = nullptr;
static void (*insert_visitor)(Oid table, bool first_column) = nullptr;

static void visit_insert(Oid table, AclMode rights, const Bitmapset *columns) {
	if ((rights & ACL_INSERT) != 0)
		insert_visitor(table, bms_is_member(1 - FirstLowInvalidHeapAttributeNumber, columns));
}

#if PG_VERSION_NUM >= 160000
static bool check_permissions(List *tables, List *permissions, bool raises) {
	ListCell *cell;
	foreach (cell, permissions) {
		const auto *table = lfirst_node(RTEPermissionInfo, cell);
		visit_insert(table->relid, table->requiredPerms, table->insertedCols);
	}
	return previous_check == nullptr || previous_check(tables, permissions, raises);
}
#else
static bool check_permissions(List *tables, bool raises) {
	ListCell *cell;
	foreach (cell, tables) {
		const auto *table = lfirst_node(RangeTblEntry, cell);
		if (table->rtekind == RTE_RELATION)
			visit_insert(table->relid, table->requiredPerms, table->insertedCols);
	}
	return previous_check == nullptr || previous_check(tables, raises);
}
#endif

void watch_inserts(void (*visit)(Oid table, bool first_column)) {
	insert_visitor = visit;
	previous_check = ExecutorCheckPerms_hook;
	ExecutorCheckPerms_hook = check_permissions;
}

} // namespace jobqueue::compat
