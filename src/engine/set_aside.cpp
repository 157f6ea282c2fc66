/*
 * set_aside.cpp -- see set_aside.hpp. C++ region.
 */
#include "engine/set_aside.hpp"

#include "engine/store/bounds.hpp"

extern "C" {
#include "common/pg_prng.h"
}

namespace jobqueue {

static constexpr size_t most_rows = 1000;
static constexpr int64 shortest_delay_us = USECS_PER_SEC;
static constexpr int64 longest_delay_us = USECS_PER_MINUTE;
static constexpr size_t tried_again_at_once = 10;
/*
 * After "patience" failures in a row, "probes" rows from different places are tried; if all fail, no row is the cause.
 */
static constexpr int patience = 10;
static constexpr int probes = 6;
/* A lock is usually released soon. If it lasts longer than this, the cause is taken to be the row. */
static constexpr int64 locked_for_long_us = 10 * USECS_PER_SEC;
static constexpr int most_said = 10;
static constexpr size_t longest_message = 1000;

std::vector<int64> SetAside::all() const {
	std::vector<int64> ids;
	ids.reserve(rows_.size());
	for (const auto &[id, row] : rows_)
		ids.push_back(id);
	return ids;
}

SteadyTime SetAside::next_time() const noexcept {
	SteadyTime next = pending_.empty() ? never : backoff_.not_before();
	for (const auto &[id, row] : rows_)
		next = std::min(next, row.again_at);
	return next;
}

bool SetAside::passes_over(int64 id, SteadyTime now) const {
	const auto row = rows_.find(id);
	return row != rows_.end() && now < row->second.again_at;
}

std::vector<int64> SetAside::to_try_again(SteadyTime now) const {
	std::vector<int64> ids;
	for (const auto &[id, row] : rows_)
		if (row.again_at <= now && ids.size() < tried_again_at_once)
			ids.push_back(id);
	return ids;
}

void SetAside::tried_again(int64 id, const std::optional<PgError> &error) {
	if (error)
		keep(id, *error);
	else
		remove(id);
}

/* The cause may be gone for other rows, too, so they are tried again earlier. */
void SetAside::remove(int64 id) {
	if (rows_.erase(id) == 0)
		return;
	healed_ = true;
	const SteadyTime now = steady_now();
	for (auto &[other, row] : rows_)
		row.again_at = std::min(row.again_at, now + row.delay_us / 2);
}

void SetAside::went(int64 id) {
	succeeded();
	remove(id);
}

bool SetAside::failed(int64 id, const PgError &error) {
	if (!may_be_of_row(error))
		return false;
	if (!rows_.contains(id) && ++failed_in_a_row_ > patience + probes) {
		forget_unsure();
		return false;
	}
	keep(id, error);
	return true;
}

/* Can the cause be in the row? Not if a lock is held for a while, the disk is full, or this process must end. */
bool SetAside::may_be_of_row(const PgError &error) {
	const SteadyTime now = steady_now();
	switch (error.sqlerrcode()) {
	case ERRCODE_LOCK_NOT_AVAILABLE:
		if (locked_since_ == at_once)
			locked_since_ = now;
		return now - locked_since_ > locked_for_long_us;
	case ERRCODE_DISK_FULL:
	case ERRCODE_TOO_MANY_CONNECTIONS:
	case ERRCODE_CONFIGURATION_LIMIT_EXCEEDED:
		return false;
	default:
		break;
	}
	switch (ERRCODE_TO_CATEGORY(error.sqlerrcode())) {
	case ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION):
	case ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK):
	case ERRCODE_TO_CATEGORY(ERRCODE_INVALID_TRANSACTION_STATE): /* read-only, for instance */
		return false;
	default:
		return true;
	}
}

void SetAside::succeeded() {
	failed_in_a_row_ = 0;
	locked_since_ = at_once;
	be_sure();
}

void SetAside::divide(std::vector<int64> ids) {
	std::reverse(ids.begin(), ids.end());
	pending_ = std::move(ids);
	part_ = std::max<size_t>(pending_.size() / 2, 1);
	if (failed_in_a_row_ >= patience) /* the chore has failed as a whole */
		part_ = 1;
	taken_in_parts_ = 0;
	found_ = lost_ = false;
}

std::span<const int64> SetAside::next_part() {
	part_ = std::clamp<size_t>(part_, 1, pending_.size());
	if (failed_in_a_row_ >= patience) {
		const double place = pg_prng_double(&pg_global_prng_state) * static_cast<double>(pending_.size());
		std::swap(pending_.back(), pending_[std::min(static_cast<size_t>(place), pending_.size() - 1)]);
	}
	return std::span<const int64>(pending_).last(part_);
}

bool SetAside::judge(int64 count, const std::optional<PgError> &error) {
	if (!error) {
		taken_in_parts_ += count;
		pending_.resize(pending_.size() - part_);
		part_ *= 2;
		if (count > 0)
			succeeded();
		return true;
	}
	if (!may_be_of_row(*error))
		return false;
	latest_ = error;
	if (part_ > 1) {
		part_ /= 2;
		return true;
	}
	if (++failed_in_a_row_ > patience + probes)
		return false;
	const int64 id = pending_.back();
	pending_.pop_back();
	found_ = true;
	keep(id, *error);
	return true;
}

/* The cause is in no row: the rows that were only suspected are forgotten. */
void SetAside::forget_unsure() {
	std::erase_if(rows_, [](const auto &row) { return !row.second.is_sure; });
	failed_in_a_row_ = std::min(failed_in_a_row_, patience);
}

Progress SetAside::fail(const std::optional<PgError> &error) {
	pending_.clear();
	forget_unsure();
	problem_ = error;
	backoff_.failed(steady_now());
	return Progress::failed;
}

/* All rows of the batch have been dealt with. */
Progress SetAside::end_parts() {
	be_sure();
	/* If there are too many rows to remember, the rest of the batch goes through; but the same rows come again. */
	if (lost_ || (!found_ && taken_in_parts_ == 0))
		return fail(latest_);
	backoff_.succeeded();
	return Progress::more;
}

void SetAside::keep(int64 id, const PgError &error) {
	auto row = rows_.find(id);
	if (row == rows_.end()) {
		if (rows_.size() >= most_rows) {
			lost_ = true;
			return;
		}
		row = rows_.emplace(id, Row{}).first;
		row->second.code = error.sqlerrcode();
		row->second.message = bounds::cut(error.what(), longest_message);
	}
	row->second.delay_us = std::clamp(row->second.delay_us * 2, shortest_delay_us, longest_delay_us);
	row->second.again_at = steady_now() + row->second.delay_us;
}

void SetAside::be_sure() {
	for (auto &[id, row] : rows_)
		if (!std::exchange(row.is_sure, true)) {
			say(id, row);
			row.message = {};
		}
}

/* Messages that are too many for the log are counted. */
void SetAside::say(int64 id, const Row &row) {
	const SteadyTime now = steady_now();
	if (said_since_ == at_once || now - said_since_ > USECS_PER_MINUTE) {
		said_since_ = now;
		said_ = 0;
	}
	if (said_ >= most_said) {
		unsaid_++;
		return;
	}
	said_++;
	const int64 others = std::exchange(unsaid_, 0);
	const char *const what = what_;
	const Row *const said = &row;
	guard([what, id, others, said] {
		/* Without a scheduler, a session that claims does this for others: its client is not warned. */
		ereport(MyBgworkerEntry != nullptr ? WARNING : LOG,
				(errcode(said->code),
				 errmsg("jobqueue could not %s task " INT64_FORMAT ": %s", what, id, said->message.c_str()),
				 errdetail("It is skipped, and tried again from time to time. Other tasks go on."),
				 others > 0 ? errhint("There were " INT64_FORMAT " more since the last such message.", others) : 0));
	});
}

} // namespace jobqueue
