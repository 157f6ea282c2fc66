/*
 * set_aside.hpp -- batches of rows in which one row cannot stop the others.
 *
 * A chore of the housekeeping takes many rows in one transaction. When that fails, the rows of the batch are taken in
 * parts, each half as large as the one that failed, until a row that fails is alone. That row is set aside: the chore
 * passes over it, the log says why, and the row is tried again, alone, after a pause that grows. When parts from
 * different places of the batch all fail, the cause is not in the rows: then nothing is set aside, and the whole chore
 * is tried again later. C++ region.
 */
#pragma once

#include "engine/batch_size.hpp"
#include "engine/store/batch.hpp"
#include "pg/clock.hpp"
#include "pg/session.hpp"
#include "pg/transaction.hpp"

#include <map>

namespace jobqueue {

/* How far a step of something long has come. */
enum class Progress {
	done,
	more,	/* not yet done: others come first, then it goes on */
	failed, /* it will be tried again */
};

class SetAside {
public:
	/* What is done to a task, for the log. */
	explicit SetAside(const char *what) noexcept : what_(what) {}

	/*
	 * run(batch, taken): takes these rows, in a transaction or subtransaction of its own, says how many, and returns
	 * what went wrong. look(batch, ids): finds which rows these are, and takes none. Ends soon after "until".
	 */
	template <typename Run, typename Look> Progress step(int most, SteadyTime until, Run &&run, Look &&look);
	/* Why the latest step failed; none if that has been reported. */
	const std::optional<PgError> &problem() const noexcept { return problem_; }
	/* Did the latest step take a batch as it came? */
	bool took_batch() const noexcept { return took_batch_; }
	/* Have rows that were set aside gone through since the last call? */
	bool take_healed() noexcept { return std::exchange(healed_, false); }

	/* For "most" of the next step. */
	BatchSize &batch_size() noexcept { return batch_size_; }

	/* Forgets all rows: there is nothing to do any more. */
	void clear() noexcept {
		rows_.clear();
		pending_.clear();
	}
	/* The rows that are passed over, in order. */
	std::vector<int64> all() const;
	/* When there is something to do without news: a row to be tried again, a batch that was not finished. */
	SteadyTime next_time() const noexcept;
	/* The chore must not be tried before this time, if it has failed as a whole. */
	SteadyTime not_before() const noexcept { return backoff_.not_before(); }

	/*
	 * For chores that take one row at a time. passes_over(): whether the row is passed over at the moment. failed()
	 * returns false if the cause is not in the row.
	 */
	bool passes_over(int64 id, SteadyTime now) const;
	void went(int64 id);
	bool failed(int64 id, const PgError &error);
	/* All rows have had their turn. */
	void be_sure();

private:
	static constexpr int rows_in_parts = 1000;

	struct Row {
		SteadyTime again_at;
		int64 delay_us;
		bool is_sure = false; /* other rows have gone through since, or there are none */
		int code = 0;		  /* SQLSTATE, for the log */
		std::string message;
	};

	std::vector<int64> to_try_again(SteadyTime now) const;
	void tried_again(int64 id, const std::optional<PgError> &error);
	bool may_be_of_row(const PgError &error);
	void succeeded();
	void divide(std::vector<int64> ids);
	std::span<const int64> next_part();
	/* False if the cause is not in a row. */
	bool judge(int64 count, const std::optional<PgError> &error);
	Progress fail(const std::optional<PgError> &error);
	Progress end_parts();
	void forget_unsure();
	void keep(int64 id, const PgError &error);
	void remove(int64 id);
	void say(int64 id, const Row &row);

	const char *const what_;
	BatchSize batch_size_;
	std::map<int64, Row> rows_;
	std::vector<int64> pending_; /* a batch that failed; its rows are taken from the end */
	size_t part_ = 0;			 /* how many of them are taken at once */
	int failed_in_a_row_ = 0;	 /* single rows that failed with no success between them */
	int64 taken_in_parts_ = 0;
	bool found_ = false, lost_ = false; /* in this batch: rows that fail; rows that there was no room to remember */
	bool took_batch_ = false, healed_ = false;
	std::optional<PgError> problem_, latest_;
	SteadyTime locked_since_ = at_once;
	Backoff backoff_{USECS_PER_SEC / 10, 2 * USECS_PER_SEC};
	SteadyTime said_since_ = at_once; /* the minute of the said_ lines began then */
	int said_ = 0;
	int64 unsaid_ = 0;
};

template <typename Run, typename Look> Progress SetAside::step(int most, SteadyTime until, Run &&run, Look &&look) {
	problem_.reset();
	took_batch_ = false;
	store::Taken taken;
	for (const int64 id : to_try_again(steady_now())) {
		tried_again(id, run(store::Batch{1, {&id, 1}, {}}, taken));
		if (steady_now() >= until)
			break;
	}
	if (steady_now() < backoff_.not_before())
		return Progress::failed;
	if (pending_.empty()) {
		const std::vector<int64> except = all();
		const store::Batch rows{most, {}, except};
		const std::optional<PgError> error = run(rows, taken);
		if (!error) {
			took_batch_ = true;
			if (taken.taken > 0)
				succeeded();
			backoff_.succeeded();
			return taken.looked_at >= most ? Progress::more : Progress::done;
		}
		if (!may_be_of_row(*error))
			return fail(error);
		std::vector<int64> ids;
		/* Look at more rows than were taken: a problem that all of these have may not be one of the others. */
		if (const std::optional<PgError> blind = look(store::Batch{rows_in_parts, {}, except}, ids))
			return fail(blind);
		if (ids.empty())
			return fail(error);
		latest_ = error;
		divide(std::move(ids));
	}
	while (!pending_.empty()) {
		const std::span<const int64> part = next_part();
		taken = {};
		const std::optional<PgError> error = run(store::Batch{static_cast<int>(part.size()), part, {}}, taken);
		if (!judge(taken.taken, error))
			return fail(error);
		if (!pending_.empty() && steady_now() >= until)
			return Progress::more;
	}
	return end_parts();
}

/*
 * A step in the transaction of the caller. run(batch) takes rows and returns how many (Taken), look(batch) finds which
 * rows these are. Throws errors whose cause is not in a row. In a Session.
 */
template <typename Run, typename Look>
Progress step_in_subtransaction(SetAside &aside, int most, Run &&run, Look &&look) {
	constexpr int64 longest_us = 100 * USECS_PER_SEC / 1000;
	const Oid owner = GetUserId();
	const auto attempt = [owner](auto &&fn) -> std::optional<PgError> {
		std::exception_ptr problem;
		try {
			in_subtransaction([&] {
				const Session session(owner);
				fn();
			});
			return std::nullopt;
		} catch (...) {
			problem = std::current_exception();
		}
		return as_pg_error(problem);
	};
	const Progress progress = aside.step(
		most, steady_now() + longest_us,
		[&](const store::Batch &rows, store::Taken &taken) { return attempt([&] { taken = run(rows); }); },
		[&](const store::Batch &rows, std::vector<int64> &ids) { return attempt([&] { ids = look(rows); }); });
	if (aside.problem())
		throw PgError(*aside.problem());
	return progress;
}

/*
 * A step of a pass, page by page: look(cursor, batch) returns the next page, take(ids) takes its rows and returns how
 * many. step(run, look) runs them, in a transaction or subtransaction of its own. After the last page the next pass
 * begins.
 */
template <typename Look, typename Take, typename Step>
Progress step_of_pass(const SetAside &aside, store::Cursor &cursor, Look &&look, Take &&take, Step &&step) {
	store::Place last;
	const Progress progress = step(
		[&](const store::Batch &rows) -> store::Taken {
			const store::Page page = store::page_for(rows, cursor, look);
			last = page.last;
			return {static_cast<int64>(page.ids.size()), take(page.ids)};
		},
		[&](const store::Batch &rows) { return look(cursor, rows).ids; });
	if (aside.took_batch()) {
		if (progress == Progress::more)
			cursor.move_to(last);
		else
			cursor = {};
	}
	return progress;
}

} // namespace jobqueue
