/*
 * current_task.cpp -- see current_task.hpp. C++ region; the lambdas given to guard and the callbacks are C.
 */
#include "engine/current_task.hpp"

#include "engine/store/claimed_row.hpp"

namespace jobqueue {

static constinit const store::Attempt *running = nullptr;
static constinit const RowSource *running_source = nullptr;
static constinit Datum running_row = 0; /* the task's row, if it was given or has been read since */
static constinit MemoryContext running_context = nullptr;

std::optional<Datum> current_task() {
	return running ? row_of(*running, *running_source) : std::nullopt;
}

bool in_handler() noexcept {
	return running_source != nullptr;
}

std::optional<int64> current_task_id() noexcept {
	return running ? std::optional(running->id) : std::nullopt;
}

namespace {

/* A call of snooze(), and the subtransaction in which it was made; the last call counts. */
struct Snooze {
	SubTransactionId subtransaction;
	int64 delay_us;
};

} // namespace

static constexpr SubTransactionId committed = InvalidSubTransactionId; /* in a transaction before */
static constinit Snooze snoozes[16] = {};
static constinit size_t snooze_count = 0;

static void at_subtransaction_event(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *) {
	for (size_t i = 0; i < snooze_count; i++) {
		if (snoozes[i].subtransaction < mine)
			continue;
		if (event == SUBXACT_EVENT_ABORT_SUB) {
			snooze_count = i;
			return;
		}
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			snoozes[i].subtransaction = parent;
	}
}

/* A procedure may end the transaction and go on. */
static void at_transaction_event(XactEvent event, void *) {
	if (event == XACT_EVENT_ABORT)
		while (snooze_count > 0 && snoozes[snooze_count - 1].subtransaction != committed)
			snooze_count--;
	else if (event == XACT_EVENT_COMMIT)
		for (Snooze &snooze : snoozes)
			snooze.subtransaction = committed;
}

void snooze_current_task(int64 delay_us) {
	const SubTransactionId here = GetCurrentSubTransactionId();
	if (snooze_count > 0 && (snooze_count == std::size(snoozes) || snoozes[snooze_count - 1].subtransaction == here))
		snooze_count--;
	snoozes[snooze_count++] = {here, delay_us};
}

std::optional<int64> take_snooze() noexcept {
	return snooze_count == 0 ? std::nullopt : std::optional(snoozes[std::exchange(snooze_count, 0) - 1].delay_us);
}

HandlerMark::HandlerMark(const store::Attempt *task, const RowSource *source, Datum row) noexcept {
	running = task;
	running_source = source;
	running_context = CurrentMemoryContext;
	running_row = row;
	take_snooze(); /* forgets that of the handler before */
}

HandlerMark::~HandlerMark() {
	running = nullptr;
	running_source = nullptr;
}

void watch_snoozes() {
	RegisterSubXactCallback(at_subtransaction_event, nullptr);
	RegisterXactCallback(at_transaction_event, nullptr);
}

std::optional<Datum> row_of(const store::Attempt &task, const RowSource &source) {
	if (task.row != 0)
		return task.row;
	if (running == &task && running_row != 0)
		return running_row;
	MemoryContext caller = running == &task ? running_context : CurrentMemoryContext;
	const Session session(source.owner);
	const std::optional<Datum> row = store::row_as_claimed(task.id, task.attempt - 1, source.claimed_by);
	if (!row)
		return std::nullopt;
	const Datum kept = guard([caller, &row] {
		MemoryContext session_context = MemoryContextSwitchTo(caller);
		const Datum copy = PointerGetDatum(PG_DETOAST_DATUM_COPY(*row));
		MemoryContextSwitchTo(session_context);
		return copy;
	});
	if (running == &task)
		running_row = kept;
	return kept;
}

void add_task_context(void *arg) {
	const auto &tasks = *static_cast<const std::span<const store::Attempt *const> *>(arg);
	if (tasks.size() == 1)
		errcontext("task " INT64_FORMAT " of type \"%s\"", tasks[0]->id, tasks[0]->type.c_str());
	else
		errcontext("%d tasks of type \"%s\", the first of which is " INT64_FORMAT, static_cast<int>(tasks.size()),
				   tasks[0]->type.c_str(), tasks[0]->id);
}

} // namespace jobqueue
