/*
 * arrays.hpp -- arrays as arguments of statements. C++ region; needs a Session, in whose memory they are.
 */
#pragma once

#include "pg/session.hpp"

namespace jobqueue::store {

/* An array of one value of each element; value(element, &isnull). */
template <typename Element, typename Value>
Datum array_of(std::span<const Element> elements, Oid type, int16 length, bool by_value, char alignment,
			   Value &&value) {
	return guard([&] {
		auto *values = static_cast<Datum *>(palloc(sizeof(Datum) * (elements.size() + 1)));
		auto *nulls = static_cast<bool *>(palloc0(elements.size() + 1));
		for (size_t i = 0; i < elements.size(); i++)
			values[i] = value(elements[i], &nulls[i]);
		if (elements.empty())
			return PointerGetDatum(construct_empty_array(type));
		int dimensions[1] = {static_cast<int>(elements.size())}, lower[1] = {1};
		return PointerGetDatum(
			construct_md_array(values, nulls, 1, dimensions, lower, type, length, by_value, alignment));
	});
}

/* C region. */
inline Datum text_datum(std::string_view value) {
	return PointerGetDatum(cstring_to_text_with_len(value.data(), static_cast<int>(value.size())));
}

template <typename Element, typename Value> Datum texts_of(std::span<const Element> elements, Value &&value) {
	return array_of(elements, TEXTOID, -1, false, TYPALIGN_INT, [&value](const Element &element, bool *isnull) {
		const std::optional<std::string_view> given = value(element);
		*isnull = !given;
		return given ? text_datum(*given) : Datum(0);
	});
}

template <typename Element, typename Value> Datum ids_of(std::span<const Element> elements, Value &&value) {
	return array_of(elements, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
					[&value](const Element &element, bool *) { return Int64GetDatum(value(element)); });
}

template <typename Task> static Datum places_of(std::span<const Task> tasks) {
	return guard([tasks] {
		auto *elements = static_cast<Datum *>(palloc(sizeof(Datum) * tasks.size()));
		for (size_t i = 0; i < tasks.size(); i++)
			elements[i] = PointerGetDatum(&tasks[i].tid);
		return PointerGetDatum(construct_array(elements, static_cast<int>(tasks.size()), TIDOID,
											   sizeof(ItemPointerData), false, TYPALIGN_SHORT));
	});
}

} // namespace jobqueue::store
