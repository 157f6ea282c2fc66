/*
 * fused_batch.cpp -- how a worker claims, and what it runs together: short tasks are fused, so that many share one
 * transaction, under their row locks alone, each in a subtransaction of its own. See worker.hpp. C++ region.
 *
 * A task in a fused batch must end as it would end alone. So if something goes wrong, that task, or the whole batch, is
 * rolled back, no task is charged, and what was rolled back is tried again alone.
 */
#include "engine/store/attempts.hpp"
#include "engine/store/candidates.hpp"
#include "engine/store/handlers.hpp"
#include "engine/store/lanes.hpp"
#include "engine/store/outcome.hpp"
#include "server/worker.hpp"

#include "engine/outcome.hpp"
#include "pg/clock.hpp"
#include "pg/compat.hpp"
#include "pg/foreign_connections.hpp"
#include "pg/leftovers.hpp"
#include "pg/own_settings.hpp"
#include "pg/raw_size.hpp"
#include "pg/settings.hpp"
#include "server/in_flight.hpp"
#include "shared/admission.hpp"
#include "shared/penalties.hpp"
#include "shared/transaction_notes.hpp"
#include "shared/wake_ups.hpp"
#include "shared/workers.hpp"

namespace jobqueue {

using interrupts::FusedTime;

namespace {

/* Thrown by a task of a fused batch that must be rolled back and run alone. */
struct NotForFusing : std::exception {};
/* Thrown by a fused batch whose tasks are not as they were when they were locked. */
struct FusedBatchSpoilt : std::exception {};

} // namespace

/* A fused task must not have a time limit that could end it before the clock of the fused batch does. */
static bool leaves_time_for_fusing(int64 limit_us) {
	return limit_us == 0 || limit_us > 2 * FusedTime::longest_us();
}

/* Is another worker of this role idle, or could one be started? */
bool Worker::help_is_possible() {
	int live = 0;
	for (WorkerSlot &other : worker_slots()) {
		const WorkerState state = worker_state(&other);
		live += takes_place(&other);
		if (state == WorkerState::idle && pg_atomic_read_u32(&other.database) == MyDatabaseId &&
			pg_atomic_read_u32(&other.role) == pg_atomic_read_u32(&slot_->role))
			return true;
	}
	return live < settings::max_workers;
}

/*
 * Each worker wakes the next one, so that a burst of tasks spreads over all workers. Also if there is news: its sender
 * may have woken nobody, because we had no task yet; but we had already looked.
 */
void Worker::wake_peer(bool more) {
	pg_memory_barrier();
	if ((more || claimer_->is_behind()) && !wake_worker_of(MyDatabaseId, pg_atomic_read_u32(&slot_->role)))
		wake_scheduler(database_);
}

/* Claims locked tasks durably: others see them as processing before their handler runs. */
std::vector<store::Attempt> Worker::begin(std::span<const store::Candidate> tasks) {
	std::vector<store::Attempt> begun = store::begin_attempts(tasks, DT_NOEND, token_);
	if (begun.size() != tasks.size())
		throw FusedBatchSpoilt{}; /* we have the locks, so a handler in this transaction has changed them */
	for (store::Attempt &attempt : begun)
		store::keep(attempt, context_);
	note_counted(tasks);
	in_flight::claimed(begun[0]);
	return begun;
}

/* Keeps the tasks counted under their limits until their claims end. */
void Worker::note_counted(std::span<const store::Candidate> tasks) {
	for (const store::Candidate &task : tasks)
		if (task.admitted_as != 0)
			guard([&task] { note_begun(task.admitted_as, task.id); });
}

/* The index of the handler of this type; the number of handlers if there is none. */
size_t Worker::handler_index(const std::string &type) const {
	const store::Handler *handler = store::find_handler(handlers_, type);
	return handler ? static_cast<size_t>(handler - handlers_.data()) : handlers_.size();
}

/*
 * For a while after a fused batch has crashed its process, every task runs alone, so that the crash can be attributed.
 */
bool Worker::may_fuse() const {
	constexpr uint64 whatever_type = 0;
	const Oid role = pg_atomic_read_u32(&slot_->role);
	return !somebody_runs_alone() || !guard([role] { return must_run_alone(MyDatabaseId, role, whatever_type); });
}

bool Worker::may_fuse(const std::string &type) const {
	if (!somebody_runs_alone())
		return true;
	const Oid role = pg_atomic_read_u32(&slot_->role);
	const uint64 name = penalty_type(type);
	return !guard([role, name] { return must_run_alone(MyDatabaseId, role, name); });
}

int Worker::next_count() const {
	return may_fuse() ? std::max(fused_size_.next(), batch_wanted_) : 1;
}

/* How many tasks of this type to lock next, for its batch handler: up to twice as many as there were the last time. */
int Worker::next_batch(const std::string &type, size_t latest) const {
	const size_t handler = handler_index(type);
	return handler == handlers_.size()
			   ? 1
			   : std::min(handlers_[handler].batch_size, std::max(1, 2 * static_cast<int>(latest)));
}

/* The first of the locked tasks, and those that a batch handler may be given together with it. */
std::vector<store::Candidate> Worker::first_batch(const Locked &locked) const {
	const store::Candidate &first = locked.tasks[0];
	std::vector<store::Candidate> batch = {first};
	const size_t handler = handler_index(first.type);
	if (!first.plain || !first.group.empty() || handler == handlers_.size() || !may_fuse(first.type))
		return batch;
	const auto most = static_cast<size_t>(estimates_[handler].batch_size(handlers_[handler].batch_size));
	for (size_t i = 1; i < locked.tasks.size() && batch.size() < most; i++)
		if (locked.tasks[i].plain && locked.tasks[i].group.empty() && locked.tasks[i].type == first.type)
			batch.push_back(locked.tasks[i]);
	return batch;
}

/* If some types have shown that their function is short, another type with this function counts as short, too. */
bool Worker::may_be_fused(size_t handler, SteadyTime now) const {
	constexpr int enough_types = 3;
	if (!may_fuse(handlers_[handler].type))
		return false;
	const int runs = settings::fused_after;
	const RunTimeEstimate &estimate = estimates_[handler];
	if (estimate.runs() >= runs)
		return estimate.may_be_fused(now, runs);
	const auto found = functions_.find(handlers_[handler].function.signature);
	return found != functions_.end() && found->second.types >= enough_types &&
		   found->second.estimate.may_be_fused(now, enough_types * runs) && estimate.may_be_fused(now, 0);
}

/* The locked tasks up to the first that has to run alone. */
std::vector<FusedTask> Worker::first_fused(const Locked &locked) {
	const SteadyTime now = steady_now();
	std::vector<FusedTask> fused;
	/* Connections of dblink can only be closed between transactions. */
	if (settings::fused_time_ms == 0 || !may_fuse() || guard(dblink_is_loaded) ||
		!leaves_time_for_fusing(static_cast<int64>(StatementTimeout) * 1000) ||
		!leaves_time_for_fusing(interrupts::transaction_limit_us()))
		return fused;
	fused.reserve(locked.tasks.size());
	size_t handler = handlers_.size();
	for (const store::Candidate &task : locked.tasks) {
		if (handler == handlers_.size() || handlers_[handler].type != task.type)
			handler = handler_index(task.type);
		if (!task.plain || handler == handlers_.size() || !may_be_fused(handler, now) ||
			!leaves_time_for_fusing(handlers_[handler].timeout_us))
			break;
		const store::Lane &lane = locked.lane_of(task);
		FusedTask member = {{task.id, task.type, lane.queue, lane.priority, task.attempts + 1,
							 task.max_attempts > 0 ? task.max_attempts : handlers_[handler].max_attempts, 0,
							 task.payload, task.row},
							task.tid,
							handler,
							0,
							std::nullopt,
							std::nullopt,
							!task.group.empty()};
		fused.push_back(std::move(member));
	}
	/*
	 * What the handlers are given must outlive the Session, but not the transaction: values that are stored outside of
	 * their rows need not be fetched.
	 */
	MemoryContext context = context_;
	guard([&fused, context] {
		MemoryContext caller = MemoryContextSwitchTo(context);
		for (FusedTask &member : fused) {
			member.attempt.payload = datumCopy(member.attempt.payload, false, -1);
			if (member.attempt.row != 0)
				member.attempt.row = datumCopy(member.attempt.row, false, -1);
		}
		MemoryContextSwitchTo(caller);
	});
	return fused;
}

/* Runs one task, or as many as a batch handler takes, in a subtransaction. Throws if they fail or cannot be fused. */
void Worker::run_members(std::span<FusedTask> members, FusedTime &time, bool holds_locks) {
	const store::Function &function = handlers_[members[0].handler].function;
	MemoryContextSwitchTo(fused_context_);
	in_subtransaction([&] {
		const int settings_level = NewGUCNestLevel();
		bool procedure = false;
		{
			const OwnSettings own;
			procedure = executor_->is_procedure(function);
		}
		if (procedure)
			throw NotForFusing{}; /* only the look-up has shown for sure that it is a procedure */
		std::vector<const store::Attempt *> attempts;
		for (const FusedTask &member : members)
			attempts.push_back(&member.attempt);
		time.begin(holds_locks);
		const std::vector<std::optional<Datum>> results = executor_->run(attempts, function, false);
		const bool undisturbed = time.end();
		if (guard([this] { return compat::holds_lock_on(other_leaf_); }))
			estimates_[members[0].handler].never();
		if (!undisturbed || take_own_cancel() || estimates_[members[0].handler].is_never())
			throw NotForFusing{};
		MemoryContext context = context_;
		guard([settings_level, &results, members, context] {
			AtEOXact_GUC(false, settings_level);
			DropAllPreparedStatements();
			ResetSequenceCaches();
			forget_random_seed();
			MemoryContext caller = MemoryContextSwitchTo(context);
			for (size_t i = 0; i < members.size(); i++)
				if (results[i])
					members[i].result = datumCopy(*results[i], false, -1);
			MemoryContextSwitchTo(caller);
		});
	});
	members[0].snooze_us = take_snooze();
}

/*
 * Runs one task, or as many as a batch handler takes, and shows in shared memory what runs. False if that failed: then
 * everything is rolled back, and no task is charged.
 */
bool Worker::run_call(std::span<FusedTask> members, FusedTime &time, bool holds_locks) {
	const store::Attempt &first = members[0].attempt;
	const bool single = members.size() == 1;
	RunTimeEstimate &estimate = estimates_[members[0].handler];
	take_own_cancel();
	write_progress(slot_, -1, "");
	guard(SetCurrentStatementStartTimestamp);
	(single ? in_flight::running : in_flight::running_several)(first, true);
	bool failed = false;
	try {
		run_members(members, time, holds_locks);
	} catch (const PgError &error) {
		failed = true;
		if (single && error.sqlerrcode() == ERRCODE_QUERY_CANCELED)
			interrupt_ = error;
	} catch (const std::exception &) {
		failed = true;
	}
	const bool undisturbed = time.end();
	in_flight::between();
	MemoryContextReset(fused_context_);
	if (!failed)
		return true;
	guard(DropAllPreparedStatements); /* an abort does not do that */
	if (!undisturbed) {
		interrupt_.reset(); /* the clock of the fused batch interrupted it */
		estimate.spoilt_fused_batch(steady_now());
	}
	if (!single)
		estimate.batch_failed(static_cast<int>(members.size())); /* the next batches are smaller */
	else if (undisturbed)
		suspect_type_ = first.type;
	return false;
}

/*
 * Runs the tasks one after the other until the time of the batch is over, or something else stops it. Tasks that were
 * not run, or were rolled back, are taken out of the batch. Returns the first of them if it has to run alone.
 */
std::optional<size_t> Worker::run_fused(std::vector<FusedTask> &fused, FusedTime &time) {
	const SteadyTime began = steady_now();
	const int64 time_us = static_cast<int64>(settings::fused_time_ms) * 1000;
	std::optional<size_t> alone;
	size_t done = 0;
	TimestampTz now = GetCurrentTimestamp(); /* when the next task begins */
	SteadyTime ended = began;				 /* when the latest task ended */
	int subtransactions = 0;
	int64 results_bytes = 0;
	for (bool go_on = true; go_on && done < fused.size();) {
		const size_t handler = fused[done].handler;
		RunTimeEstimate &estimate = estimates_[handler];
		const auto most = static_cast<size_t>(estimate.batch_size(handlers_[handler].batch_size));
		size_t count = 1;
		while (count < most && done + count < fused.size() && fused[done + count].handler == handler &&
			   !fused[done].grouped && !fused[done + count].grouped)
			count++;
		const std::span<FusedTask> members(&fused[done], count);
		for (FusedTask &member : members)
			member.started_at = now;
		if (!run_call(members, time, done > 0)) {
			if (count == 1)
				alone = done;
			break;
		}
		now = GetCurrentTimestamp();
		const SteadyTime call_began = std::exchange(ended, steady_now());
		done += count;
		estimate.ran(ended - call_began);
		estimate.batch_ran(static_cast<int>(count));
		const Leftovers leftovers = guard([] {
			CHECK_FOR_INTERRUPTS();
			Leftovers found = look_for_leftovers();
			found.residue |= dblink_is_loaded();
			return found;
		});
		if (leftovers.residue)
			estimate.never();
		const int more = leftovers.subtransactions - std::exchange(subtransactions, leftovers.subtransactions);
		for (const FusedTask &member : members)
			results_bytes += member.result ? raw_size(*member.result) : 0;
		const bool holds_group = members[0].grouped && members[0].snooze_us;
		go_on = !leftovers.residue && !holds_group && !leftovers.others_wait && ended - began < time_us &&
				subtransactions + more < most_subtransactions && results_bytes < most_bytes_together;
	}
	fused.resize(done);
	return alone;
}

/* Ends the tasks as if each had been claimed and had succeeded. */
void Worker::finish_fused(std::span<const FusedTask> done, std::span<const store::Candidate> tasks) {
	std::vector<store::Finished> finished;
	finished.reserve(done.size());
	for (size_t i = 0; i < done.size(); i++) {
		const FusedTask &member = done[i];
		const store::Attempt &task = member.attempt;
		if (!member.snooze_us) {
			finished.push_back({task.id, member.tid, member.started_at, member.result});
			continue;
		}
		if (store::begin_attempts(tasks.subspan(i, 1), DT_NOEND, token_).empty())
			throw FusedBatchSpoilt{};
		note_counted(tasks.subspan(i, 1));
		if (!end_snoozed(task, *member.snooze_us))
			throw FusedBatchSpoilt{};
	}
	if (!finished.empty() && !end_locked(finished, token_))
		throw FusedBatchSpoilt{};
}

/* Announces that locked tasks that were not used can be had again. */
void Worker::give_back(const Locked &locked, std::span<const store::Candidate> kept) {
	size_t next = 0; /* "kept" is in the order of the locked tasks */
	for (const store::Candidate &task : locked.tasks) {
		if (next < kept.size() && kept[next].id == task.id) {
			next++;
			continue;
		}
		const store::Lane &lane = locked.lane_of(task);
		guard([&task, &lane] { note_returned(lane.queue, lane.priority, task.id, task.group); });
	}
}

/* Runs the tasks of a fused batch, and finishes them. A task that must run alone after all is claimed. */
void Worker::run_locked(const Locked &locked, std::vector<FusedTask> &fused, FusedTime &time, Taken &taken) {
	show(fused[0].attempt, fused.size() > 1 ? "tasks from" : "task");
	const SteadyTime began = steady_now();
	const std::optional<size_t> alone = run_fused(fused, time);
	injection_point("fused");
	fused_size_.ran(locked.tasks.size(), fused.size(), steady_now() - began);
	batch_wanted_ = next_batch(locked.tasks[0].type, fused.size());

	const OwnSettings own;
	const Session session(owner_, Session::Writes::always);
	const std::span<const store::Candidate> tasks = locked.tasks; /* the batch is the first ones */
	finish_fused(fused, tasks);
	if (alone)
		taken.claimed = begin(tasks.subspan(*alone, 1));
	in_flight::finishing(fused.empty() ? nullptr : &fused[0].attempt, fused.size());
	give_back(locked, tasks.first(fused.size() + (alone ? 1 : 0)));
}

/*
 * Locks as many of the next tasks as should fit into a fused batch, runs those that may run together, and finishes
 * them, all in one transaction. A task that must run alone, or the tasks of a batch handler, are only claimed in it,
 * and returned.
 */
Worker::Taken Worker::take() {
	Taken taken;
	std::vector<FusedTask> fused;
	bool more = false, failed = false;
	std::optional<FusedTime> time; /* it lives until the commit is over */
	try {
		in_transaction(Durability::asynchronous, [&] {
			Locked locked;
			{
				const OwnSettings own;
				const Session session(owner_);
				locked = claimer_->lock(scope_, conditions_, std::nullopt, next_count());
				if (locked.empty())
					return;
				if (!is_configured()) {
					for (const store::Candidate &task : locked.tasks)
						if (task.admitted_as != 0)
							return_tokens(task.admitted_as);
					throw ConfigurationChanged{}; /* the abort gives the tasks back, and announces them */
				}
				taken.any = true;
				fused = first_fused(locked);
				more = help_is_possible() && claimer_->more_after(scope_, locked);
				if (fused.empty()) {
					const std::vector<store::Candidate> batch = first_batch(locked);
					taken.claimed = begin(batch);
					fused_size_.reset();
					batch_wanted_ = next_batch(locked.tasks[0].type, batch.size());
					give_back(locked, batch);
					return;
				}
				wake_peer(more);
			}
			time.emplace();
			run_locked(locked, fused, *time, taken);
			if (!fused.empty() && settings::worker_synchronous_commit)
				change_durability(Durability::synchronous);
			time->begin(false); /* for what was deferred to the commit */
		});
	} catch (const ConfigurationChanged &) {
		throw;
	} catch (const std::exception &) {
		if (!time)
			throw;
		failed = true;
	}
	const bool ran = time.has_value();
	time.reset();
	if (failed) {
		/* Everything was rolled back. The same tasks come first again, and run one by one. */
		interrupt_.reset();
		taken.claimed.clear();
		fused_size_.reset();
		for (const FusedTask &member : fused)
			estimates_[member.handler].is_suspect(steady_now());
	}
	if (taken.claimed.empty())
		in_flight::nothing();
	else
		in_flight::committed(taken.claimed[0]);
	if (taken.any && (!ran || !taken.claimed.empty()))
		wake_peer(more || ran); /* tasks that were given back must not wait for the one that runs alone now */
	return taken;
}

} // namespace jobqueue
