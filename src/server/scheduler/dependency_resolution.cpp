/*
 * dependency_resolution.cpp -- see dependency_resolution.hpp. C++ region.
 */
#include "server/scheduler/dependency_resolution.hpp"

#include "engine/dependency_resolution.hpp"
#include "shared/databases.hpp"

namespace jobqueue::scheduler {

static constexpr int64 locked_again_us = 50 * USECS_PER_SEC / 1000;
static constexpr int64 narrow_after_us = 100 * USECS_PER_SEC / 1000;
static constexpr int64 active_us = 100 * USECS_PER_SEC / 1000;

void DependencyResolution::take_up(const IdRanges &ids) {
	ended_.add(ids);
	child_ = -1;
	ask();
}

void DependencyResolution::look_for_news() {
	const IdRanges news = take_ended(db_.slot);
	if (news.empty())
		return;
	take_up(news);
	ended_at_ = steady_now();
}

void DependencyResolution::look_at_all() {
	ended_.set_all();
	child_ = -1;
	ask();
}

bool DependencyResolution::is_active() const noexcept {
	return steady_now() - ended_at_ < active_us;
}

Progress DependencyResolution::step() {
	const SteadyTime began = steady_now();
	if (began >= locked_again_at_) {
		locked_again_at_ = never;
		take_up(std::exchange(locked_, {}));
	}
	const Progress progress = resolve(began);
	if (aside_.take_healed()) /* its parents may have been passed over */
		look_at_all();
	if (progress == Progress::failed)
		return progress;
	if (ended_.empty() && steady_now() >= narrow_at_) {
		narrow_at_ = never;
		db_.attempt("look for tasks that others wait for", [this] { narrow_parent_bounds(db_.slot); });
	}
	return ended_.empty() ? Progress::done : Progress::more;
}

/* Resolves what has ended; only a part if there is much. */
Progress DependencyResolution::resolve(SteadyTime began) {
	while ((!ended_.empty() || aside_.next_time() <= steady_now()) && steady_now() - began < step_us) {
		const IdRange ids = ended_.empty() ? IdRange{} : ended_.front();
		const int64 child = ids.low == parent_ ? child_ : -1;
		Pass pass;
		IdRanges locked;
		bool any = false;
		const Progress progress = batch_step(
			[&](const store::Batch &rows) {
				const Pass some = rows.only.empty() ? resolve_some(ids, child, rows.except) : resolve_these(rows.only);
				any |= some.any;
				locked.add(some.again);
				if (rows.only.empty())
					pass = some;
				return some.count;
			},
			[&](const store::Batch &rows) { return children_to_resolve(ids, child, rows.except); });
		if (any) {
			db_.busy_at = began;
			narrow_at_ = std::min(narrow_at_, began + narrow_after_us);
		}
		if (!locked.empty()) {
			locked_.add(locked);
			locked_again_at_ = std::min(locked_again_at_, began + locked_again_us);
		}
		if (progress == Progress::failed) {
			locked_.add(std::exchange(ended_, {}));
			locked_again_at_ = at_once; /* when the chore is tried again */
			return progress;
		}
		if (!aside_.took_batch() || ended_.empty())
			continue;
		if (pass.done)
			ended_.remove_front();
		else
			ended_.remove_below(pass.parent);
		parent_ = pass.parent;
		child_ = pass.child;
	}
	return Progress::done;
}

Unfinished DependencyResolution::unfinished() const noexcept {
	return ended_.empty() && locked_.empty() ? BatchChore::unfinished() : Unfinished::urgent;
}

void DependencyResolution::leave() noexcept {
	ended_.add(locked_);
	add_ended(db_.slot, ended_);
}

Progress DependencySweep::step() {
	const SteadyTime began = steady_now();
	if (!swept_) {
		resolution_.look_at_all();
		swept_ = -1;
		return Progress::more;
	}
	const Progress progress = sweep();
	pass_.worked_since(began);
	if (progress != Progress::done)
		return progress;
	swept_.reset();
	pass_.end();
	resolution_.narrow_bounds();
	return progress;
}

Progress DependencySweep::sweep() {
	Swept swept;
	const Progress progress = batch_step(
		[&](const store::Batch &rows) {
			swept = sweep_dependents(*swept_, rows);
			return swept.count;
		},
		[this](const store::Batch &rows) { return dependents_after(*swept_, rows); });
	if (progress == Progress::failed)
		return progress;
	if (aside_.took_batch())
		swept_ = swept.last;
	if (progress == Progress::more)
		return progress;
	return db_.attempt("remove the results that nobody needs", [this] { sweep_parents(db_.slot); }) ? Progress::done
																									: Progress::failed;
}

} // namespace jobqueue::scheduler
