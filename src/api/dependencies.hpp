/*
 * dependencies.hpp -- the arguments of enqueueing functions about tasks that run after others. C++ region.
 */
#pragma once

#include "api/arguments.hpp"
#include "engine/store/adding.hpp"

namespace jobqueue {

/* The arguments after and on_parent_failure of a call. */
class ParentArguments {
public:
	/*
	 * Throws 22004 if there are nulls; 22023 if a parent has never existed, or the policy is unknown; 42501 if the
	 * caller has no right to a parent. Must be called outside of any Session.
	 */
	ParentArguments(FunctionCallInfo fcinfo, int after, int on_parent_failure);
	bool any() const noexcept { return !parents_.empty(); }
	/* Makes these tasks, which are blocked, wait for the parents. Does nothing if there are no parents. */
	void add(Oid owner, std::span<const store::Added> tasks) const;

private:
	std::vector<int64> parents_; /* sorted */
	const char *policy_;
};

} // namespace jobqueue
