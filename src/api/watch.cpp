/*
 * watch.cpp -- looking at tasks and workers: jobqueue.wait_for, what handlers say of their own task (current_task,
 * snooze, discard, set_progress), and what worker_status reads. C++ region.
 */
#include "api/arguments.hpp"
#include "engine/access.hpp"
#include "engine/current_task.hpp"
#include "engine/outcome.hpp"
#include "engine/store/watching.hpp"
#include "pg/clock.hpp"
#include "pg/compat.hpp"
#include "pg/durability.hpp"
#include "shared/state.hpp"
#include "shared/waiters.hpp"
#include "shared/workers.hpp"

namespace jobqueue {

namespace {

/* A waiter slot of this backend, through which the end of the task wakes it; freed however the wait ends. */
class WakeUp {
public:
	explicit WakeUp(int64 task) {
		if (shared() == nullptr)
			return;
		if (!exit_callback_) {
			guard([] { before_shmem_exit(give_back_at_exit, 0); });
			exit_callback_ = true;
		}
		mine_ = take_waiter(task);
		pg_memory_barrier();
	}
	~WakeUp() { give_back(); }
	WakeUp(const WakeUp &) = delete;
	WakeUp &operator=(const WakeUp &) = delete;

	/* How long to sleep at most. Without a slot nobody wakes this backend, so it must look often. */
	int64 longest_sleep_ms() const noexcept { return mine_ ? 5000 : 20; }

private:
	static void give_back() noexcept {
		if (WaiterSlot *slot = std::exchange(mine_, nullptr))
			free_waiter(slot);
	}
	static void give_back_at_exit(int, Datum) { give_back(); }

	/* Of this backend; it waits for one task at a time. */
	static constinit inline WaiterSlot *mine_ = nullptr;
	static constinit inline bool exit_callback_ = false;
};

} // namespace

/* Removes failures from the row: not everybody who may enqueue may see the errors of a handler. C region. */
static Datum without_failures(Datum row) {
	HeapTupleHeader header = DatumGetHeapTupleHeader(row);
	TupleDesc layout = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header), HeapTupleHeaderGetTypMod(header));
	HeapTupleData tuple = {};
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_data = header;
	int column = SPI_fnumber(layout, "failures");
	Datum value = 0;
	bool isnull = true;
	HeapTuple changed = heap_modify_tuple_by_cols(&tuple, layout, 1, &column, &value, &isnull);
	const Datum result = heap_copy_tuple_as_datum(changed, layout);
	ReleaseTupleDesc(layout);
	return result;
}

/* A copy in a context that outlives the Session. */
static Datum keep(Datum row, MemoryContext context, bool hide_failures) {
	return guard([row, context, hide_failures] {
		MemoryContext caller = MemoryContextSwitchTo(context);
		const Datum copy = hide_failures ? without_failures(row) : PointerGetDatum(PG_DETOAST_DATUM_COPY(row));
		MemoryContextSwitchTo(caller);
		return copy;
	});
}

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_wait_for) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const int64 id = arguments.int64_at(0, "id");
	const std::optional<int64> timeout = arguments.optional_duration(1, "timeout");
	if (IsolationUsesXactSnapshot())
		throw Error(ERRCODE_ACTIVE_SQL_TRANSACTION,
					"wait_for cannot be called at isolation level REPEATABLE READ or SERIALIZABLE",
					"Use the isolation level READ COMMITTED.");
	const SteadyTime start = steady_now();
	const Oid owner = function_owner(fcinfo);
	const std::string caller = caller_name();
	const Oid tasks = guard([] { return get_relname_relid("tasks", get_namespace_oid("jobqueue", false)); });
	MemoryContext context = CurrentMemoryContext;
	const WakeUp wake_up(id);
	for (bool first = true;; first = false) {
		std::optional<Datum> finished;
		/* Checked each time: the right may be revoked meanwhile. */
		const Queues visible = queues_by_right(owner, tasks, ACL_SELECT, false, {Access::consumer, Access::manager});
		{
			const Session session(owner);
			const std::optional<store::Look> look = store::look(id);
			if (!look || (look->created_by != caller && !visible.contains(look->queue))) {
				if (!first)
					throw Error(ERRCODE_NO_DATA_FOUND, "task " + std::to_string(id) + " was removed during wait_for",
								"Finished tasks are kept for jobqueue.completed_retention.");
				throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "there is no task " + std::to_string(id),
							"Finished tasks are kept for jobqueue.completed_retention.");
			}
			if (look->status == "completed" || look->status == "failed" || look->status == "cancelled")
				finished = keep(look->row, context, !visible.contains(look->queue));
			else if (first && TransactionIdIsCurrentTransactionId(look->inserted_by))
				throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
							"task " + std::to_string(id) + " cannot run before this transaction commits");
		}
		if (finished) {
			/*
			 * Workers commit without waiting for the disk. Wait for it here, because the caller may rely on the answer.
			 */
			const SteadyTime deadline = timeout ? start + *timeout : never;
			if (guard([deadline] { return wait_until_safe(deadline); }))
				return *finished;
			fcinfo->isnull = true;
			return 0;
		}
		const int64 left_us = timeout ? start + *timeout - steady_now() : PG_INT64_MAX;
		if (left_us <= 0) {
			fcinfo->isnull = true;
			return 0;
		}
		const int64 sleep = std::min(wake_up.longest_sleep_ms(), left_us / 1000 + 1);
		guard([sleep] { compat::sleep_on_latch(sleep); });
	}
}

JOBQUEUE_FUNCTION(jobqueue_current_task) {
	using namespace jobqueue;
	const std::optional<Datum> row = current_task();
	if (!row) {
		fcinfo->isnull = true;
		return 0;
	}
	return keep(*row, CurrentMemoryContext, false);
}

namespace jobqueue {

static void require_handler(const char *function) {
	if (!current_task_id())
		throw Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
					std::string(function) + " can only be called in a handler",
					std::string("Outside a handler, pass the claim: ") + function + "(id, attempt, ...).");
}

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_snooze) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	arguments.require(0, "delay");
	const int64 delay = *arguments.optional_duration(0, "delay");
	require_handler("snooze");
	snooze_current_task(delay);
	return 0;
}

JOBQUEUE_FUNCTION(jobqueue_discard) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	arguments.require(0, "reason");
	const std::string reason = *arguments.optional_remark(0, bounds::error);
	require_handler("discard");
	const char *const message = reason.c_str();
	guard([message] { ereport(ERROR, (errcode(errcode_discarded), errmsg_internal("%s", message))); });
	return 0;
}

JOBQUEUE_FUNCTION(jobqueue_set_progress) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const float4 fraction = arguments.fraction_at(0);
	/* Reads more than can be kept, because the text is cut below, without the mark that optional_remark() adds. */
	const std::string message = arguments.optional_remark(1, 2 * bounds::progress_message).value_or("");
	require_handler("set_progress");
	WorkerSlot *slot = own_worker();
	if (slot == nullptr)
		return 0; /* drain(): nobody else sees the task */
	static_assert(bounds::progress_message < progress_message_size);
	const int length = guard([&message] {
		return pg_mbcliplen(message.data(), static_cast<int>(message.size()), bounds::progress_message);
	});
	write_progress(slot, fraction, message.substr(0, static_cast<size_t>(length)).c_str());
	return 0;
}

namespace jobqueue {

/* Lists all workers; the progress only of these tasks, or of all tasks. C region. */
static void list_workers(FunctionCallInfo fcinfo, bool all, std::span<const int64> visible) {
	InitMaterializedSRF(fcinfo, 0);
	auto *info = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
	for (WorkerSlot &slot : worker_slots()) {
		const WorkerState state = worker_state(&slot);
		if (state == WorkerState::free || pg_atomic_read_u32(&slot.database) != MyDatabaseId)
			continue;
		const uint32 pid = pg_atomic_read_u32(&slot.pid);
		const uint64 task = pg_atomic_read_u64(&slot.task);
		const char *role = GetUserNameFromId(pg_atomic_read_u32(&slot.role), true);
		const char *database = get_database_name(MyDatabaseId);
		NameData names[2] = {};
		namestrcpy(&names[0], database ? database : "");
		namestrcpy(&names[1], role ? role : "");
		float4 fraction;
		char message[progress_message_size];
		const bool told = all || std::find(visible.begin(), visible.end(), static_cast<int64>(task)) != visible.end();
		const bool progress = told && task != 0 && read_progress(&slot, &fraction, message);
		const bool stuck = pg_atomic_read_u32(&slot.stuck) != 0;
		Datum values[9] = {Int32GetDatum(static_cast<int32>(pid)),
						   NameGetDatum(&names[0]),
						   NameGetDatum(&names[1]),
						   CStringGetTextDatum(state == WorkerState::starting || pid == 0 ? "starting"
											   : stuck									  ? "stuck"
											   : task != 0								  ? "running"
																						  : "idle"),
						   Int64GetDatum(static_cast<int64>(task)),
						   TimestampTzGetDatum(static_cast<TimestampTz>(pg_atomic_read_u64(&slot.started_at))),
						   TimestampTzGetDatum(static_cast<TimestampTz>(pg_atomic_read_u64(&slot.state_since))),
						   progress ? Float4GetDatum(fraction) : 0,
						   progress ? CStringGetTextDatum(message) : 0};
		bool nulls[9] = {pid == 0, false,	  role == nullptr,
						 false,	   task == 0, false,
						 false,	   !progress, !progress || message[0] == '\0'};
		tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
	}
}

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_workers) {
	using namespace jobqueue;
	const Oid owner = function_owner(fcinfo);
	const Queues allowed = callers_queues(fcinfo, {Access::consumer, Access::manager});
	std::vector<int64> visible;
	if (!allowed.all) {
		const Session session(owner);
		for (WorkerSlot &slot : worker_slots()) {
			const auto task = static_cast<int64>(pg_atomic_read_u64(&slot.task));
			if (task == 0 || pg_atomic_read_u32(&slot.database) != MyDatabaseId)
				continue;
			for (const std::string &queue : store::queues_of_tasks({&task, 1}))
				if (allowed.contains(queue))
					visible.push_back(task);
		}
	}
	guard([&] { list_workers(fcinfo, allowed.all, visible); });
	return 0;
}
