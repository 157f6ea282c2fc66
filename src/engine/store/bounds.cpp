/*
 * bounds.cpp -- see bounds.hpp. C++ region.
 */
#include "engine/store/bounds.hpp"

extern "C" {
#include "access/detoast.h"
}

namespace jobqueue::bounds {

std::string cut(std::string_view text, size_t most) {
	if (text.size() <= most)
		return std::string(text);
	const auto limit = static_cast<int>(most - strlen(mark));
	/* No character is longer than this, so the rest of the text need not be looked at. */
	const auto length = static_cast<int>(std::min(text.size(), most + MAX_MULTIBYTE_CHAR_LEN));
	const int whole = guard([text, length, limit] { return pg_mbcliplen(text.data(), length, limit); });
	return std::string(text.substr(0, static_cast<size_t>(whole))) + mark;
}

size_t size_of(Datum value) noexcept {
	return toast_raw_datum_size(value) - VARHDRSZ;
}

void check(std::string_view what, size_t size, size_t most) {
	if (size > most)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
					std::string(what) + " must have at most " + std::to_string(most) + " bytes",
					"It has " + std::to_string(size) + " bytes. Put long data into the payload.");
}

} // namespace jobqueue::bounds
