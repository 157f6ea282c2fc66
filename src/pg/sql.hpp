/*
 * sql.hpp -- the text of statements, put together while compiling. Safe in any region.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

/* A text of at most "size" characters, terminated by a zero. Made by sql(). */
template <size_t size> struct SqlText {
	char text[size + 1] = {};
	size_t length = 0;
};

template <size_t size> constexpr std::string_view view_of(const char (&literal)[size]) {
	return {literal, size - 1};
}
template <size_t size> constexpr std::string_view view_of(const SqlText<size> &sql) {
	return {sql.text, sql.length};
}

/* The most characters that a text of this type can have. */
template <typename Text> inline constexpr size_t size_of = 0;
template <size_t size> inline constexpr size_t size_of<char[size]> = size - 1;
template <size_t size> inline constexpr size_t size_of<SqlText<size>> = size;

/*
 * The pattern, in which each {name} is replaced by the next of the parts, as std::format() does it with {}. The names
 * are for the reader. Braces without a name between them stay: '{}' is an empty array.
 */
template <size_t size, typename... Parts> constexpr auto sql(const char (&pattern)[size], const Parts &...parts) {
	constexpr auto is_in_name = [](char c) { return c == '_' || (c >= 'a' && c <= 'z'); };
	const std::string_view texts[] = {view_of(parts)..., {}};
	size_t used = 0;
	SqlText<((size - 1) + ... + size_of<Parts>)> result;
	for (size_t i = 0; i < size - 1; i++) {
		size_t end = i + 1;
		while (pattern[i] == '{' && is_in_name(pattern[end]))
			end++;
		if (pattern[i] != '{' || end == i + 1 || pattern[end] != '}') {
			result.text[result.length++] = pattern[i];
			continue;
		}
		if (used == sizeof...(parts))
			throw "the pattern has more names than there are parts";
		for (const char c : texts[used++])
			result.text[result.length++] = c;
		i = end;
	}
	if (used < sizeof...(parts))
		throw "there are more parts than names in the pattern";
	return result;
}

} // namespace jobqueue
