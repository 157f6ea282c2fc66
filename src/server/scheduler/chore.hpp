/*
 * chore.hpp -- a part of the scheduler's work: when it is due next, and one step of it. C++ region.
 *
 * The scheduler asks all chores when they are due, runs those that are due now, and sleeps until the next one. A step
 * takes about step_us. A chore with more to do says so, and goes on in a later step: so no chore makes the others wait
 * for long, however much it has to do.
 */
#pragma once

#include "engine/set_aside.hpp"
#include "server/scheduler/served_database.hpp"

namespace jobqueue::scheduler {

inline constexpr int64 step_us = 10 * USECS_PER_SEC / 1000;
/* Failed work is tried again after the shortest of these times; if it fails again, after longer and longer ones. */
inline constexpr int64 shortest_retry_us = USECS_PER_SEC / 10;
inline constexpr int64 longest_retry_us = 5 * USECS_PER_SEC;

/* A pass over everything, in steps. Nobody waits for it, so it takes at most one part in fifty of the time. */
class FullPass {
public:
	/* When the next one may begin. */
	SteadyTime next() const noexcept { return next_; }
	/* A step of the pass began at this time, and ends now. */
	void worked_since(SteadyTime began) noexcept { took_us_ += steady_now() - began; }
	/* The pass has seen everything. */
	void end() noexcept { next_ = steady_now() + share * std::exchange(took_us_, 0); }
	/* The next one begins at once. */
	void ask() noexcept { next_ = at_once; }

private:
	static constexpr int64 share = 50;
	int64 took_us_ = 0;
	SteadyTime next_ = at_once;
};

/*
 * Reading an index from its beginning may take long, because of dead entries: the step in which that happens counts as
 * a pass.
 */
class PassFromStart {
public:
	PassFromStart(FullPass &pass, const store::Cursor &cursor) noexcept
		: pass_(cursor.is_at_start() ? &pass : nullptr) {}
	~PassFromStart() {
		if (pass_ == nullptr)
			return;
		pass_->worked_since(began_);
		pass_->end();
	}
	PassFromStart(const PassFromStart &) = delete;
	PassFromStart &operator=(const PassFromStart &) = delete;

private:
	FullPass *const pass_;
	const SteadyTime began_ = steady_now();
};

/* The earlier one of two times, one of each clock. */
struct DueTime {
	TimestampTz wall = DT_NOEND;
	SteadyTime steady = never;

	bool has_come() const noexcept { return steady <= steady_now() || wall <= GetCurrentTimestamp(); }
};

enum class Urgency {
	prompt,	  /* somebody waits: the chore has a step in each turn in which it is due */
	in_turns, /* the chore can wait: those that are due take turns, one step after the other */
};

/* What a process would leave undone if it ended now. */
enum class Unfinished {
	nothing,
	set_aside, /* tasks that were passed over; the next process tries them again */
	some,	   /* work that can wait a second */
	urgent,
};

class Chore {
public:
	virtual ~Chore() = default;
	Chore(const Chore &) = delete;
	Chore &operator=(const Chore &) = delete;

	/* Completes the message "jobqueue could not ...". */
	const char *name() const noexcept { return name_; }

	/* Called at the beginning of each turn of the loop: takes in what others have announced in shared memory. Cheap. */
	virtual void look_for_news() {}
	/* Somebody has announced that something is due at this time. */
	virtual void time_was_announced(TimestampTz) noexcept {}
	/* Called once every jobqueue.poll_interval: look at everything again, for what nobody announced. */
	virtual void poll() noexcept;
	/* The wall clock was set. */
	virtual void clock_was_set() noexcept {}

	/* When the chore has something to do, as far as it knows. */
	DueTime due() const noexcept;
	/* When it will have something to do if nothing is announced: a scheduler that ends must be back by then. */
	virtual DueTime next() const noexcept { return {}; }
	Urgency urgency() const noexcept { return urgency_; }
	/* Has the latest step left something to do? */
	bool has_more() const noexcept { return progress_ == Progress::more; }
	SteadyTime ran_at() const noexcept { return ran_at_; }

	/* One step. Throws only if the extension has been dropped. */
	void run();

	virtual Unfinished unfinished() const noexcept;
	/* The process ends, and leaves unfinished(): what must not be forgotten goes into shared memory. */
	virtual void leave() noexcept {}

protected:
	Chore(ServedDatabase &database, const char *name, Urgency urgency) noexcept
		: db_(database), name_(name), urgency_(urgency) {}

	/* Failures are reported by the step, or by the functions that it calls. */
	virtual Progress step() = 0;
	/* When rows that were set aside are tried again. */
	virtual SteadyTime retry_at() const noexcept { return never; }

	/* Makes a step due, at once or at a time; but if the latest step has failed, not before the time of its retry. */
	void ask(SteadyTime at = at_once) noexcept { ask_although_failing(std::max(at, backoff_.not_before())); }
	void ask_although_failing(SteadyTime at) noexcept { asked_at_ = std::min(asked_at_, at); }

	ServedDatabase &db_;
	/* For chores that go over everything: then a poll asks for the next pass when that may begin. */
	FullPass pass_;

private:
	const char *const name_;
	const Urgency urgency_;
	Progress progress_ = Progress::done;
	SteadyTime asked_at_ = never;
	SteadyTime poll_at_ = never; /* likewise, but nothing is known to be there to do */
	SteadyTime ran_at_ = at_once;
	Backoff backoff_{shortest_retry_us, longest_retry_us};
};

/* A chore that takes many rows in one transaction. A row that fails does not stop the others. */
class BatchChore : public Chore {
public:
	Unfinished unfinished() const noexcept override;

protected:
	/* "action": what is done to a task, for the log; see SetAside. */
	BatchChore(ServedDatabase &database, const char *name, Urgency urgency, const char *action) noexcept
		: Chore(database, name, urgency), aside_(action) {}

	SteadyTime retry_at() const noexcept override { return aside_.next_time(); }
	/*
	 * One transaction. run(batch) takes rows and returns how many (Taken), look(batch) finds which rows these are. Both
	 * run in a Session.
	 */
	template <typename Run, typename Look> Progress batch_step(Run &&run, Look &&look);
	/*
	 * A step of a pass, one transaction: look(cursor, batch) returns the next page, take(ids) takes its rows and
	 * returns how many. After the last page the next pass begins.
	 */
	template <typename Look, typename Take> Progress pass_step(store::Cursor &cursor, Look &&look, Take &&take);
	/* Runs short transactions, as many as a step has time for. */
	template <typename Once> static Progress repeat(Once &&once);

	SetAside aside_;
};

template <typename Once> Progress BatchChore::repeat(Once &&once) {
	const SteadyTime began = steady_now();
	Progress progress;
	do
		progress = once();
	while (progress == Progress::more && steady_now() - began < step_us / 2);
	return progress;
}

template <typename Run, typename Look> Progress BatchChore::batch_step(Run &&run, Look &&look) {
	const SteadyTime began = steady_now();
	const int most = aside_.batch_size().get();
	const Progress progress = aside_.step(
		most, began + step_us,
		[&](const store::Batch &rows, store::Taken &taken) { return db_.try_in_session([&] { taken = run(rows); }); },
		[&](const store::Batch &rows, std::vector<int64> &ids) {
			return db_.try_in_session([&] { ids = look(rows); });
		});
	if (aside_.took_batch())
		aside_.batch_size().took(steady_now() - began, progress == Progress::more);
	if (aside_.problem())
		db_.complaints.failed(name(), *aside_.problem());
	else if (progress != Progress::failed)
		db_.complaints.succeeded(name());
	return progress;
}

template <typename Look, typename Take>
Progress BatchChore::pass_step(store::Cursor &cursor, Look &&look, Take &&take) {
	const PassFromStart pass(pass_, cursor);
	return step_of_pass(aside_, cursor, look, take,
						[this](auto &&run, auto &&list) { return this->batch_step(run, list); });
}

} // namespace jobqueue::scheduler
