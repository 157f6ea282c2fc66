/*
 * scope.cpp -- see scope.hpp. C++ region.
 */
#include "engine/scope.hpp"

namespace jobqueue {

Scope scope_of_types(std::vector<std::string> types) {
	std::sort(types.begin(), types.end());
	Scope scope;
	scope.types = 0;
	for (const std::string &type : types)
		scope.types |= type_mask(hash_name(type));
	scope.filter.types = std::move(types);
	return scope;
}

Scope scope_of_handlers(std::span<const store::Handler> handlers, Queues allowed) {
	std::vector<std::string> types, elsewhere;
	for (const store::Handler &handler : handlers) {
		types.push_back(handler.type);
		if (!handler.bound_by_access)
			elsewhere.push_back(handler.type);
	}
	std::sort(elsewhere.begin(), elsewhere.end());
	const bool limited = elsewhere.size() < types.size();
	Scope scope = scope_of_types(std::move(types));
	scope.role = handlers.empty() ? InvalidOid : handlers[0].role;
	scope.by_handler = true;
	if (limited)
		limit_scope(scope, std::move(allowed), std::move(elsewhere));
	return scope;
}

void limit_scope(Scope &scope, Queues allowed, std::vector<std::string> elsewhere) {
	if (allowed.all)
		return;
	scope.queues = std::move(allowed);
	scope.elsewhere.types = std::move(elsewhere);
}

/* Takes a type out of a filter; false if that did not let it through. */
static bool exclude(store::TypeFilter &filter, const std::string &type) {
	if (!store::wants(filter, type, false))
		return false;
	const auto found = std::lower_bound(filter.types.begin(), filter.types.end(), type);
	if (filter.others)
		filter.types.insert(found, type);
	else
		filter.types.erase(found);
	return true;
}

void leave_to_handlers(Scope &scope, const std::string &queue, std::span<const std::string> types) {
	store::TypeFilter filter = scope.filter_for(queue);
	bool any = false;
	for (const std::string &type : types)
		any |= exclude(filter, type);
	if (any)
		scope.special[queue] = std::move(filter);
}

/* Of a type that is under limits in one queue only. */
static void separate_in(Scope &scope, const std::string &type, const std::string &queue) {
	store::TypeFilter filter = scope.filter_for(queue);
	if (!exclude(filter, type))
		return;
	Scope limited;
	limited.is_limited = true;
	limited.types = type_mask(hash_name(type));
	limited.role = scope.role;
	limited.by_handler = scope.by_handler;
	limited.queues = {false, false};
	store::TypeFilter &only = limited.special[queue];
	only.dead_letters = filter.dead_letters && !filter.others;
	only.types.push_back(type);
	scope.special[queue] = std::move(filter);
	scope.limited.push_back(std::move(limited));
}

namespace {

/* The key of what a scope takes: another one for anything else. */
class ScopeKey {
public:
	explicit ScopeKey(uint64 key) noexcept : key_(key) {}
	uint64 get() const noexcept { return key_; }

	void add(const Scope &scope) noexcept {
		add(scope.filter);
		add(scope.elsewhere);
		if (!scope.queues.all)
			add("queues", scope.queues.names);
		for (const auto &[queue, filter] : scope.special) {
			add("in", {&queue, 1});
			add(filter);
		}
	}

private:
	void add(const store::TypeFilter &filter) noexcept {
		add(filter.others ? "all but" : "types", filter.types);
		if (filter.dead_letters)
			add("dead letters", {});
	}
	void add(std::string_view what, std::span<const std::string> names) noexcept {
		key_ = hash_name(what, key_);
		for (const std::string &name : names)
			key_ = hash_name(name, hash_name({"\0", 1}, key_)); /* which no name begins with */
	}

	uint64 key_;
};

} // namespace

static void set_keys(Scope &scope) noexcept {
	ScopeKey whole(0);
	whole.add(scope);
	scope.key = whole.get();
	for (Scope &limited : scope.limited) {
		ScopeKey part(scope.key);
		part.add(limited);
		limited.key = part.get();
	}
}

void separate_limited(Scope &scope, const Throttling &throttling, const std::optional<std::string> &queue) {
	for (const TypeThrottling &type : throttling.types()) {
		if (!type.rule.is_limit() || (queue && !scope.by_handler && !type.has_say_in(*queue)))
			continue;
		if (type.only_in && !scope.by_handler) {
			separate_in(scope, type.type, *type.only_in);
			continue;
		}
		Scope limited;
		limited.is_limited = true;
		limited.by_handler = scope.by_handler;
		limited.types = type_mask(hash_name(type.type));
		limited.role = scope.role;
		limited.queues = scope.queues;
		limited.filter.dead_letters = scope.filter.dead_letters && !scope.filter.others;
		const bool here = exclude(scope.filter, type.type);
		const bool there = exclude(scope.elsewhere, type.type);
		if (here)
			limited.filter.types.push_back(type.type);
		if (there)
			limited.elsewhere.types.push_back(type.type);
		for (auto &[name, filter] : scope.special)
			exclude(filter, type.type);
		if (!here && !there)
			continue;
		scope.limited.push_back(std::move(limited));
	}
	set_keys(scope);
}

store::TypeFilter Scope::whole_filter_for(std::string_view queue) const {
	store::TypeFilter whole = filter_for(queue);
	for (const Scope &one : limited)
		for (const std::string &type : one.filter_for(queue).types) {
			const auto found = std::lower_bound(whole.types.begin(), whole.types.end(), type);
			const bool there = found != whole.types.end() && *found == type;
			if (whole.others && there)
				whole.types.erase(found);
			else if (!whole.others && !there)
				whole.types.insert(found, type);
		}
	return whole;
}

/* Every type without a handler: another set whenever the configuration changes. */
static Scope scope_of_unhandled(std::vector<std::string> handled_types) {
	Scope scope = scope_of_types(std::move(handled_types));
	scope.types = ~0ULL;
	scope.filter.others = true;
	return scope;
}

Scope scope_of_claim(const std::optional<std::vector<std::string>> &types, const std::optional<std::string> &queue,
					 Queues allowed, const Conditions &conditions, std::span<const store::HandledType> handled_types) {
	Scope scope;
	/* By queue: types whose handlers have a say there only. */
	std::map<std::string, std::vector<std::string>> left_to_handlers;
	if (types) {
		scope = scope_of_types(*types);
	} else if (queue && conditions.is_for_dead_letters(*queue)) {
		scope = scope_of_unhandled({}); /* no handler serves it */
	} else {
		std::vector<std::string> handled;
		for (const store::HandledType &one : handled_types)
			if (one.is_served && (!one.bound_by_access || (queue && one.queue == *queue)))
				handled.push_back(one.type);
			else if (one.is_served && !queue)
				left_to_handlers[one.queue].push_back(one.type);
		scope = scope_of_unhandled(std::move(handled));
	}
	scope.filter.dead_letters = queue.has_value(); /* they are for those who ask for their queue */
	limit_scope(scope, std::move(allowed));
	for (const auto &[name, kept] : left_to_handlers)
		leave_to_handlers(scope, name, kept);
	separate_limited(scope, conditions.throttling, queue);
	return scope;
}

} // namespace jobqueue
