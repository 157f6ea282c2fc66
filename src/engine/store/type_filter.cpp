/*
 * type_filter.cpp -- see type_filter.hpp. C++ region.
 */
#include "engine/store/type_filter.hpp"

#include "pg/guard.hpp"

namespace jobqueue::store {

static constinit const TypeFilter *wanted = nullptr;

FilterInForce::FilterInForce(const TypeFilter &filter) noexcept {
	wanted = &filter;
}

FilterInForce::~FilterInForce() {
	wanted = nullptr;
}

bool wants(const TypeFilter &filter, std::string_view type, bool dead_letter) {
	if (filter.others && is_sql_type(type))
		return false; /* even without a handler, the type is nobody else's */
	if (dead_letter && (!filter.dead_letters || filter.others))
		return filter.dead_letters;
	return std::binary_search(filter.types.begin(), filter.types.end(), type, std::less<>()) != filter.others;
}

bool is_wanted(std::string_view type, bool dead_letter) {
	if (wanted == nullptr)
		throw Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
					"this function can only be used in statements of the extension");
	return wants(*wanted, type, dead_letter);
}

} // namespace jobqueue::store
